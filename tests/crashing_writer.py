"""A process that records rows and dies, without any goodbye, at the N-th step inside the checkpoint.

    python crashing_writer.py RUN FIRST_ROW LAST_ROW DIE_AT

A step is a call, a return or a call into C (execute, fsync, rename ...) in any file of store/. Prints
each row's id when `record` has returned: from then on it must never be lost. DIE_AT 0 means live; then
the number of steps is printed last.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from captionmill import store
from captionmill.nouns.rows import Choice, Failure, Outcome, Reply, Row, Usage
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry
from captionmill.store.parts import to_record
from captionmill.store.recovery import open_journal

ROWS_PER_PART = 4
_WATCHED = str(Path(str(store.__file__)).parent)


class Executioner:
    def __init__(self, die_at: int) -> None:
        self.die_at = die_at
        self.steps = 0

    def __call__(self, frame, event, argument) -> None:
        if frame.f_code.co_filename.startswith(_WATCHED):
            self.steps += 1
            if self.steps == self.die_at:
                os._exit(9)


def entry(number: int) -> Entry:
    row = Row(f"r{number:03d}", (f"{number}.jpg",), (f"/{number}.jpg",), "p")
    if number % 5 == 3:
        outcome = Outcome(row, 1.0, 2.0, 1, failure=Failure("image_broken", "broken"))
        return Entry(row.id, "image_broken", to_record(outcome, "m"))
    reply = Reply((Choice(0, f"answer {number}", "stop", "stop"),), Usage(1, 1, 2))
    return Entry(row.id, None, to_record(Outcome(row, 1.0, 2.0, 1, reply=reply), "m"))


async def write(folder: RunFolder, numbers: range) -> None:
    checkpoint = Checkpoint(folder, open_journal(folder), ROWS_PER_PART)
    try:

        async def one(number: int) -> None:
            await checkpoint.record(entry(number))
            os.write(1, f"r{number:03d}\n".encode())

        for start in range(numbers.start, numbers.stop, 3):
            await asyncio.gather(*(one(n) for n in range(start, min(start + 3, numbers.stop))))
        await checkpoint.finish()
    finally:
        checkpoint.close()


def main() -> None:
    run, first, last, die_at = sys.argv[1], *map(int, sys.argv[2:5])
    executioner = Executioner(die_at)
    threading.setprofile(executioner)
    sys.setprofile(executioner)
    folder = RunFolder(Path(run))
    folder.lock()
    asyncio.run(write(folder, range(first, last)))
    sys.setprofile(None)
    threading.setprofile(None)
    print(executioner.steps)


if __name__ == "__main__":
    main()
