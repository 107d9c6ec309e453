"""How long to wait before another attempt: exponential backoff with jitter. Pure but for its chance."""

from __future__ import annotations

import random

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0


class Backoff:
    """chance: the source of the jitter; tests hand in a seeded one."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def seconds(self, attempt: int) -> float:
        """Before attempt `attempt` + 1: doubles from half a second to a minute, less up to half by chance."""
        longest = min(FIRST_WAIT_SECONDS * 2.0 ** min(attempt - 1, 30), LONGEST_WAIT_SECONDS)
        return longest * self._chance.uniform(0.5, 1.0)

    def scatter_seconds(self, attempt: int, asked_seconds: float) -> float:
        """After a pause that a server asked for and the limiter keeps: rows refused together come back apart."""
        return self._chance.uniform(0.0, min(self.seconds(attempt), 2 * asked_seconds + 0.5))
