"""Which pictures are being decoded now, on disk: the next start knows what a process died of.

A file of fixed slots, one for each picture that is being decoded; a note is one write of 65 bytes into the page
cache, which outlives the process. A picture that is still noted when a start begins is a suspect.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_SLOT_BYTES = 66  # the hash in hexadecimal, the stage, a line's end
_EMPTY = b" " * (_SLOT_BYTES - 1) + b"\n"


class DecodeNotes:
    """Notes of pictures that are being decoded. Safe in several threads; for one process.

    path: of the file; None keeps no notes. A disk that takes none is ignored: notes are a help, not a need.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: int | None = None  # descriptor; None before `open` and where there is no file
        # by SHA-256 of the file: how many processes died while it was decoded
        self._deaths: dict[str, int] = {}
        self._free: list[int] = []  # numbers of slots that an earlier note used; guarded by the lock
        self._slots = 0  # that the file has; guarded by the lock
        self._lock = threading.Lock()

    def open(self) -> None:
        """Read what an earlier process left, and begin a new file that keeps it."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            for line in self._path.read_text("ascii", "replace").splitlines():
                sha256, deaths = line[:64].strip(), line[64:65]
                if sha256 and deaths.isdecimal():
                    self._deaths[sha256] = max(self._deaths.get(sha256, 0), int(deaths))
        with contextlib.suppress(OSError):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            for number, (suspect, count) in enumerate(self._deaths.items()):
                self._write(number, _note(suspect, count))
            self._slots = len(self._deaths)  # these stay: the process may die again before it comes to them

    def close(self) -> None:
        """The process ends on its own: nothing that is decoded now is a suspect."""
        with self._lock:  # a thread may still be decoding
            file, self._file = self._file, None
        if file is None or self._path is None:
            return
        os.close(file)
        if not self._deaths:
            self._path.unlink(missing_ok=True)

    def deaths(self, sha256: str) -> int:
        """How many processes died while this picture was decoded: 0, 1, or 2 and more."""
        return self._deaths.get(sha256, 0)

    def forget(self, sha256: str) -> None:
        """The row of the picture has failed by name: it may be tried again if the user asks for it."""
        if self._deaths.pop(sha256, None) is not None and self._file is not None:
            for number in range(self._slots):
                if os.pread(self._file, 64, number * _SLOT_BYTES) == sha256.encode("ascii"):
                    self._write(number, _EMPTY)

    @contextlib.contextmanager
    def noted(self, sha256: str) -> Iterator[None]:
        """While the picture is decoded."""
        if self._file is None:
            yield
            return
        with self._lock:
            number = self._free.pop() if self._free else self._slots
            self._slots = max(self._slots, number + 1)
        self._write(number, _note(sha256, self.deaths(sha256) + 1))
        try:
            yield
        finally:
            self._write(number, _EMPTY)
            with self._lock:
                self._free.append(number)

    def _write(self, number: int, note: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                os.pwrite(self._file, note, number * _SLOT_BYTES)


def _note(sha256: str, deaths: int) -> bytes:
    return f"{sha256}{min(deaths, 9)}\n".encode("ascii")
