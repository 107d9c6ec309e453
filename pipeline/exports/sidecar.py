"""txt, caption: the text beside its picture, or under --out in the same folders; one file a picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..nouns.errors import UsageError
from .caption_text import has_lines
from .names import inside, shown, with_extension
from .rows import Entry
from .work import Work, with_text

_SHOWN_COLLISIONS = 5


@dataclass(frozen=True, slots=True)
class Sidecar:
    """extension: of the files, with its dot."""

    extension: str

    def write(self, work: Work) -> None:
        """One file a row. Raises UsageError where two rows want the same file, before anything is written."""
        self._check_collisions(work)
        is_one_line = work.rows.selection.settings.one_line
        for entry in with_text(work):
            if (path := self.path(work, entry)) is None:
                work.output.summary.skip("the picture is a URL: --out is needed", entry.id)
                continue
            if work.out is None and not os.path.isdir(os.path.dirname(path)):
                work.output.summary.skip("the picture's folder is gone", path)
                continue
            work.output.summary.rows += 1
            work.output.summary.joined += is_one_line and has_lines(entry.raw)
            text = entry.text.encode("utf-8", "backslashreplace")
            work.output.put(path, self._appended(work, path, text) if work.options.append else text)

    def path(self, work: Work, entry: Entry) -> str | None:
        """Where the text of a row goes; None where there is no place."""
        picture = entry.pictures[0]
        if work.out is not None:
            name = picture.name.partition("://")[2] if picture.path is None else picture.name
            return with_extension(os.path.join(work.out, inside(name)), self.extension)
        return None if picture.path is None else with_extension(picture.path, self.extension)

    def _appended(self, work: Work, path: str, text: bytes) -> bytes:
        """What is there with the text behind it, once. Appending needs no --overwrite: nothing is lost."""
        before = (work.output.read(path) or b"").rstrip()
        if not before or before == text or before.endswith(b", " + text):
            return before or text
        work.output.adopt(path)
        return before + b", " + text

    def _check_collisions(self, work: Work) -> None:
        """Two passes over the rows, 8 bytes a row in memory: collisions are rare."""
        seen: set[int] = set()
        twice: set[int] = set()
        for path, _ in self._wanted(work):
            key = _key(path)
            (twice if key in seen else seen).add(key)
        if not twice:
            return
        rows: dict[str, list[str]] = {}
        for path, entry in self._wanted(work):
            if _key(path) in twice:
                rows.setdefault(path, []).append(shown(entry.id))
        pairs = [
            f"{shown(path)}: {', '.join(ids[:4])}" for path, ids in list(rows.items())[:_SHOWN_COLLISIONS]
        ]
        raise UsageError(
            f"{len(rows):,} files are wanted by more than one row, nothing was written; choose with --filter:\n  "
            + "\n  ".join(pairs)
        )

    def _wanted(self, work: Work) -> Iterator[tuple[str, Entry]]:
        for entry in work.rows:
            if entry.text and entry.pictures and (path := self.path(work, entry)) is not None:
                yield os.path.normpath(path), entry


def _key(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")
