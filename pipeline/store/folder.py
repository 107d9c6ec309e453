"""The run folder: its paths, its one writer, and the small files beside the answers.

RUN/run.json  journal.sqlite  results/part-*.parquet  failures.parquet  (made on demand: report.html, gallery/)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..nouns.errors import RunError, UsageError, disk_error
from ..nouns.labels import LabelColumn
from .durable import fsync, publish

RUN_SCHEMA_VERSION = 1
# what a first start may leave that died before it had a journal and a run.json
_FROM_THE_FIRST_MOMENT = (".lock", ".run.json", ".live.json", ".decoding", "journal.sqlite-", "results")


class RunFolder:
    """One run on disk. path: need not exist yet; `lock` creates it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.journal = path / "journal.sqlite"
        self.results = path / "results"
        self.failures = path / "failures.parquet"
        self.gallery = path / "gallery"
        self.report = path / "report.html"
        self.decode_notes = path / ".decoding"
        self.label_columns: tuple[LabelColumn, ...] = ()  # of a labelling run; set by the start that writes
        self._lock_path = path / ".lock"
        self._live_path = path / ".live.json"
        self._lock: int | None = (
            None  # descriptor of the locked file; set by `lock`, None again after `unlock`
        )

    @property
    def exists(self) -> bool:
        """Whether this is a run folder, perhaps a damaged one."""
        return self.run_json.exists() or self.journal.exists()

    # ---- one writer

    def check_usable(self) -> None:
        """Raises UsageError where the path is a file, or a folder of something else."""
        try:
            str(self.path).encode("utf-8")
            is_there, is_folder = self.path.exists(), self.path.is_dir()
        except (OSError, UnicodeEncodeError) as error:
            raise UsageError(f"{str(self.path)!r}: cannot be a run folder ({error})") from None
        if is_there and not is_folder:
            raise UsageError(f"{self.path}: a file; -o names the run folder")
        if self.exists or not self.path.exists():
            return
        names = {entry.name for entry in islice(self.path.iterdir(), 20)}
        names -= {name for name in names if name.startswith(_FROM_THE_FIRST_MOMENT)}
        if names:
            raise UsageError(
                f"{self.path}: not empty and not a run folder ({', '.join(sorted(names)[:3])} ...); choose another -o"
            )

    def lock(self) -> None:
        """Become the one writer, until `unlock` or the end of the process, however it ends. Makes the folder.

        Raises RunError where another process is the writer, UsageError where the folder cannot be made.
        """
        try:
            _make(self.results)
            # the lock is the kernel's: it goes with its process, so a file left by a dead one means nothing
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be used as a run folder ({error.strerror})") from error
        try:
            _lock_exclusively(descriptor)
        except OSError as error:
            holder = self._lock_path.read_text(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise RunError(
                f"{self.path}: {holder} is writing to this run folder; wait for it, or use another -o",
                kind="locked",
            ) from error
        self._lock = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the note
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def unlock(self) -> None:
        """Let another process write. Safe to call twice, and without a lock."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._live_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def remove_unused(self) -> None:
        """Remove a folder that this process has made and in which nothing has been noted: no run.json, no part."""
        if self.run_json.exists() or any(self.results.glob("part-*")):
            return
        with contextlib.suppress(OSError):
            shutil.rmtree(self.path)

    def is_running(self) -> bool:
        """Whether some process is writing to this folder now."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # shared, so that two processes that ask do not take each other for a writer
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    # ---- run.json

    def read_run(self) -> dict[str, Any]:
        """What run.json says. Raises UsageError where this is no run folder, RunError where it is damaged."""
        try:
            run = json.loads(self.run_json.read_bytes().decode("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{self.path}: no run.json in it, so this is no run folder") from None
        except OSError as error:
            raise disk_error(self.run_json, "read", error) from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
            raise RunError(f"{self.run_json}: damaged ({error})", kind="damaged_run") from error
        if not (
            isinstance(run, dict)
            and isinstance(run.get("answer_settings"), dict)
            and isinstance(run.get("rows"), int)
            and isinstance(run.get("source"), str)
        ):
            raise RunError(f"{self.run_json}: damaged (a part of it is missing)", kind="damaged_run")
        if run.get("schema_version") != RUN_SCHEMA_VERSION:
            raise RunError(
                f"{self.run_json}: not of version {RUN_SCHEMA_VERSION}, which this program reads",
                kind="version",
            )
        return run

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace run.json, whole or not at all, durable on return. Raises RunError where it cannot be written."""
        temporary = self.path / ".run.json.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"schema_version": RUN_SCHEMA_VERSION, **run}, file, ensure_ascii=True, indent=2)
                file.write("\n")
            publish(temporary, self.run_json)
            fsync(self.path.parent)  # the run folder's own name survives a power cut too
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise disk_error(self.run_json, "written", error) from error

    def write_page(self, path: Path, text: str) -> None:
        """A page for a browser, whole or not at all. Raises RunError where the disk is full or closed."""
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.replace(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})", kind="disk") from error

    # ---- the state of a run that is going on

    def write_live(self, state: Mapping[str, Any]) -> None:
        """Write what `read_live` reads. A full disk is ignored: no reason to end a run."""
        temporary = self.path / ".live.json.tmp"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(self._live_path)

    def read_live(self) -> dict[str, Any]:
        """What the running process wrote last; empty where there is nothing."""
        try:
            state = json.loads(self._live_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}


def _lock_exclusively(descriptor: int) -> None:
    """Raises OSError where another writer holds it; `status` probes it too, but only for a moment."""
    for pause_seconds in (0.02, 0.1, 0.3):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(pause_seconds)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _make(folder: Path) -> None:
    """With its parents, so that their names last through a power cut too."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        fsync(path.parent)


def utc_now() -> str:
    """The present as run.json and the pages have it: UTC to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
