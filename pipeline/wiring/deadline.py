"""When a run is to be over, by the clock on the wall: a laptop that slept through the night is late, not early."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from ..nouns.errors import RunError

_LOOK_SECONDS = 15.0  # the loop's clock stands still while a machine sleeps
_UNITS = {"h": "hours", "m": "minutes", "s": "seconds"}


def ends_at(deadline: str, now: datetime) -> datetime:
    """The moment that `--deadline` means at a start at `now`: so much later, or the next time the clock says so."""
    if ":" in deadline:
        hour, minute = map(int, deadline.split(":"))
        end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return end if end > now else end + timedelta(days=1)
    return now + timedelta(**{_UNITS[unit]: int(n) for n, unit in re.findall(r"(\d+)([hms])", deadline)})


async def keep(
    deadline: str, stop: Callable[[RunError], None], clock: Callable[[], datetime] = datetime.now
) -> None:
    """Stop the run when it is time; what is out is answered and saved."""
    end = ends_at(deadline, clock())
    while (left := (end - clock()).total_seconds()) > 0:  # noqa: ASYNC110  the wall has no event
        await asyncio.sleep(min(left, _LOOK_SECONDS))
    stop(RunError(f"the deadline ({deadline}) is reached", kind="deadline"))
