"""A source of rows, read lazily: a manifest is never loaded whole.

A source is read twice. `survey` checks every row before anything is sent (an error in line 90,000 must not
wait until line 90,000 is asked) and keeps 8 bytes a row to find duplicate ids; `rows` then reads again, row by
row, as fast as the run needs them. A new format is a new file with a reader and a line in `READERS`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..nouns.errors import UsageError
from ..nouns.rows import Row
from .csv_file import read_csv
from .folder import read_folder
from .jsonl_file import read_jsonl
from .parquet_file import read_parquet
from .prompt import PromptTemplate
from .record import Reader, Record
from .rows import LocatedRow, RowBuilder

READERS: dict[str, Reader] = {  # by lower-case extension
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
_SKIPPED_NAMES = 5
_CONFLICTS_SHOWN = 5
_ID_BYTES = 8  # of a digest: the id; the rest is everything else


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first reading of the whole manifest found.

    total: rows, each id once. repeated: further rows with the id and the content of an earlier one.
    skipped: files of a folder that are not images by their extension, skipped_names: the first few of them.
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


@dataclass(slots=True)
class Manifest:
    """A source of rows.

    source: a folder, or a file of a format in `READERS`. prompt: the run's prompt, with {columns}; a row's own
    `prompt` column takes precedence. limit: first N rows, None means all. allow_outside: relative paths may lead
    out of the file's folder. allow_remote: an image may be a URL.
    Raises UsageError where the source is not one of these.
    """

    source: Path
    prompt: str
    limit: int | None = None
    allow_outside: bool = False
    allow_remote: bool = False
    # ids that occur more than once; set by `survey`, empty before it
    _repeated_ids: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        try:
            exists = self.source.exists()
        except OSError as error:  # a name that is too long, a link to itself
            raise UsageError(f"{self.source}: cannot be read ({error.strerror})") from error
        if not exists:
            raise UsageError(f"{self.source}: no such file or folder")
        if not self.source.is_dir() and self.source.suffix.lower() not in READERS:
            raise UsageError(
                f"{self.source}: a manifest is a folder or one of {', '.join(READERS)}"
                f" (this is {self.source.suffix or 'a file without extension'})"
            )

    def rows(self) -> Iterator[Row]:
        """All rows in order, each id once if `survey` ran before. Raises UsageError that names file and line."""
        seen: set[str] = set()
        for row, *_ in self._located_rows(_OtherFiles()):
            if row.id in self._repeated_ids:
                if row.id in seen:
                    continue
                seen.add(row.id)
            yield row

    def survey(self) -> Survey:
        """Read everything once. Raises UsageError for a broken line, no rows, or an id with two contents."""
        ids, fingerprint, own_prompts = array("Q"), hashlib.sha256(), 0
        other_files, empty_columns = _OtherFiles(), Counter[str]()
        for row, _, has_own_prompt, empty in self._located_rows(other_files):
            digest = _digest(row)
            fingerprint.update(digest)
            own_prompts += has_own_prompt
            empty_columns.update(empty)
            ids.append(_id_hash(digest))
        if not ids:
            found = f" ({other_files.count} other files)" if other_files.count else ""
            what = "images" if self.source.is_dir() else "rows"
            raise UsageError(f"{self.source}: no {what} in it{found}")
        repeated = self._repeated_rows(_repeated_hashes(ids))
        self._repeated_ids = frozenset(repeated)
        return Survey(
            total=len(ids) - len(repeated),
            repeated=len(repeated),
            skipped=other_files.count,
            skipped_names=tuple(other_files.first_names),
            own_prompts=own_prompts,
            fingerprint=fingerprint.hexdigest(),
            empty_columns=dict(empty_columns),
        )

    def _located_rows(self, other_files: _OtherFiles) -> Iterator[LocatedRow]:
        is_folder = self.source.is_dir()
        builder = RowBuilder(
            folder=self.source if is_folder else self.source.parent,
            is_folder=is_folder,
            prompt=PromptTemplate(self.prompt),
            allow_outside=self.allow_outside,
            allow_remote=self.allow_remote,
        )
        records: Iterator[Record]
        if is_folder:
            records = read_folder(self.source, other_files.add)
        else:
            records = READERS[self.source.suffix.lower()](self.source)
        return islice(map(builder.build, records), self.limit)

    def _repeated_rows(self, hashes: frozenset[int]) -> list[str]:
        """The ids of rows whose id an earlier row has, one entry a row. Reads the source again if there may be any.

        hashes: of ids that occur more than once, or seem to (64 bits may collide). Raises UsageError where rows
        of one id differ.
        """
        first: dict[str, tuple[bytes, str]] = {}  # id -> content, "file:line"
        repeated, conflicts = [], []
        for row, where, *_ in self._located_rows(_OtherFiles()) if hashes else ():
            digest = _digest(row)
            if _id_hash(digest) not in hashes:
                continue
            content = digest[_ID_BYTES:]
            first_content, first_where = first.setdefault(row.id, (content, where))
            if first_where == where:
                continue
            repeated.append(row.id)
            if content != first_content:
                conflicts.append(f"  {row.id!r} at {first_where} and {where}")
        if conflicts:
            raise UsageError(_conflict_message(self.source, conflicts))
        return repeated


class _OtherFiles:
    """Files of a folder that are not images: how many, and the first few names."""

    def __init__(self) -> None:
        self.count = 0
        self.first_names: list[str] = []

    def add(self, name: str) -> None:
        self.count += 1
        if self.count <= _SKIPPED_NAMES:
            self.first_names.append(name)


def _conflict_message(source: Path, conflicts: list[str]) -> str:
    hidden = len(conflicts) - _CONFLICTS_SHOWN
    return "\n".join(
        [
            f"{source}: {len(conflicts)} rows have an id that another row with different content has too;"
            " nothing was sent:",
            *conflicts[:_CONFLICTS_SHOWN],
            *([f"  and {hidden} more"] if hidden > 0 else []),
            "give each row its own `id`",
        ]
    )


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
