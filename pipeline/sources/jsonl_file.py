"""JSONL: one JSON object a line. JSON: one array of such objects, as LLaVA has it, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..nouns.errors import UsageError
from .record import Record, plain
from .text import numbered_lines, text_chunks

_SPACE = " \t\r\n"
_MAX_OBJECT_CHARACTERS = 2**28


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file; blank lines are skipped. Raises UsageError that names file and line."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: broken JSON ({error})") from error
        if not isinstance(columns, dict):
            raise UsageError(f"{where}: a line must be a JSON object, not {type(columns).__name__}")
        yield Record(where, plain(columns))


def read_json(path: Path) -> Iterator[Record]:
    """The objects of a JSON array; of a file that begins with an object, those of its lines. Raises UsageError.

    The array is never in memory: only the object that is read.
    """
    text = _Text(path)
    if not text.take("["):
        yield from read_jsonl(path)
        return
    while not text.take("]"):
        text.take(",")
        value = text.value()
        if not isinstance(value, dict):
            raise UsageError(f"{text.where}: an entry must be a JSON object, not {type(value).__name__}")
        yield Record(text.where, plain(value))


class _Text:
    """The text of a file, of which only what is being read is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks = text_chunks(path)
        self._decoder = json.JSONDecoder()
        self._text = ""  # that was read from the file and not taken yet
        self._line = 1  # in which it begins

    @property
    def where(self) -> str:
        """File and line of what comes next."""
        return f"{self._path}:{self._line}"

    def take(self, mark: str) -> bool:
        """Whether the next character is this; then it is taken. Raises UsageError at the end of the file."""
        while not self._text.lstrip(_SPACE):
            if not self._read(1):
                raise UsageError(f"{self.where}: the JSON array does not end")
        self._forget(len(self._text) - len(self._text.lstrip(_SPACE)))
        is_next = self._text[0] == mark
        if is_next:
            self._forget(1)
        return is_next

    def value(self) -> Any:
        """The next JSON value, which is taken. Raises UsageError."""
        self.take("")  # spaces
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except (ValueError, RecursionError) as error:
                # twice as much each time: an object of n characters is read in 2 n
                if not self._may_be_cut(error) or not self._read(len(self._text)):
                    raise UsageError(f"{self.where}: broken JSON ({error})") from error
            else:
                self._forget(end)
                return value

    def _may_be_cut(self, error: Exception) -> bool:
        """Whether more text may mend it: it is wrong at the end of what there is, or in a string without end."""
        at = getattr(error, "pos", 0)
        is_at_the_end = at > len(self._text) - 16 or "Unterminated" in str(error)
        return is_at_the_end and len(self._text) < _MAX_OBJECT_CHARACTERS

    def _forget(self, count: int) -> None:
        self._line += self._text.count("\n", 0, count)
        self._text = self._text[count:]

    def _read(self, at_least: int) -> bool:
        """Whether there was more."""
        pieces, size = [self._text], 0
        for chunk in self._chunks:
            pieces.append(chunk)
            size += len(chunk)
            if size >= at_least:
                break
        self._text = "".join(pieces)
        return size > 0
