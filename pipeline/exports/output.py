"""Files of an export: whole or not at all, never over another's file, and only what is new or changed.

The ledger, RUN/exports/ledger, remembers what exports wrote. A file is ours where the ledger has its path with its
content (small files), or with its size and time (large ones). Lines are added before a file gets its name, so a kill
in between leaves no file that the next call takes for the user's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..nouns.errors import RunError, disk_error
from ..store.durable import fsync
from .names import shown

_NAMED = 5  # files that a summary names for one reason


@dataclass
class Summary:
    """What an export did, or with --check what it would do. Counts of files; `rows` counts rows.

    skipped: reason -> number. names: reason -> the first few. joined: texts whose lines became one.
    Changed by `Output` and by the formats, file by file.
    """

    rows: int = 0
    written: int = 0
    changed: int = 0
    unchanged: int = 0
    joined: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def skip(self, reason: str, name: str) -> None:
        """Count one row or file that is left out, and keep its name for the message."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        named = self.names.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(shown(name))


class Ledger:
    """What exports of some runs wrote. Read from all of them, written to the first."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._path = runs[0] / "exports" / "ledger"
        self._known: set[bytes] = set()  # 12 bytes of a hash each; grows with `note`
        self._file: BinaryIO | None = None  # opened by the first `note`
        for run in runs:
            with contextlib.suppress(FileNotFoundError):
                lines = (run / "exports" / "ledger").read_bytes().split(b"\n")
                self._known.update(bytes.fromhex(line.decode()) for line in lines if len(line) == 24)

    def knows(self, path: str, mark: bytes) -> bool:
        """Whether `note` was called with these, by this export or an earlier one."""
        return _digest(path, mark) in self._known

    def note(self, path: str, mark: bytes) -> None:
        """Remember. mark: the content, or what stands for it. Raises RunError where it cannot be written."""
        digest = _digest(path, mark)
        if digest in self._known:
            return
        try:
            if self._file is None:
                self._path.parent.mkdir(exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            # one write: lines of exports that run at the same time do not mix
            self._file.write(digest.hex().encode() + b"\n")
        except OSError as error:
            raise disk_error(self._path, "written", error) from error
        self._known.add(digest)

    def close(self) -> None:
        """Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Output:
    """Writes the files of one export and counts them in `summary`.

    is_check: nothing is written. overwrite: also over files that no export wrote.
    """

    def __init__(self, ledger: Ledger, summary: Summary, *, is_check: bool, overwrite: bool) -> None:
        self.summary = summary
        self.is_check = is_check
        self.overwrite = overwrite
        self._ledger = ledger
        self._folders: set[str] = set()  # made or seen by `folder`

    def put(self, path: str, content: bytes) -> None:
        """A small file with this content. Raises RunError where the disk is full."""
        try:
            self._put(path, content)
        except OSError as error:
            if error.errno not in (
                errno.ENAMETOOLONG,
                errno.EACCES,
                errno.EISDIR,
                errno.ENOTDIR,
                errno.EROFS,
            ):
                raise disk_error(Path(path), "written", error) from error
            self.summary.skip(f"cannot be written ({error.strerror})", path)

    def _put(self, path: str, content: bytes) -> None:
        before = _read(path)
        if before == content:
            self.summary.unchanged += 1
            self._note(path, content)
            return
        if before is not None and not self.overwrite and not self._ledger.knows(path, before):
            self._refuse(path)
            return
        if not self.is_check:
            self._note(path, content)
            self._make_folder(os.path.dirname(path))
            temporary = _temporary(path)
            with open(temporary, "wb") as file:
                file.write(content)
            if not _publish(temporary, path, is_new=before is None):
                self._refuse(path)
                return
        self._count(is_new=before is None)

    @contextlib.contextmanager
    def large(self, path: Path, fingerprint: bytes) -> Iterator[Path | None]:
        """A file that the block writes: gives a temporary path, None where nothing is to be written.

        fingerprint: of all that goes into the file. It is not written again while this and the file are the same.
        Raises RunError where the disk is full.
        """
        name = str(path)
        before = _stat_mark(name)
        is_ours = before is not None and self._ledger.knows(name, before)
        if is_ours and before is not None and self._ledger.knows(name, before + fingerprint):
            self.summary.unchanged += 1
            yield None
            return
        if before is not None and not is_ours and not self.overwrite:
            self._refuse(name)
            yield None
            return
        if self.is_check:
            self._count(is_new=before is None)
            yield None
            return
        try:
            self._make_folder(str(path.parent))
            temporary = Path(_temporary(name))
            try:
                yield temporary
                self._finish(temporary, name, fingerprint, is_new=before is None)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, "written", error) from error

    def _finish(self, temporary: Path, name: str, fingerprint: bytes, *, is_new: bool) -> None:
        fsync(temporary)
        mark = _stat_mark(str(temporary))
        if mark is None:
            raise RunError(f"{name}: its temporary file is gone", kind="disk")
        self._ledger.note(name, mark)
        self._ledger.note(name, mark + fingerprint)
        if _publish(str(temporary), name, is_new=is_new):
            self._count(is_new=is_new)
        else:
            self._refuse(name)

    def link(self, source: str, path: str, how: str) -> bool:
        """A picture below the target. how: symlink, hardlink, or copy. Returns whether it is there now."""
        if os.path.lexists(path):
            is_same = os.path.exists(path) and _is_same(source, path)
            if not is_same:
                self._refuse(path)
            return is_same
        if self.is_check:
            return True
        try:
            self._make_folder(os.path.dirname(path))
            if how == "copy":
                _copy(source, path)
            elif how == "hardlink":
                os.link(source, path)
            else:
                os.symlink(os.path.abspath(source), path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_error(Path(path), "written", error) from error
            self.summary.skip(f"picture cannot be put there ({error.strerror}); try --pictures copy", path)
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """What is there now; None for nothing."""
        return _read(path)

    def adopt(self, path: str) -> None:
        """Let the next `put` replace what is there now, because it keeps that text."""
        if (content := _read(path)) is not None:
            self._note(path, content)

    def _note(self, path: str, content: bytes) -> None:
        if not self.is_check:
            self._ledger.note(path, content)

    def _make_folder(self, folder: str) -> None:
        if folder and folder not in self._folders:
            os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)

    def _count(self, *, is_new: bool) -> None:
        if is_new:
            self.summary.written += 1
        else:
            self.summary.changed += 1

    def _refuse(self, path: str) -> None:
        self.summary.skip("exists and was not written by an export; --overwrite replaces it", path)


def _digest(path: str, mark: bytes) -> bytes:
    name = os.fsencode(os.path.abspath(path))
    return hashlib.blake2b(mark, digest_size=12, key=hashlib.blake2b(name, digest_size=32).digest()).digest()


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _stat_mark(path: str) -> bytes | None:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    return f"{info.st_size} {info.st_mtime_ns}".encode()


def _temporary(path: str) -> str:
    """In the same folder; short, so that a name of 255 bytes works."""
    return os.path.join(os.path.dirname(path), f".captionmill-{os.getpid()}.tmp")


def _publish(temporary: str, path: str, *, is_new: bool) -> bool:
    """Give a whole file its name. is_new: only where none has it. Returns False where another was faster."""
    if not is_new:
        os.replace(temporary, path)
        return True
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise
        os.rename(temporary, path)
        return True
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return True


def _is_same(source: str, path: str) -> bool:
    if os.path.samefile(source, path):
        return True
    a, b = os.stat(source), os.stat(path)
    return not os.path.islink(path) and (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def _copy(source: str, path: str) -> None:
    import shutil  # noqa: PLC0415  few exports copy

    temporary = _temporary(path)
    shutil.copy2(source, temporary)
    _publish(temporary, path, is_new=True)
