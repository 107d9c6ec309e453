"""What `report --by` groups rows by: a name -> the columns it needs, and a key for each row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.errors import UsageError

_EXTRA = "extra."


@dataclass(frozen=True, slots=True)
class Key:
    """One thing to group by.

    name: as the user gave it. columns: of the dataset, that it needs. of: a table with them -> one text a row, null
    where the row has none.
    """

    name: str
    columns: tuple[str, ...]
    of: Callable[[pa.Table], pa.ChunkedArray]


def _model(table: pa.Table) -> pa.ChunkedArray:
    """The model that the answer names; the requested one where there is no answer, or it names none."""
    return pc.coalesce(table["model"], table["model_requested"])


def _folder(table: pa.Table) -> pa.ChunkedArray:
    """The folder of the row's first image as the manifest gives it; "." where it has none."""
    images = pc.if_else(pc.greater(pc.list_value_length(table["image"]), 0), table["image"], None)
    folder = pc.replace_substring_regex(pc.list_element(images, 0), r"/?[^/]*$", "")
    return pc.if_else(pc.equal(folder, ""), ".", folder)


def _day(table: pa.Table) -> pa.ChunkedArray:
    """The day on which the row ended, UTC."""
    return pc.strftime(table["finished_at"], format="%Y-%m-%d")


def _plain(name: str) -> Callable[[pa.Table], pa.ChunkedArray]:
    return lambda table: _texts(table[name])


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string()) if pa.types.is_dictionary(column.type) else column


def _extra(column: str) -> Callable[[pa.Table], pa.ChunkedArray]:
    def of(table: pa.Table) -> pa.ChunkedArray:
        encoded = _texts(table["extra"]).combine_chunks().dictionary_encode()
        values = [_member(text, column) for text in encoded.dictionary.to_pylist()]
        return pa.chunked_array([pc.take(pa.array(values, pa.string()), encoded.indices)])

    return of


def _member(text: str | None, column: str) -> str | None:
    value = json.loads(text).get(column) if text else None
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_KEYS = {
    "model": Key("model", ("model", "model_requested"), _model),
    "folder": Key("folder", ("image",), _folder),
    "day": Key("day", ("finished_at",), _day),
} | {
    name: Key(name, (name,), _plain(name))
    for name in ("prompt", "finish_reason", "finish", "error_kind", "endpoint", "status")
}


def keys(names: Sequence[str]) -> list[Key]:
    """The keys of these names, as in `--by`. Raises UsageError for an unknown name."""
    found = []
    for name in names:
        if name.startswith(_EXTRA) and len(name) > len(_EXTRA):
            found.append(Key(name, ("extra",), _extra(name.removeprefix(_EXTRA))))
        elif name in _KEYS:
            found.append(_KEYS[name])
        else:
            raise UsageError(f"--by {name}: one of {', '.join(_KEYS)}, extra.COLUMN is needed")
    return found
