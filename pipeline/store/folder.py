"""The run folder: its paths, its one writer, and run.json, which says what the run is.

RUN/run.json  journal.sqlite  results/part-*.parquet  failures.parquet  (made on demand: report.html, gallery/)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..nouns.errors import RunError, UsageError, disk_error
from .durable import fsync

RUN_SCHEMA_VERSION = 1
# what a first start may leave that died before it had a journal and a run.json
_FROM_THE_FIRST_MOMENT = (".lock", ".run.json", ".live.json", "journal.sqlite-", "results")


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
        self._lock_path = path / ".lock"
        self._live_path = path / ".live.json"
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
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
        """Become the one writer, until `unlock` or the end of the process, however it ends.

        Raises RunError where another process is, UsageError where the folder cannot be made.
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
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._live_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def is_running(self) -> bool:
        """Whether some process is writing to this folder now."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(
                descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # shared: two who ask do not see each other
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    # ---- run.json

    def read_run(self) -> dict[str, Any]:
        """What run.json says. Raises UsageError where this is no run folder, RunError where it is damaged."""
        try:
            text = self.run_json.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise UsageError(f"{self.path}: no run.json in it, so this is no run folder") from None
        except UnicodeDecodeError as error:
            raise RunError(f"{self.run_json}: damaged ({error})", kind="damaged_run") from error
        except OSError as error:
            raise disk_error(self.run_json, "read", error) from error
        try:
            run = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{self.run_json}: damaged ({error})", kind="damaged_run") from error
        if not isinstance(run, dict) or not (
            isinstance(run.get("answer_settings"), dict)
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
        """Replace run.json, whole or not at all."""
        temporary = self.path / ".run.json.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"schema_version": RUN_SCHEMA_VERSION, **run}, file, ensure_ascii=True, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.run_json)
            for folder in (self.path, self.path.parent):  # their names last through a power cut too
                fsync(folder)
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
        """For `read_live`. Not worth ending a run for: a full disk is passed over."""
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

    def check_same_source(self, source: Path) -> None:
        """Refuse to mix the rows of two sources: a/photos and b/photos may hold the same file names.

        Raises UsageError that names both.
        """
        before = self.read_run().get("source")
        if before is not None and Path(before) != source:
            raise UsageError(
                f"{self.path} holds answers for {before}, this is {source}; nothing was sent:\n"
                "give this source a run folder of its own with -o, or, where it is the same one in a new place,"
                " say --moved"
            )

    def check_same_currency(self, currency: str) -> None:
        """Refuse to add up dollars and yuan in one column. Raises UsageError that names both."""
        before = self.read_run().get("currency", currency)
        if before != currency:
            raise UsageError(
                f"{self.path}: what its answers cost is in {before}, these prices are in {currency}; nothing was sent:\n"
                f'give them in {before} too ([prices] currency = "{before}"), or a folder of their own with -o'
            )

    def check_same_answers(self, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Refuse to mix answers to different questions in one dataset.

        settings: those that would change answers. defaults: of settings that an older version did not
        know. Raises UsageError that names each difference.
        """
        before = dict(defaults) | self.read_run().get("answer_settings", {})
        differences = [
            f"  {name}: {_show(before, name)} before, {_show(settings, name)} now"
            for name in sorted({*before, *settings})
            if before.get(name) != settings.get(name)
        ]
        if differences:
            raise UsageError(
                f"{self.path} holds answers to other settings; nothing was sent:\n"
                + "\n".join(differences)
                + "\ngo on with the old settings, or give the new ones a folder of their own with -o"
            )


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


def _show(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "not set"


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
