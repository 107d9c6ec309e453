"""Folder, CSV, JSONL or Parquet -> Rows, lazily. A manifest is never loaded whole.

A source is read twice: `survey` checks every row before anything is sent (a broken line 90,000
should not surface at night) and keeps 8 bytes a row to find ids that stand twice; `rows` then
reads again, row by row, as fast as the run needs them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import UsageError
from ..nouns.rows import Row
from ..pictures.header import PICTURE_EXTENSIONS

IMAGE_COLUMNS = ("image", "images", "file_name", "path")
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}|\{([A-Za-z_][\w.\- ]*)\}")
_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.I)
_NATURAL = re.compile(r"(\d+)")
_PARQUET_BATCH_ROWS = 4096
_SKIPPED_NAMES = 5


class Record(NamedTuple):
    """One raw line. where: "file:line", for messages."""

    where: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first reading of the whole manifest found.

    total: rows, each id once. repeated: further rows with the id and the content of an earlier one.
    skipped: files of a folder whose name is no picture's, and the first few of them. own_prompts: rows
    with a prompt of their own. fingerprint: of all ids and contents, in order. empty_columns: that the
    prompt asks for, and in how many rows nothing stands in them.
    """

    total: int
    repeated: int
    skipped: int
    skipped_names: tuple[str, ...]
    own_prompts: int
    fingerprint: str
    empty_columns: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Manifest:
    """A source of rows.

    source: a folder, or a .csv, .jsonl or .parquet file. prompt: the run's prompt, with {columns};
    a row's own `prompt` column wins over it. limit: None means all rows. allow_outside: relative paths
    may lead out of the file's folder. allow_remote: an image may be a URL.
    Raises UsageError where the source is not one of these.
    """

    source: Path
    prompt: str
    limit: int | None = None
    allow_outside: bool = False
    allow_remote: bool = False
    _repeated_ids: frozenset[str] = field(default=frozenset(), repr=False)
    _skipped: int = field(default=0, repr=False)
    _skipped_names: list[str] = field(default_factory=list, repr=False)
    _empty_columns: Counter[str] = field(default_factory=Counter, repr=False)
    _has_own_prompt: bool = field(default=False, repr=False)  # of the row read last

    def __post_init__(self) -> None:
        try:
            exists = self.source.exists()
        except OSError as error:  # a name that is too long, a link to itself
            raise UsageError(f"{self.source}: cannot be read ({error.strerror})") from error
        if not exists:
            raise UsageError(f"{self.source}: no such file or folder")
        if not self.source.is_dir() and self.source.suffix.lower() not in _READERS:
            raise UsageError(
                f"{self.source}: a manifest is a folder or one of {', '.join(_READERS)}"
                f" (this is {self.source.suffix or 'a file without extension'})"
            )

    def rows(self) -> Iterator[Row]:
        """All rows in order, an id only once. Raises UsageError that names file and line."""
        seen: set[str] = set()
        for row, _ in islice(self._located_rows(), self.limit):
            if row.id in self._repeated_ids:
                if row.id in seen:
                    continue
                seen.add(row.id)
            yield row

    def survey(self) -> Survey:
        """Read everything once. Raises UsageError for a broken line, no rows, or an id with two contents."""
        ids, fingerprint, own_prompts = array("Q"), hashlib.sha256(), 0
        self._empty_columns.clear()
        for row, _ in islice(self._located_rows(), self.limit):
            digest = _digest(row)
            fingerprint.update(digest)
            own_prompts += self._has_own_prompt
            ids.append(int.from_bytes(digest[:8], "little"))
        if not ids:
            found = f" ({self._skipped} other files)" if self._skipped else ""
            what = "pictures" if self.source.is_dir() else "rows"
            raise UsageError(f"{self.source}: no {what} in it{found}")
        empty_columns = dict(self._empty_columns)
        repeated = self._find_repeated(ids)
        return Survey(
            total=len(ids) - repeated,
            repeated=repeated,
            skipped=self._skipped,
            skipped_names=tuple(self._skipped_names),
            own_prompts=own_prompts,
            fingerprint=fingerprint.hexdigest(),
            empty_columns=empty_columns,
        )

    # ---- ids that stand twice

    def _find_repeated(self, ids: array[int]) -> int:
        suspects = _repeated_hashes(ids)
        if not suspects:
            return 0
        first: dict[str, tuple[bytes, str]] = {}
        conflicts: list[str] = []
        repeated: list[str] = []
        for row, where in islice(self._located_rows(), self.limit):
            digest = _digest(row)
            if int.from_bytes(digest[:8], "little") not in suspects:
                continue
            content, first_where = first.setdefault(row.id, (digest[8:], where))
            if first_where == where:
                continue
            repeated.append(row.id)
            if content != digest[8:]:
                conflicts.append(f"  {row.id!r} at {first_where} and {where}")
        if conflicts:
            more = f"\n  and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
            raise UsageError(
                f"{self.source}: {len(conflicts)} rows have an id that another row with different content"
                " has too; nothing was sent:\n" + "\n".join(conflicts[:5]) + more
                + "\ngive each row an `id` of its own"
            )  # fmt: skip
        self._repeated_ids = frozenset(repeated)
        return len(repeated)

    # ---- records -> rows

    def _located_rows(self) -> Iterator[tuple[Row, str]]:
        if self.source.is_dir():
            for record in self._walk_folder():
                yield self._row(record, self.source), record.where
            return
        folder = self.source.parent
        for record in _READERS[self.source.suffix.lower()](self.source):
            yield self._row(record, folder), record.where

    def _row(self, record: Record, folder: Path) -> Row:
        columns = record.columns
        image_column = next((c for c in IMAGE_COLUMNS if columns.get(c) not in (None, "", [])), None)
        if image_column is None:
            raise UsageError(_no_image(record))
        images = _image_list(columns[image_column], record.where)
        own_prompt = columns.get("prompt")
        if own_prompt is not None and not isinstance(own_prompt, str):
            raise UsageError(f"{record.where}: `prompt` must be text, not {own_prompt!r:.60}")
        self._has_own_prompt = bool(own_prompt)
        prompt = own_prompt or self._fill_prompt(record)
        extra = {k: v for k, v in columns.items() if k not in ("id", "prompt") and k != image_column}
        return Row(
            id=self._row_id(record, images, prompt),
            images=tuple(_printable(i) for i in images),
            paths=tuple(self._resolve(folder, i, record.where) for i in images),
            prompt=prompt,
            extra=json.dumps(extra, ensure_ascii=False, default=str) if extra else None,
        )

    def _resolve(self, folder: Path, image: str, where: str) -> str:
        """Where the picture lies. An absolute path stands there on purpose; one with .. may be anybody's."""
        if image.lower().startswith(("http://", "https://")):
            if not self.allow_remote:
                raise UsageError(
                    f"{where}: {image:.200} is a URL; --allow-remote fetches such pictures, or download them first"
                )
            return image
        if _SCHEME.match(image):
            raise UsageError(f"{where}: {image[:60]}...: an image is a path or an http(s) URL")
        if ".." in image and not self.allow_outside:
            image = os.path.normpath(image)  # as it reads, not by way of a link
            if image.split(os.sep, 1)[0] == "..":
                raise UsageError(
                    f"{where}: {_printable(image):.200} leads out of {folder.absolute()}; --allow-outside if that is meant, or"
                    " give an absolute path"
                )
        return os.path.join(folder, image)  # noqa: PTH118  an absolute path stays as it is

    def _row_id(self, record: Record, images: Sequence[str], prompt: str) -> str:
        columns = record.columns
        if "id" in columns:
            if columns["id"] in (None, ""):
                raise UsageError(f"{record.where}: the `id` is empty")
            identity = _printable(str(columns["id"]))
            if "\0" in identity:
                raise UsageError(f"{record.where}: the `id` holds a NUL character")
            return identity
        path = "|".join(_printable(i).replace(os.sep, "/") for i in images)
        differs = "prompt" in columns or any(m[2] in columns for m in _PLACEHOLDER.finditer(self.prompt))
        if not differs or self.source.is_dir():
            return path
        return f"{path}#{hashlib.sha256(prompt.encode('utf-8', 'replace')).hexdigest()[:8]}"

    def _fill_prompt(self, record: Record) -> str:
        if "{" not in self.prompt:
            return self.prompt

        def column(match: re.Match[str]) -> str:
            if match[2] is None:  # {{...}}: braces that are meant
                return "{" + match[1] + "}"
            if match[2] not in record.columns:
                raise UsageError(
                    f"{record.where}: the prompt asks for {{{match[2]}}}, but the columns are"
                    f" {', '.join(record.columns)} (write {{{{{match[2]}}}}} for the braces themselves)"
                )
            value = record.columns[match[2]]
            if value in (None, ""):
                self._empty_columns[match[2]] += 1
                return ""
            return str(value)

        return _PLACEHOLDER.sub(column, self.prompt)

    # ---- a folder

    def _walk_folder(self) -> Iterator[Record]:
        self._skipped = 0
        self._skipped_names = []
        yield from self._walk(str(self.source), "", ())

    def _walk(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Record]:
        try:
            info = os.stat(folder)  # noqa: PTH116  names may be undecodable; str paths throughout
            here = (info.st_dev, info.st_ino)
            if here in above:  # a link back up
                return
            entries = sorted(os.scandir(folder), key=lambda e: _natural_key(e.name))
        except OSError as error:
            raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
        if prefix and any(e.name == "journal.sqlite" for e in entries):  # the output of a run
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", (*above, here))
            elif os.path.splitext(entry.name)[1].lower() in PICTURE_EXTENSIONS:  # noqa: PTH122
                name = prefix + entry.name
                yield Record(entry.path, {"image": name})
            else:
                self._skipped += 1
                if len(self._skipped_names) < _SKIPPED_NAMES:
                    self._skipped_names.append(_printable(prefix + entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a link to itself too: that becomes one row, which fails."""
    try:
        return entry.is_dir()
    except OSError:
        return False


# ------------------------------------------------------------------------------- files


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file with their numbers. Raises UsageError that names the line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UsageError(f"{path}: this is UTF-16; save it as UTF-8")
                raw = raw.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901  the byte order mark
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1});"
                    " save the file as UTF-8"
                ) from error


def _read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**27)
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise UsageError(f"{path}: empty; the first line must name the columns")
        names = [name.strip() for name in header]
        _check_columns(path, names)
        image_columns = [name for name in names if name in IMAGE_COLUMNS]
        for fields in reader:
            if not fields:
                continue
            where = f"{path}:{reader.line_num}"
            if len(fields) > len(names):
                raise UsageError(
                    f"{where}: {len(fields)} fields, but the header names {len(names)} columns"
                    " (a comma in a text needs quotes around the text)"
                )
            columns: dict[str, Any] = dict(zip(names, fields, strict=False))
            for name in image_columns:
                if columns.get(name, "").startswith("["):
                    columns[name] = _json_list(columns[name])
            yield Record(where, columns)
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: broken CSV ({error})") from error


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: broken JSON ({error})") from error
        if not isinstance(columns, dict):
            raise UsageError(f"{where}: a line must be a JSON object, not {type(columns).__name__}")
        yield Record(where, columns)


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa  # noqa: PLC0415  only this kind of manifest needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}:row {number}", columns)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error})") from error
    except (
        ValueError,
        ArithmeticError,
        LookupError,
    ) as error:  # no UTF-8, a date after 9999, an unknown zone
        raise UsageError(f"{path}:row {number + 1} or later: a value cannot be read ({error})") from error


_READERS = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if not any(c in names for c in IMAGE_COLUMNS):
        raise UsageError(_no_column(str(path), names))
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UsageError(f"{path}: the column {', '.join(twice)} stands twice")


def _no_column(where: str, names: Sequence[str]) -> str:
    listed = ", ".join(names) or "none"
    return f"{where}: no image column; one of {', '.join(IMAGE_COLUMNS)} is needed, the columns are {listed}"


def _no_image(record: Record) -> str:
    if any(c in record.columns for c in IMAGE_COLUMNS):
        return f"{record.where}: the image is empty"
    return _no_column(record.where, list(record.columns))


# ------------------------------------------------------------------------------- small rules


def _image_list(value: Any, where: str) -> list[str]:
    """One path, or several."""
    images = value if isinstance(value, list) else [value]
    for image in images:
        if not isinstance(image, str) or not image:
            raise UsageError(f"{where}: an image is a path, not {image!r:.60}")
    return images


def _json_list(cell: str) -> Any:
    """A CSV cell has no lists but a JSON one; a path may begin with a bracket too."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell


def _printable(name: str) -> str:
    """Text that every file format takes: what UTF-8 cannot hold (a name in an unknown encoding) escaped."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """2.jpg before 10.jpg; capitals do not matter until all else is equal."""
    parts = _NATURAL.split(name.casefold())
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name


def _digest(row: Row) -> bytes:
    """16 bytes: 8 of the id, 8 of everything else."""
    rest = "\0".join((*row.images, row.prompt, row.extra or "")).encode("utf-8", "surrogatepass")
    return (
        hashlib.blake2b(row.id.encode(), digest_size=8).digest()
        + hashlib.blake2b(rest, digest_size=8).digest()
    )


def _repeated_hashes(hashes: array[int]) -> frozenset[int]:
    import numpy as np  # noqa: PLC0415  comes with pyarrow; not needed to read a manifest

    ordered = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
