"""A token bucket for one limit per minute, of tokens or of requests. Pure: `now` comes in from outside.

Theory of operation
-------------------
It answers one question, `wait_seconds(now, amount)`, in one of two states.

  Own account: the server does not report its quota. A bucket that refills continuously at limit/60 a
  second and holds `burst_seconds` of it spaces the requests, and a sliding window of 60 seconds keeps
  their sum at or under the limit. Law: no 60-second window is over the limit.

  Server-reported: the server reports what is left of a limit that is no larger than ours
  (x-ratelimit-*). Its bucket is then the truth and ours mirrors it: a full minute of capacity, the level
  set anew by each report. Law: never more than the server said was left, plus the refill since.

What a report is worth. A server writes `remaining` either when it admits a request or when it
answers it, and we cannot tell which. With A = what we were granted after the request that brings
the report, L = its latency, and U = what was granted in the last moments and may still be on its way,
in any order of arrival, its level now is at least remaining - max(A - refill(L), U) and at most
remaining + max(0, refill(L) - A). Our own account is kept while it lies between the two, and moved
to the nearer end where it does not: a server that charges less than we reserve raises it, other users
of the key lower it.

A request above the bucket but within the minute takes a full bucket and leaves a debt. A request
above the whole minute can never be sent and fails at once. The order of those who wait is the
dispatcher's matter (wiring/dispatcher.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from .charge import ChargeMeter
from .window import WINDOW_SECONDS, SlidingWindow, WindowEntry

# a server's clock is not ours: what it reports is used up to so much refill, a constant that costs no rate
MARGIN_SECONDS = 0.02
# a request granted so recently may not have reached the server when it wrote its report
TRANSIT_SECONDS = 0.25
# floats: a wait of less than this is no wait (a loop could spin on 1e-15 missing tokens)
EPSILON = 1e-9


@dataclass(slots=True, eq=False)
class Grant:
    """What one admission took from one bucket.

    time: when, in seconds. amount: in the bucket's unit; changes when it is settled. granted: everything that
    the bucket had granted up to and with this one. entry: where the window counts it.
    """

    time: float
    amount: float
    granted: float
    entry: WindowEntry


class TokenBucket:
    """One limit per minute.

    limit_per_minute: as configured; infinite where only the server knows one. burst_seconds: what the bucket
    holds, in seconds of the limit. All `now` are seconds of one monotonic clock.
    """

    def __init__(self, limit_per_minute: float, burst_seconds: float) -> None:
        self.configured = float(limit_per_minute)  # never changes
        self.limit_per_minute = self.configured  # in force; lower while the server says so (`report`)
        self.is_server_reported = False  # whether the server's reports are the truth; set by `report`
        self.charge = ChargeMeter()  # learns while server-reported
        self._burst_seconds = burst_seconds
        # what may be taken at `_updated`, negative for a debt. It starts empty: the quota may be used up, and
        # a burst into an empty one is a storm. Changed by take, settle, report and empty
        self._level = 0.0
        self._updated: float | None = None  # the time of `_level`; None before `start` or the first change
        self._granted = 0.0  # everything that was taken so far; grows in `take`
        self._window = SlidingWindow()

    def __repr__(self) -> str:
        state = "server-reported" if self.is_server_reported else "own account"
        return f"<TokenBucket {self.limit_per_minute:g}/min {state} level={self._level:.1f}>"

    def start(self, now: float) -> None:
        """Refill from now on; a bucket that refills already goes on."""
        if self._updated is None:
            self._updated = now

    def used_last_minute(self, now: float) -> float:
        """What was taken in the last 60 seconds."""
        return self._window.total(now)

    def wait_seconds(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 when now."""
        amount *= self._factor
        rate = self._rate_per_second
        margin = rate * MARGIN_SECONDS if self.is_server_reported else 0.0
        need = min(amount + margin, self._capacity)  # the rest becomes a debt
        wait = (need - self._level_at(now)) / rate
        if not self.is_server_reported:
            excess = self._window.total(now) + amount - self.limit_per_minute
            wait = max(wait, self._window.wait_seconds(now, excess) if excess > EPSILON else 0.0)
        return wait if wait > EPSILON else 0.0

    def take(self, now: float, amount: float) -> Grant:
        """Take `amount`; a debt stays where less is there."""
        self._advance(now)
        amount *= self._factor
        self._level -= amount
        self._granted += amount
        return Grant(now, amount, self._granted, self._window.add(now, amount))

    def settle(self, now: float, grant: Grant, used: float) -> None:
        """Correct a grant to what was used; the difference is there again at once."""
        self._advance(now)
        used = min(
            used, self.limit_per_minute
        )  # a server that reports more than a minute holds has miscounted
        difference = grant.amount - used
        grant.amount = used
        self._level = min(self._level + difference, self._capacity)
        self._window.correct(now, grant.entry, -difference)

    def report(self, now: float, grant: Grant, limit: float, remaining: float) -> None:
        """Take over what the server reports with the answer to the request that holds `grant`."""
        self._advance(now)
        granted_since = self._granted - grant.granted
        refilled = (now - grant.time) * limit / WINDOW_SECONDS
        at_most = remaining + max(0.0, refilled - granted_since)
        if limit > self.configured * 1.01:  # ours is a part of it: only bad news counts
            self.limit_per_minute, self.is_server_reported = self.configured, False
            self._level = min(self._level, at_most)
            return
        at_least = remaining - max(granted_since - refilled, self._in_transit(now, grant))
        self._level = min(max(self._level, at_least), at_most) if self.is_server_reported else at_least
        if limit != self.limit_per_minute:
            self.charge.restart(now, remaining, self._granted)
        self.charge.measure(now, limit, remaining, self._granted, now - grant.time)
        self.limit_per_minute = float(limit)
        self.is_server_reported = True

    def refused(self, grant: Grant) -> None:
        """The server did not take it; how much it has left is in its report."""
        self.charge.refused(grant.amount)

    def empty(self, now: float) -> None:
        """The server refused for want of this: what we thought was left is not there."""
        self._advance(now)
        self._level = min(self._level, 0.0)

    @property
    def _factor(self) -> float:
        return self.charge.factor if self.is_server_reported else 1.0

    @property
    def _rate_per_second(self) -> float:
        return self.limit_per_minute / WINDOW_SECONDS

    @property
    def _capacity(self) -> float:
        if self.is_server_reported:
            return self.limit_per_minute
        return max(self._rate_per_second * self._burst_seconds, EPSILON)

    def _level_at(self, now: float) -> float:
        if self._updated is None or now <= self._updated:
            return self._level
        refilled = self._level + (now - self._updated) * self._rate_per_second
        return min(refilled, max(self._capacity, self._level))

    def _advance(self, now: float) -> None:
        """Bring `_level` to `now`. Called by everything that changes it, never by a query."""
        self._level = self._level_at(now)
        self._updated = now

    def _in_transit(self, now: float, answered: Grant) -> float:
        """What was granted so recently that the server may not have seen it, in any order of arrival."""
        since = now - TRANSIT_SECONDS
        own = answered.amount if answered.time > since else 0.0
        return self._window.since(since) - own
