"""The real command, which prints the id of each row when `record` has returned: from then on it is promised."""

from __future__ import annotations

import os
import sys

from jobs.__main__ import main
from pipeline.edges.journal import Entry
from pipeline.wiring.checkpoint import Checkpoint

PROMISE = "promised "
_record = Checkpoint.record


async def _record_and_tell(self: Checkpoint, entry: Entry) -> None:
    await _record(self, entry)
    os.write(1, f"{PROMISE}{entry.id}\n".encode())


if __name__ == "__main__":
    Checkpoint.record = _record_and_tell  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
