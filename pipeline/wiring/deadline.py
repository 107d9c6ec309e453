"""When a run is to be over, by the clock on the wall: a laptop that slept through the night is late, not early."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta
from typing import Protocol

from ..nouns.errors import RunError

_LOOK_SECONDS = 15.0  # the loop's clock stands still while a machine sleeps
_UNITS = {"h": "hours", "m": "minutes", "s": "seconds"}


def now() -> datetime:
    """The time of the clock on the wall."""
    return datetime.now()


def ends_at(deadline: str, start: datetime) -> datetime:
    """The moment that `--deadline` means of a start at `start`: so much later, or the next time the clock says so."""
    if ":" in deadline:
        hour, minute = map(int, deadline.split(":"))
        end = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return end if end > start else end + timedelta(days=1)
    return start + timedelta(**{_UNITS[unit]: int(n) for n, unit in re.findall(r"(\d+)([hms])", deadline)})


class Stoppable(Protocol):
    """A runner."""

    def stop(self, error: RunError | None = None) -> None:
        """Send nothing more; what is in flight is answered and saved."""


async def watch_deadline(deadline: str, runner: Stoppable) -> None:
    """Stop the run when it is time."""
    end = ends_at(deadline, now())
    while (left := (end - now()).total_seconds()) > 0:  # noqa: ASYNC110  the clock on the wall has no event
        await asyncio.sleep(min(left, _LOOK_SECONDS))
    runner.stop(RunError(f"the deadline ({deadline}) is reached", kind="deadline"))
