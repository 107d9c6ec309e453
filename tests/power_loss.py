"""What a disk holds after a power cut: recorded with strace, replayed with everything lost that was not synced.

    events = record(command, ...)      what the command did to files, in its order
    disk = Disk(root); disk.apply(e)   ... up to the moment of the cut
    disk.rebuild(elsewhere, chance)    one of the states that the disk may be in after it

Of a file everything written before its last fsync began is there; of what came later each write may be there,
be lost or be torn at a sector. Of a folder the same holds for its names: one that was created, renamed
or deleted after the folder's last fsync may be as it was at any moment since. Harsher than any file system.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_CALLS = "openat,write,pwrite64,writev,pwritev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
_DONE = re.compile(r"(.*)\) += (\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*)>")
_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Event:
    """One change. begun: how many events had happened when the call began (it ended after the last of them).

    offset, data: of a write; data alone of what was printed; offset alone of a file cut to a length.
    """

    kind: Literal["create", "write", "cut", "sync", "rename", "unlink", "mkdir", "print"]
    path: Path
    begun: int
    offset: int = 0
    data: bytes = b""
    target: Path | None = None


def record(command: list[str], log: Path, **options: Any) -> tuple[int, list[Event]]:
    """Run a command. Returns its exit code and what it did to files."""
    tracing = ["strace", "-f", "-y", "-xx", "-s", str(2**24), "--seccomp-bpf", "-e", f"trace={_CALLS}"]
    done = subprocess.run([*tracing, "-o", str(log), *command], check=False, capture_output=True, **options)
    with log.open(encoding="ascii", errors="replace") as lines:
        return done.returncode, list(_events(lines, Path(options["cwd"])))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _events(lines: Iterable[str], cwd: Path) -> Iterator[Event]:
    begun: dict[str, tuple[int, str]] = {}  # by thread: a call that another one's line interrupts
    positions: dict[int, int] = {}  # by descriptor
    count = 0
    for line in lines:
        if not (found := _LINE.match(line)):
            continue
        thread, call, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = (count, rest.removesuffix("<unfinished ...>"))
            continue
        started, first_half = begun.pop(thread, (count, ""))
        if not (ended := _DONE.match(first_half + rest)):  # it failed, and changed nothing
            continue
        for event in _event(call, ended[1], int(ended[2]), positions, cwd):
            count += 1
            yield Event(event.pop("kind"), event.pop("path"), started, **event)


def _event(
    call: str, arguments: str, result: int, positions: dict[int, int], cwd: Path
) -> list[dict[str, Any]]:
    """What a call that succeeded changed: nothing, one thing, or two for a file made anew over an old one."""
    names = [_bytes(text) for text in _STRING.findall(arguments)]
    if call == "openat":
        positions[result] = 0
        path = cwd / names[0].decode()
        made = [{"kind": "create", "path": path}] if "O_CREAT" in arguments else []
        return made + ([{"kind": "cut", "path": path}] if "O_TRUNC" in arguments else [])
    if call.startswith(("rename", "unlink", "mkdir")):
        assert "AT_REMOVEDIR" not in arguments
        path, *target = (cwd / name.decode() for name in names)
        return [
            {"kind": call.removesuffix("2").removesuffix("at"), "path": path}
            | ({"target": target[0]} if target else {})
        ]
    found = _DESCRIPTOR.match(arguments)
    assert found, arguments[:200]
    descriptor, path = int(found[1]), Path(_bytes(found[2]).decode())
    if descriptor == 1:
        return [{"kind": "print", "path": path, "data": b"".join(names)}]
    if call in ("fsync", "fdatasync"):
        return [{"kind": "sync", "path": path}]
    if call == "ftruncate":
        return [{"kind": "cut", "path": path, "offset": int(arguments.rpartition(",")[2])}]
    if call.startswith("pwrite"):
        offset = int(arguments.rpartition(",")[2])
    else:
        offset = positions.get(descriptor, 0)
        positions[descriptor] = offset + result
    return [{"kind": "write", "path": path, "offset": offset, "data": b"".join(names)[:result]}]


# ------------------------------------------------------------------------------- the disk


@dataclass(slots=True, eq=False)
class _Log:
    """What happened to one file or one name, with the number of the event; the first `safe` of it survive."""

    changes: list[tuple[int, Any]] = field(default_factory=list)
    safe: int = 0

    def sync(self, begun: int) -> None:
        self.safe = max(self.safe, sum(number < begun for number, _ in self.changes))


_FOLDER = "folder"


class Disk:
    """Everything below `root` (which is there, and safe), and what of it would survive."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0
        self._names: dict[Path, _Log] = {}  # what each name stood for: _Log of a file, _FOLDER, None

    def apply(self, event: Event) -> None:
        number, self._count = self._count, self._count + 1
        path = event.path
        if not path.is_relative_to(self._root):
            return
        now = self._now(path)
        if event.kind == "create" and now is None:
            self._name(path).append((number, _Log()))
        elif event.kind == "mkdir":
            self._name(path).append((number, _FOLDER))
        elif event.kind == "unlink":
            self._name(path).append((number, None))
        elif event.kind == "rename" and event.target is not None:
            self._name(event.target).append((number, now))
            self._name(path).append((number, None))
        elif event.kind == "sync" and isinstance(now, _Log):
            now.sync(event.begun)
        elif event.kind == "sync":
            for inside in [log for name, log in self._names.items() if name.parent == path]:
                inside.sync(event.begun)
        elif event.kind in ("write", "cut") and isinstance(now, _Log):  # else: deleted while it was open
            now.changes.append((number, event))

    def _name(self, path: Path) -> list[tuple[int, Any]]:
        return self._names.setdefault(path, _Log([(-1, None)], 1)).changes

    def _now(self, path: Path) -> Any:
        return self._names[path].changes[-1][1] if path in self._names else None

    def rebuild(self, elsewhere: Path, chance: random.Random | None) -> None:
        """The disk after the cut, under another root. chance: None where all is lost that may be."""
        for path in sorted(self._names):  # folders before what is in them
            log = self._names[path]
            last = log.safe - 1 if chance is None else chance.randint(log.safe - 1, len(log.changes) - 1)
            stood_for, place = log.changes[last][1], elsewhere / path.relative_to(self._root)
            if stood_for is None or not place.parent.is_dir():
                continue
            if stood_for == _FOLDER:
                place.mkdir(parents=True)
            else:
                place.write_bytes(_content(stood_for, chance))


def _content(file: _Log, chance: random.Random | None) -> bytes:
    content = bytearray()
    for position, (_, change) in enumerate(file.changes):
        data, fate = change.data, "there"
        if position >= file.safe:
            fate = "lost" if chance is None else chance.choice(("there", "lost", "torn"))
        if fate == "lost":
            continue
        if change.kind == "cut":
            content = content[: change.offset].ljust(change.offset, b"\0")
            continue
        if fate == "torn" and chance is not None:
            data = data[: chance.randint(0, len(data)) // _SECTOR_BYTES * _SECTOR_BYTES]
        content = content.ljust(change.offset, b"\0")
        content[change.offset : change.offset + len(data)] = data
    return bytes(content)


def printed(events: Iterable[Event]) -> list[str]:
    """What was written to the standard output, by line."""
    return b"".join(e.data for e in events if e.kind == "print").decode().splitlines()
