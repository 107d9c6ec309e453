"""A source of rows, read lazily: a manifest is never loaded whole.

A source is read twice. `survey` checks every row before anything is sent (an error in line 90,000 must not
wait until line 90,000 is asked) and keeps 8 bytes a row to find duplicate ids; `rows` then reads again, row by
row, as fast as the run needs them. A new format is a new file with a reader and a line in `READERS`.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ..nouns.errors import UsageError
from ..nouns.image_path import is_remote
from ..nouns.rows import Row
from ..pictures.files import spelled_otherwise
from .csv_file import read_csv
from .folder import IMAGE_EXTENSIONS, LeftOut, read_folder
from .jsonl_file import read_json, read_jsonl
from .parquet_file import read_parquet, read_parquet_names
from .prompt import PromptTemplate
from .record import Reader, Record
from .rows import LocatedRow, RowBuilder
from .text import printable

READERS: dict[str, Reader] = {  # by lower-case extension
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
# where a format can leave out the pictures that stand in it
NAME_READERS: dict[str, Reader] = {".parquet": read_parquet_names}
_SKIPPED_NAMES = 5
_CONFLICTS_SHOWN = 5
_CHECKED_ROWS = 50  # whose images must not all be missing
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_ID_BYTES = 8  # of a digest: the id; the rest is everything else


class Names:
    """How many of something there were, and the first few names."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= _SKIPPED_NAMES:
            self.first.append(name)

    def __str__(self) -> str:
        """The names; three dots where there are more."""
        return ", ".join(self.first) + (", ..." if self.count > len(self.first) else "")


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first reading of the whole manifest found.

    total: rows, each id once. repeated: further rows with the id and the content of an earlier one.
    skipped: files of a folder that are not images by their extension, skipped_names: the first few of them.
    system_folders, unreadable_folders: left out of a folder, with the first few names (and reasons).
    own_prompts: rows whose `prompt` column is filled. fingerprint: of all ids and contents, in order.
    empty_columns: columns that the prompt asks for -> how many rows leave them empty.
    """

    total: int
    repeated: int
    skipped: int
    skipped_names: tuple[str, ...]
    own_prompts: int
    fingerprint: str
    empty_columns: Mapping[str, int] = field(default_factory=dict)
    system_folders: Names = field(default_factory=Names)
    unreadable_folders: Names = field(default_factory=Names)


@dataclass(slots=True)
class _Found:
    """What is left out of a folder while it is read."""

    files: Names = field(default_factory=Names)
    system_folders: Names = field(default_factory=Names)
    unreadable: Names = field(default_factory=Names)

    @property
    def ears(self) -> LeftOut:
        return LeftOut(self.files.add, self.system_folders.add, self.unreadable.add)


@dataclass(slots=True)
class Manifest:
    """A source of rows.

    source: a folder, or a file of a format in `READERS`. prompt: the run's prompt, with {columns}; a row's own
    `prompt` column takes precedence. limit: first N rows, None means all. allow_outside: relative paths may lead
    out of the file's folder. allow_remote: an image may be a URL. is_strict: a folder that cannot be read is an error.
    Raises UsageError where the source is not one of these.
    """

    source: Path
    prompt: str
    limit: int | None = None
    allow_outside: bool = False
    allow_remote: bool = False
    is_strict: bool = False
    # ids that occur more than once; set by `survey`, empty before it
    _repeated_ids: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        try:
            exists = self.source.exists()
        except OSError as error:  # a name that is too long, a link to itself
            raise UsageError(f"{self.source}: cannot be read ({error.strerror})") from error
        if not exists:
            raise UsageError(f"{self.source}: no such file or folder{_folder_hint(self.source)}")
        if not self.source.is_dir() and self.source.suffix.lower() not in READERS:
            raise UsageError(
                f"{self.source}: a manifest is a folder or one of {', '.join(READERS)}"
                f" (this is {self.source.suffix or 'a file without extension'}{_folder_hint(self.source)})"
            )

    def rows(self, with_pictures: bool = True) -> Iterator[Row]:
        """All rows in order, each id once if `survey` ran before. Raises UsageError that names file and line.

        with_pictures: with the bytes of pictures that stand in the manifest.
        """
        seen: set[str] = set()
        for located in self._located_rows(_Found(), with_pictures):
            row = located.row
            if row.id in self._repeated_ids:
                if row.id in seen and not located.is_named_by_file:
                    continue
                row = _numbered(located) if row.id in seen else row
                seen.add(row.id)
            yield row

    def survey(self) -> Survey:
        """Read everything once. Raises UsageError for a broken line, no rows, or an id with two contents."""
        ids, fingerprint, own_prompts = array("Q"), hashlib.sha256(), 0
        found, empty_columns = _Found(), Counter[str]()
        for located in self._located_rows(found, with_pictures=False):
            digest = _digest(located.row)
            fingerprint.update(digest)
            own_prompts += located.has_own_prompt
            empty_columns.update(located.empty_columns)
            ids.append(_id_hash(digest))
        self._check_found(found, len(ids))
        if any(count == len(ids) for count in empty_columns.values()):
            self._check_prompt_columns()
        repeated = self._repeated_rows(_repeated_hashes(ids))
        self._repeated_ids = frozenset(located.row.id for located in repeated)
        surplus = sum(not located.is_named_by_file for located in repeated)
        return Survey(
            total=len(ids) - surplus,
            repeated=surplus,
            skipped=found.files.count,
            skipped_names=tuple(found.files.first),
            own_prompts=own_prompts,
            fingerprint=fingerprint.hexdigest(),
            empty_columns=dict(empty_columns),
            system_folders=found.system_folders,
            unreadable_folders=found.unreadable,
        )

    def check_images(self) -> None:
        """Raises UsageError where not one image of the first rows can be found, with what may be wrong.

        Looks only at manifests of files, and only at long ones: of a few rows each fails by its own name.
        """
        if self.source.is_dir():
            return
        paths = [row.paths[0] for row in islice(self.rows(with_pictures=False), _CHECKED_ROWS)]
        if len(paths) < _CHECKED_ROWS or any(map(self._may_be_there, paths)):
            return
        raise UsageError(
            f"{self.source}: not one image of the first {_CHECKED_ROWS} rows can be found; nothing was sent. The first"
            f" is {printable(paths[0])}{_path_hint(paths[0])}"
        )

    def _may_be_there(self, path: str) -> bool:
        is_below = path.startswith((f"{self.source.parent}{os.sep}", os.sep)) or self.source.parent == Path()
        if is_remote(path) or not is_below:
            return True  # a URL, or a picture that stands in the manifest
        return os.path.lexists(path) or spelled_otherwise(path) is not None

    def _check_found(self, found: _Found, rows: int) -> None:
        if found.unreadable.count and self.is_strict:
            raise UsageError(f"{self.source}: folders that cannot be read (--strict): {found.unreadable}")
        if rows:
            return
        others = found.files.count
        more = f" ({others} other file{'s' if others > 1 else ''})" if others else ""
        if found.unreadable.count:
            more += f"; folders that cannot be read: {found.unreadable}"
        what = "images" if self.source.is_dir() else "rows"
        raise UsageError(f"{self.source}: no {what} in it{more}")

    def _check_prompt_columns(self) -> None:
        """A column that is empty in every row may be one that no row has. Raises UsageError."""
        names: dict[str, None] = {}
        where = ""
        for record in islice(self._records(_Found(), with_pictures=False), self.limit):
            where = where or record.where
            names |= dict.fromkeys(record.columns)
        PromptTemplate(self.prompt).check_columns(where, names)

    def _records(self, found: _Found, with_pictures: bool) -> Iterator[Record]:
        if self.source.is_dir():
            yield from read_folder(self.source, found.ears)
            return
        kind = self.source.suffix.lower()
        reader = READERS[kind] if with_pictures else NAME_READERS.get(kind, READERS[kind])
        try:
            yield from reader(self.source)
        except OSError as error:
            raise UsageError(f"{self.source}: cannot be read ({error.strerror or error})") from error

    def _located_rows(self, found: _Found, with_pictures: bool) -> Iterator[LocatedRow]:
        is_folder = self.source.is_dir()
        builder = RowBuilder(
            folder=self.source if is_folder else self.source.parent,
            is_folder=is_folder,
            prompt=PromptTemplate(self.prompt),
            allow_outside=self.allow_outside,
            allow_remote=self.allow_remote,
        )
        return islice(map(builder.build, self._records(found, with_pictures)), self.limit)

    def _repeated_rows(self, hashes: frozenset[int]) -> list[LocatedRow]:
        """Rows whose id an earlier row has. Reads the source again if there may be any.

        hashes: of ids that occur more than once, or seem to (64 bits may collide). Raises UsageError where rows
        of one id differ.
        """
        first: dict[str, tuple[bytes, str]] = {}  # id -> content, "file:line"
        repeated, conflicts = [], []
        for located in self._located_rows(_Found(), with_pictures=False) if hashes else ():
            row, where = located.row, located.where
            digest = _digest(row)
            if _id_hash(digest) not in hashes:
                continue
            content = digest[_ID_BYTES:]
            first_content, first_where = first.setdefault(row.id, (content, where))
            if first_where == where:
                continue
            repeated.append(located)
            if content != first_content and not located.is_named_by_file:
                conflicts.append(f"  {row.id!r} at {first_where} and {where}")
        if conflicts:
            raise UsageError(_conflict_message(self.source, conflicts))
        return repeated


def _numbered(located: LocatedRow) -> Row:
    """A further picture that was once a file of the same name: its place in the manifest tells them apart."""
    row, place = located.row, located.where.rpartition(":")[2].removeprefix("row ")
    names = {image: f"{image}#{place}" for image in row.images}
    return replace(
        row,
        id=f"{row.id}#{place}",
        images=tuple(names.values()),
        paths=tuple(names.values()),
        embedded=tuple((names[printable(name)], data) for name, data in row.embedded),
    )


def _folder_hint(source: Path) -> str:
    """For a pattern that the shell left as it is, and for a picture: the folder is what is needed."""
    is_pattern = any(mark in source.name for mark in "*?[")
    if not is_pattern and source.suffix.lower() not in IMAGE_EXTENSIONS:
        return ""
    return f"; give the folder: {source.parent}{os.sep}"


def _path_hint(path: str) -> str:
    if _WINDOWS_PATH.search(path):
        return "; this is a path of Windows: write paths relative to the manifest"
    return "; relative paths start in the folder of the manifest"


def _conflict_message(source: Path, conflicts: list[str]) -> str:
    hidden = len(conflicts) - _CONFLICTS_SHOWN
    return "\n".join(
        [
            f"{source}: {_rows(len(conflicts))} an id that another row with different content has too;"
            " nothing was sent:",
            *conflicts[:_CONFLICTS_SHOWN],
            *([f"  and {hidden} more"] if hidden > 0 else []),
            "give each row its own `id`",
        ]
    )


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"


def _digest(row: Row) -> bytes:
    """16 bytes: 8 of the id, 8 of everything else."""
    rest = "\0".join((*row.images, row.prompt, row.extra or "")).encode("utf-8", "surrogatepass")
    return (
        hashlib.blake2b(row.id.encode(), digest_size=_ID_BYTES).digest()
        + hashlib.blake2b(rest, digest_size=8).digest()
    )


def _id_hash(digest: bytes) -> int:
    return int.from_bytes(digest[:_ID_BYTES], "little")


def _repeated_hashes(hashes: array[int]) -> frozenset[int]:
    import numpy as np  # noqa: PLC0415  comes with pyarrow; not needed to read a manifest

    ordered = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
