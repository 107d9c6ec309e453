"""The plug is pulled: whatever was not synced may be lost or torn, and nothing that was recorded is.

The real command runs under strace; its writes are replayed up to many moments, each time into the states that
a disk may then be in, and the next start opens what is there.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import recorded_run
from captionmill.nouns.address import Address
from captionmill.nouns.config import RunConfig
from captionmill.store import parts
from captionmill.store.folder import RunFolder
from captionmill.wiring.session import Job, Session
from commands import MODEL, draw_pictures, environment
from lying_server import LyingServer, http
from power_loss import Disk, Event, printed, record
from scripted_chat import Console, completion

RUN = Path("new/deeper/run")  # folders that do not exist yet have names to lose, too


def can_trace() -> bool:
    tracing = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"]
    return (
        bool(shutil.which("strace"))
        and subprocess.run(tracing, check=False, capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(
    not can_trace(), reason="needs strace (a package of that name) and leave to trace"
)


def record_two_starts(folder: Path, rows: int, answer: str) -> list[Event]:
    """A run that ends, and a second start that finds twice as many pictures; one picture is broken."""
    events: list[Event] = []
    with LyingServer(lambda body, n: http(completion(answer))).open() as server:
        for count in (rows, 2 * rows):
            draw_pictures(folder / "p", count)
            (folder / "p/0.png").write_bytes(b"\x89PNG broken")
            command = [sys.executable, recorded_run.__file__, "caption", "p", *MODEL, "-o", str(RUN)]
            more = ["--rows-per-part", "4", "--concurrency", "3"]
            code, seen = record(
                command + more, folder / "trace", cwd=folder, env=environment(server.base_url)
            )
            assert code == 1
            moved = len(events)
            events += [Event(e.kind, e.path, e.begun + moved, e.offset, e.data, e.target) for e in seen]
    return events


def states(
    events: list[Event], root: Path, elsewhere: Path, cuts: set[int], seeds: int
) -> Iterator[tuple[int, list[str]]]:
    """The disk after each cut, in its worst state and in some by chance; which rows were promised by then."""
    disk = Disk(root)
    for number, event in enumerate(events):
        disk.apply(event)
        if number not in cuts:
            continue
        promised = [
            line.split()[1] for line in printed(events[: number + 1]) if line.startswith(recorded_run.PROMISE)
        ]
        for seed in (None, *range(seeds)):
            shutil.rmtree(elsewhere, ignore_errors=True)
            elsewhere.mkdir()
            disk.rebuild(elsewhere, None if seed is None else random.Random(f"{number} {seed}"))
            yield number, promised


def start_again(root: Path, source: Path) -> None:
    """What the next start does before it sends, and what the end of a run does."""
    endpoint = Address("http://127.0.0.1:9/v1/chat/completions", None)
    config = RunConfig(model="gpt-4o", rows_per_part=4)
    mill = Session.open(Job(source, root / RUN, config, (endpoint,)), Console())
    try:
        asyncio.run(mill._checkpoint.finish())
    finally:
        mill.close()


def check(root: Path, source: Path, promised: list[str]) -> None:
    """No torn file under a final name; after the next start each promised row is there, each row once."""
    folder = RunFolder(root / RUN)
    for path in parts.on_disk(folder.results).values():
        parts.read_part(path)
    if folder.run_json.exists():
        folder.read_run()
    if promised:
        assert folder.run_json.exists()
    start_again(root, source)
    ids = Counter(parts.read_ids(folder.failures))
    for path in parts.on_disk(folder.results).values():
        ids.update(parts.read_part(path).keys())
    assert not set(promised) - ids.keys(), "a row that was recorded is lost"
    assert set(ids.values()) <= {1}, "a row is there twice"


def cut_everywhere(tmp_path: Path, rows: int, answer: str, cuts: int, seeds: int) -> int:
    """Returns in how many states the disk was."""
    root = tmp_path.resolve()
    events = record_two_starts(root, rows, answer)
    mine = [n for n, e in enumerate(events) if e.path.is_relative_to(root / "new")]
    chosen = set(mine[:: max(1, len(mine) // cuts)])
    count = 0
    for number, promised in states(events, root, tmp_path / "after", chosen, seeds):
        try:
            check(tmp_path / "after", root / "p", promised)
        except Exception as error:
            error.add_note(f"cut after event {number} of {len(events)}: {events[number]}"[:300])
            raise
        count += 1
    assert len(promised) > 1.5 * rows
    return count


def test_a_power_cut_loses_nothing_that_was_recorded(tmp_path):
    """At 24 moments, in the worst state and in one by chance."""
    assert cut_everywhere(tmp_path, 10, "a picture", cuts=24, seeds=1) >= 48


@pytest.mark.slow
def test_a_power_cut_at_any_moment(tmp_path):
    """The same at 200 moments, in three states by chance."""
    print(cut_everywhere(tmp_path, 10, "a picture", cuts=200, seeds=3), "states")


@pytest.mark.slow
def test_a_power_cut_while_the_journal_takes_over_its_log(tmp_path):
    """Answers so long that SQLite copies its log into the file, and begins it anew, several times."""
    print(cut_everywhere(tmp_path, 60, "a picture " * 6_000, cuts=100, seeds=2), "states")
