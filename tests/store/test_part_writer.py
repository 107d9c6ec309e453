"""When a part is due: by number of answers, soon after the start, some minutes after the last one."""

from __future__ import annotations

import asyncio

import pytest
from captionmill.nouns.errors import RunError
from captionmill.store import part_writer, parts
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry
from captionmill.store.recovery import open_journal


class Clock:
    """Time of the part writer, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(part_writer, "time", clock)
    return clock


def numbers_of_rows(tmp_path, steps) -> list[list[int]]:
    """Record answers step by step. steps: (what happens before, answers). The rows of each part after each step."""
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    seen = []

    async def run() -> None:
        checkpoint = Checkpoint(folder, open_journal(folder), rows_per_part=10)
        count = 0
        for prepare, answers in steps:
            prepare()
            entries = [Entry(f"{n}", None, f'{{"id":"{n}"}}', n) for n in range(count, count + answers)]
            count += answers
            await asyncio.gather(*(checkpoint.record(entry) for entry in entries))
            await checkpoint.parts.idle()
            await asyncio.sleep(0)  # the writer hears of its part
            seen.append([parts.count_rows(path) for path in parts.on_disk(folder.results).values()])
        checkpoint.close()

    asyncio.run(run())
    folder.unlock()
    return seen


def test_a_part_is_due_soon_after_the_start_and_minutes_after_the_last_one(tmp_path, clock):
    """With few answers: nothing for five seconds, then what there is; again only after two minutes."""

    def later(seconds: float):
        def move() -> None:
            clock.now += seconds

        return move

    steps = [(later(0), 2), (later(part_writer.FIRST_PART_SECONDS + 0.1), 1)]
    steps += [(later(part_writer.LONGEST_WAIT_SECONDS - 0.1), 1), (later(0.2), 1)]
    assert numbers_of_rows(tmp_path, steps) == [[], [3], [3], [3, 2]]


def test_a_full_part_is_written_at_once(tmp_path, clock):
    """By the number of answers, without regard to the clock; the answers above it wait for the next part."""
    steps = [(lambda: None, 9), (lambda: None, 4), (lambda: None, 7)]
    assert numbers_of_rows(tmp_path, steps) == [[], [10], [10, 10]]


def test_a_part_that_fails_is_tried_again_after_a_pause(tmp_path, clock, monkeypatch):
    """Its answers stay in the journal meanwhile, and rows are recorded as before."""
    real, failures = parts.write_table, []

    def fail(path, _records, _label_columns) -> int:
        failures.append(path)
        raise RunError("full", kind="disk")

    def make_room() -> None:
        monkeypatch.setattr(parts, "write_table", real)

    def wait() -> None:
        clock.now += part_writer.PAUSE_AFTER_FAILURE_SECONDS + 0.1

    def fill() -> None:
        monkeypatch.setattr(parts, "write_table", fail)

    steps = [(fill, 10), (lambda: None, 1), (make_room, 1), (wait, 1)]
    assert numbers_of_rows(tmp_path, steps) == [[], [], [], [10]]
    assert len(failures) == 1
