"""The rate at which a server refuses only now and then, found out from its refusals. Pure.

Theory of operation
-------------------
A relay with a quota that nobody published, or a limit that was lowered in silence, shows in one way
only: 429. A server's bucket is empty at each refusal, so between two of them it gave out just what was
refilled: tokens used / time between is its limit, whatever we sent meanwhile and however large the
bucket is. That is measured over five seconds at least; two refusals closer together halve the pace.

From there the pace goes as TCP CUBIC's window (RFC 9438): from a little under what was measured up to
it in a quarter of a minute, flat there, then ever faster. So the server's bucket gets a cushion that is
used up later: nothing is lost, a steady limit is touched every half minute by a request or two, and one
that came back is found within the half minute too.
"""

from __future__ import annotations

import math
from collections import deque

PLATEAU_SECONDS = 15.0
SHORTEST_MEASURE_SECONDS = 5.0
# in a longer time without a refusal the bucket may have been full: what it gave is then less than its limit
LONGEST_MEASURE_SECONDS = 60.0
KEEP_OF_MEASURED = 0.85
KEEP_OF_GUESSED = 0.5
RECENT_SECONDS = 10
FEWEST_FOR_A_RATE = 4
FEWEST_BETWEEN = 4  # requests between two refusals, where they are for our rate
EARLY_TO_GIVE_UP = 8
GIVEN_UP_SECONDS = 60.0
LONGEST_GUESSED_SECONDS = 1.0
SHORTEST_GUESSED_SECONDS = 0.05


class Pace:
    """Tokens per minute that may be sent to one endpoint, as its refusals show. All times of one clock."""

    def __init__(self) -> None:
        self._total = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_SECONDS)  # (time, total), one a second
        self._anchor: tuple[float, float] | None = None  # a moment at which the server's bucket was empty
        self._refused_at = float("-inf")
        self._peak: float | None = None  # tokens per minute, at which it refused
        self._keep = KEEP_OF_GUESSED
        self._early = 0  # refusals, each with hardly a request since the last
        self._taken = 0  # requests since the last refusal that were not refused
        self._given_up_until = float("-inf")

    def sent(self, now: float, tokens: float) -> None:
        """So many were sent; negative for what turned out as unused."""
        if not self._recent or now - self._recent[-1][0] >= 1.0:
            self._recent.append((now, self._total))
        self._total += tokens

    def refused(self, now: float, sent_at: float, tokens: float, hold_seconds: float) -> None:
        """The server refused a request of so many tokens, and everybody holds so long for it."""
        self.sent(now, -tokens)
        if sent_at <= self._refused_at or now < self._given_up_until:
            return  # it was out already when we learned of the last one
        self._early = self._early + 1 if self._taken < FEWEST_BETWEEN else 0
        self._taken = 0
        if self._early >= EARLY_TO_GIVE_UP:
            self._give_up(now, _one_each(tokens, hold_seconds))
            return
        if self._anchor is not None and self._measure(now, *self._anchor):
            return
        guess = self._recent_per_minute(now, tokens) or _one_each(tokens, hold_seconds)
        slowest = _one_each(tokens, LONGEST_GUESSED_SECONDS) / KEEP_OF_GUESSED
        self._peak = max(min(guess, self.per_minute(now) or guess), slowest)
        self._keep = KEEP_OF_GUESSED
        if self._anchor is None or now - self._anchor[0] > LONGEST_MEASURE_SECONDS:
            self._anchor = (now, self._total)
        self._refused_at = now

    def answered(self) -> None:
        """The server took a request."""
        self._taken += 1

    def per_minute(self, now: float) -> float | None:
        """The pace; None while nothing was refused."""
        if self._peak is None:
            return None
        at = (now - self._refused_at) / PLATEAU_SECONDS - 1.0
        growth = 1.0 + (1.0 - self._keep) * at**3
        return self._peak * growth * math.exp2(min(max(0.0, at - 2.0), 60.0))

    def forget(self) -> None:
        """The pace is above what is allowed anyway."""
        self._peak = None

    def _give_up(self, now: float, per_minute: float) -> None:
        self._peak, self._keep = per_minute, 1.0
        self._anchor = None
        self._early = 0
        self._refused_at = now
        self._given_up_until = now + GIVEN_UP_SECONDS

    def _measure(self, now: float, since: float, total_then: float) -> bool:
        seconds = now - since
        if not SHORTEST_MEASURE_SECONDS <= seconds <= LONGEST_MEASURE_SECONDS or self._total <= total_then:
            return False
        self._peak = (self._total - total_then) * 60.0 / seconds
        self._keep = KEEP_OF_MEASURED
        self._anchor = (now, self._total)
        self._refused_at = now
        return True

    def _recent_per_minute(self, now: float, tokens: float) -> float | None:
        """The rate of the last seconds; None where it is one of a handful of requests."""
        if not self._recent:
            return None
        time, total = self._recent[0]
        if self._total - total < FEWEST_FOR_A_RATE * tokens:
            return None
        return (self._total - total) * 60.0 / max(now - time, 1.0)


def _one_each(tokens: float, seconds: float) -> float:
    """As often as the server says that it will take one, a request a second at least."""
    return tokens * 60.0 / min(max(seconds, SHORTEST_GUESSED_SECONDS), LONGEST_GUESSED_SECONDS)
