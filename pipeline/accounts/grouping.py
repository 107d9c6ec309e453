"""What `report --by` groups rows by: a name -> the columns it needs, and a key for each row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.errors import UsageError

_EXTRA = "extra."


@dataclass(frozen=True, slots=True)
class Key:
    """A column to group by.

    name: as the user gave it, and of the column. columns: of the dataset, that it needs.
    """

    name: str
    columns: tuple[str, ...]

    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """One text a row, null where the row has none. table: with the columns."""
        return _texts(table[self.name])


class _Model(Key):
    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """The model that the answer names; the requested one where there is no answer, or it names none."""
        return pc.coalesce(table["model"], table["model_requested"])


class _Folder(Key):
    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """The folder of the row's first image as the manifest gives it; "." where it has none."""
        images = pc.if_else(pc.greater(pc.list_value_length(table["image"]), 0), table["image"], None)
        folder = pc.replace_substring_regex(pc.list_element(images, 0), r"/?[^/]*$", "")
        return pc.if_else(pc.equal(folder, ""), ".", folder)


class _Day(Key):
    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """The day on which the row ended, UTC."""
        return pc.strftime(table["finished_at"], format="%Y-%m-%d")


class _Extra(Key):
    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """A column of the manifest."""
        encoded = _texts(table["extra"]).combine_chunks().dictionary_encode()
        column = self.name.removeprefix(_EXTRA)
        values = [_member(text, column) for text in encoded.dictionary.to_pylist()]
        return pa.chunked_array([pc.take(pa.array(values, pa.string()), encoded.indices)])


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string()) if pa.types.is_dictionary(column.type) else column


def _member(text: str | None, column: str) -> str | None:
    value = json.loads(text).get(column) if text else None
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_KEYS: dict[str, Key] = {
    "model": _Model("model", ("model", "model_requested")),
    "folder": _Folder("folder", ("image",)),
    "day": _Day("day", ("finished_at",)),
} | {
    name: Key(name, (name,))
    for name in ("prompt", "finish_reason", "finish", "error_kind", "endpoint", "status")
}


def keys(names: Sequence[str]) -> list[Key]:
    """The keys of these names, as in `--by`. Raises UsageError for an unknown name."""
    found: list[Key] = []
    for name in names:
        if name.startswith(_EXTRA) and len(name) > len(_EXTRA):
            found.append(_Extra(name, ("extra",)))
        elif name in _KEYS:
            found.append(_KEYS[name])
        else:
            raise UsageError(f"--by {name}: one of {', '.join(_KEYS)}, extra.COLUMN is needed")
    return found
