"""A full disk: one minute for all that waits, and every lost row is named."""

from __future__ import annotations

import asyncio

import virtual_time
from captionmill.nouns.errors import RunError
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry
from captionmill.store.recovery import open_journal


def test_a_full_disk_gives_up_after_its_minute_and_names_every_row(tmp_path):
    """The rows that came while the first one waited get no minute of their own; the start says so meanwhile."""
    folder, told = RunFolder(tmp_path / "run"), []
    folder.lock()
    checkpoint = Checkpoint(folder, open_journal(folder), 10, tell=told.append)

    async def full(*_arguments):
        raise RunError("journal: cannot be written (No space left on device)", kind="disk")

    checkpoint._commit = full

    async def go():
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(checkpoint.record(Entry("0", None, "{}")))
        await asyncio.sleep(5)
        rest = [asyncio.create_task(checkpoint.record(Entry(f"{n}", None, "{}"))) for n in range(1, 16)]
        assert checkpoint.trouble is not None
        began = loop.time() - 5
        errors = await asyncio.gather(first, *rest, return_exceptions=True)
        late = await asyncio.gather(checkpoint.record(Entry("late", None, "{}")), return_exceptions=True)
        return loop.time() - began, errors, late

    seconds, errors, late = virtual_time.run(go())
    assert seconds < 63
    assert len(told) == 1
    assert all(f"{n}" in str(errors[0]).rpartition(": ")[2].split(", ") for n in range(16))
    assert "17 finished rows" in str(late[0])
    folder.unlock()
