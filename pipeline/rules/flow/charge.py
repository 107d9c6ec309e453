"""What a server takes from its quota for a token that we reserve, learned from its reports. Pure.

What a server charges need not be what it reports as used (OpenAI takes max_tokens and a flat amount a
picture up front). Where it takes more than we reserve, its level falls faster than ours: over five
seconds and more the ratio of the two falls is the charge for a reserved token, and from then on that
much is reserved. Where it takes less, the reports raise our level; nothing need be learned.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import NamedTuple

from .window import WINDOW_SECONDS

SHORTEST_MEASURE_SECONDS = 5.0
SHORTEST_MEASURE_LATENCIES = 4.0  # a report may be as old as its request: the window must be long beside it
MOST_CHARGE = 10.0
FULL_SHARE = 0.95  # a bucket that full may have lost refill: nothing can be measured by it


class _Mark(NamedTuple):
    """What a server had left at a time (seconds), and what it had been sent by then."""

    time: float
    remaining: float
    sent: float


class ChargeMeter:
    """The charge of one server-reported limit. All amounts are in the unit of that limit."""

    def __init__(self) -> None:
        self._mark: _Mark | None = None  # where the measure that runs now began; set by `measure`
        self._ratios: deque[float] = deque(maxlen=3)  # measured charges, newest last; set by `measure`
        self._refused = 0.0  # of what was granted, what the server did not take; grows in `refused`

    @property
    def factor(self) -> float:
        """What the server takes for a unit that we reserve; 1 and more."""
        return max(1.0, statistics.median(self._ratios)) if self._ratios else 1.0

    def refused(self, amount: float) -> None:
        """The server did not take `amount` of what was granted."""
        self._refused += amount

    def measure(
        self, now: float, limit: float, remaining: float, granted: float, latency_seconds: float
    ) -> None:
        """Take in one report. granted: everything granted until now, in all."""
        sent = granted - self._refused
        if self._mark is None or remaining >= FULL_SHARE * limit:
            self.restart(now, remaining, granted)
            if self._ratios and remaining >= FULL_SHARE * limit:
                self._ratios.append(1.0)  # it has more than enough: what was learned is not so
            return
        seconds, sent_since = now - self._mark.time, sent - self._mark.sent
        shortest = max(SHORTEST_MEASURE_SECONDS, SHORTEST_MEASURE_LATENCIES * latency_seconds)
        if seconds >= shortest and sent_since > 0:
            taken = self._mark.remaining - remaining + seconds * limit / WINDOW_SECONDS
            self._ratios.append(min(self.factor * taken / sent_since, MOST_CHARGE))
            self._mark = _Mark(now, remaining, sent)

    def restart(self, now: float, remaining: float, granted: float) -> None:
        """Begin a new measure: the limit has changed, or the server's bucket is full."""
        self._mark = _Mark(now, remaining, granted - self._refused)
