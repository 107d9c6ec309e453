"""How much may be sent now: tokens per minute and requests per minute. Pure: `now` comes in from outside.

Theory of operation
-------------------
One `TokenBucket` a limit. It answers one question, `wait_seconds(now, amount)`, in one of two states.

  Unheard: nobody told us the state of the server's quota. A bucket that refills continuously at
  limit/60 a second and holds `burst_seconds` of it spaces the requests, and a log of the last 60
  seconds keeps their sum at or under the limit. Law: no 60-second window is over the limit.

  Heard: the server reports what is left of a limit that is no larger than ours (x-ratelimit-*).
  Then its bucket is the truth and ours mirrors it: full minute of capacity, level set anew by each
  report. Law: never more than what the server said was left, plus the refill since.

What a report is worth. A server writes `remaining` either when it admits a request or when it
answers it, and we cannot tell which. With A = what we were granted after the request that brings
the report, L = its latency, and U = what was granted in the last moments and may still be on its way,
in whatever order it arrives, its level now is at least remaining - max(A - refill(L), U) and at most
remaining + max(0, refill(L) - A). Our own account is kept while it lies between the two, and moved
to the nearer end where it does not: a server that charges less than we reserve raises it, other users
of the key lower it.

What a server charges need not be what it reports as used (OpenAI takes max_tokens and a flat amount a
picture up front). Where it takes more than we reserve, its level falls faster than ours: over five
seconds and more the ratio of the two falls is the charge for a reserved token, and from then on that
much is reserved. Where it takes less, the reports raise our level; nothing need be learned.

A request above the bucket but within the minute takes a full bucket and leaves a debt. A request
above the whole minute can never be sent and fails at once. Who waits, and in which order, is the
gate's matter (see gate.py).
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from ...nouns.errors import RowError
from ...nouns.rows import LimitReport

WINDOW_SECONDS = 60.0
# a server's clock is not ours: what it reports is used up to so much refill, a constant that costs no rate
MARGIN_SECONDS = 0.02
# a request granted so recently may not have reached the server when it wrote its report
TRANSIT_SECONDS = 0.25
CHARGE_SECONDS = 5.0
CHARGE_LATENCIES = 4.0
MOST_CHARGE = 10.0
FULL_SHARE = 0.95  # a bucket that full may have lost refill: nothing can be measured by it
# floats: a wait of less than this is no wait (a loop could spin on 1e-15 missing tokens)
EPSILON = 1e-9


# grants within so many seconds share an entry of the log; the entry ages as its youngest grant does
ENTRY_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class _Entry:
    """One line of the log of the last minute."""

    first_time: float
    time: float
    amount: float


@dataclass(slots=True, eq=False)
class _Mark:
    """What a server had left at a time, and what it had been sent by then."""

    time: float
    remaining: float
    sent_total: float


@dataclass(slots=True, eq=False)
class Grant:
    """What one admission took from one allowance. amount shrinks or grows when it is settled."""

    time: float
    amount: float
    total_after: float  # everything granted up to and with this one
    entry: _Entry


class TokenBucket:
    """One limit per minute. Pure: every method takes `now` in seconds of any monotonic clock."""

    def __init__(self, limit_per_minute: float, burst_seconds: float) -> None:
        self.configured = float(limit_per_minute)
        self.limit_per_minute = self.configured  # lower while the server says so
        self.pace: float | None = None  # what flows in, where that is not the limit
        self._burst_seconds = burst_seconds
        self._level = (
            0.0  # nobody knows what the quota holds at the start; a burst into an empty one is a storm
        )
        self._updated: float | None = None
        self._granted_total = 0.0
        self._window: deque[_Entry] = deque()
        self._window_sum = 0.0
        self.is_heard = False
        self._refused_total = 0.0  # of what was granted, what the server did not take
        self._mark: _Mark | None = None
        self._charges: deque[float] = deque(maxlen=3)  # measured: what a reserved token costs there

    def __repr__(self) -> str:
        state = "heard" if self.is_heard else "unheard"
        return (
            f"<TokenBucket {self.rate_per_second * WINDOW_SECONDS:g}/min {state} level={self._level:.1f}"
            f" last_minute={self._window_sum:.1f}>"
        )

    @property
    def rate_per_second(self) -> float:
        """What flows into the bucket."""
        limit = self.limit_per_minute if self.pace is None else min(self.limit_per_minute, self.pace)
        return limit / WINDOW_SECONDS

    @property
    def _capacity(self) -> float:
        return (
            self.limit_per_minute
            if self.is_heard
            else max(self.rate_per_second * self._burst_seconds, EPSILON)
        )

    def set_pace(self, now: float, pace: float | None) -> None:
        """Tokens per minute from now on; None for the limit itself."""
        if pace != self.pace:
            self._advance(now)
            self.pace = pace

    @property
    def charge(self) -> float:
        """What the server takes for a token that we reserve; 1 and more."""
        return max(1.0, statistics.median(self._charges)) if self._charges and self.is_heard else 1.0

    def used_last_minute(self, now: float) -> float:
        self._advance(now)
        return self._window_sum

    def wait_seconds(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be taken; 0 when now."""
        self._advance(now)
        amount *= self.charge
        margin = self.rate_per_second * MARGIN_SECONDS if self.is_heard else 0.0
        need = min(amount + margin, self._capacity)  # the rest becomes a debt
        wait = (need - self._level) / self.rate_per_second
        if not self.is_heard:
            wait = max(wait, self._window_wait(now, amount))
        return wait if wait > EPSILON else 0.0

    def take(self, now: float, amount: float) -> Grant:
        self._advance(now)
        amount *= self.charge
        self._level -= amount
        self._granted_total += amount
        self._window_sum += amount
        return Grant(now, amount, self._granted_total, self._log(now, amount))

    def _log(self, now: float, amount: float) -> _Entry:
        entry = self._window[-1] if self._window else None
        if entry is None or now - entry.first_time > ENTRY_SECONDS:
            entry = _Entry(now, now, 0.0)
            self._window.append(entry)
        entry.time = now
        entry.amount += amount
        return entry

    def settle(self, now: float, grant: Grant, used: float) -> None:
        """Correct a grant to what was really used; the difference is there again at once."""
        self._advance(now)
        used = min(
            used, self.limit_per_minute
        )  # a server that reports more than a minute holds has miscounted
        difference = grant.amount - used
        grant.amount = used
        self._level = min(self._level + difference, self._capacity)
        if grant.entry.time > now - WINDOW_SECONDS:
            grant.entry.amount -= difference
            self._window_sum -= difference

    def hear(self, now: float, grant: Grant, limit: float, remaining: float) -> None:
        """Take over what the server reports with the answer to the request that holds `grant`."""
        self._advance(now)
        granted = self._granted_total - grant.total_after
        refilled = (now - grant.time) * limit / WINDOW_SECONDS
        at_most = remaining + max(0.0, refilled - granted)
        if limit > self.configured * 1.01:  # ours is a part of it: only bad news counts
            self.limit_per_minute, self.is_heard = self.configured, False
            self._level = min(self._level, at_most)
            return
        at_least = remaining - max(granted - refilled, self._on_their_way(now, grant))
        self._level = min(max(self._level, at_least), at_most) if self.is_heard else at_least
        self._measure_charge(now, limit, remaining, now - grant.time)
        self.limit_per_minute = float(limit)
        self.is_heard = True

    def _measure_charge(self, now: float, limit: float, remaining: float, latency_seconds: float) -> None:
        mark = self._mark
        if mark is None or limit != self.limit_per_minute or remaining >= FULL_SHARE * limit:
            self._mark = _Mark(now, remaining, self._granted_total - self._refused_total)
            if self._charges and remaining >= FULL_SHARE * limit:
                self._charges.append(1.0)  # it has more than enough: whatever was learned is not so
            return
        sent_total = self._granted_total - self._refused_total
        seconds, sent = now - mark.time, sent_total - mark.sent_total
        # a report may be as old as its request: the window must be long beside that
        if seconds >= max(CHARGE_SECONDS, CHARGE_LATENCIES * latency_seconds) and sent > 0:
            taken = mark.remaining - remaining + seconds * limit / WINDOW_SECONDS
            self._charges.append(min(self.charge * taken / sent, MOST_CHARGE))
            self._mark = _Mark(now, remaining, sent_total)

    def refused(self, grant: Grant) -> None:
        """The server did not take it; how much it has left is in its report."""
        self._refused_total += grant.amount

    def empty(self, now: float) -> None:
        """The server refused for want of this: whatever we thought was left is not there."""
        self._advance(now)
        self._level = min(self._level, 0.0)

    def _on_their_way(self, now: float, answered: Grant) -> float:
        """What was granted so recently that the server may not have seen it, in whatever order it arrives."""
        since = now - TRANSIT_SECONDS
        amount = -answered.amount if answered.time > since else 0.0
        for entry in reversed(self._window):
            if entry.time <= since:
                break
            amount += entry.amount
        return amount

    def _advance(self, now: float) -> None:
        if now == self._updated:
            return
        if self._updated is not None and now > self._updated:
            refill = (now - self._updated) * self.rate_per_second
            self._level = min(self._level + refill, max(self._capacity, self._level))
        self._updated = now
        while self._window and self._window[0].time <= now - WINDOW_SECONDS:
            self._window_sum -= self._window.popleft().amount
        if not self._window:
            self._window_sum = 0.0  # no float dust after hours

    def _window_wait(self, now: float, amount: float) -> float:
        excess = self._window_sum + amount - self.limit_per_minute
        if excess <= EPSILON:
            return 0.0
        for entry in self._window:
            excess -= entry.amount
            if excess <= EPSILON:
                return entry.time + WINDOW_SECONDS - now
        return WINDOW_SECONDS


@dataclass(slots=True)
class Admission:
    """Permission for one attempt; handed back to `settle`, `hear`."""

    tokens: Grant | None
    requests: Grant | None
    paced: Grant | None


class Limiter:
    """The limits of one endpoint.

    tokens_per_minute, requests_per_minute: None means no limit is known; one that the server
    reports is then taken over. All `now` are of one monotonic clock.
    """

    def __init__(
        self,
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        burst_seconds: float = 1.0,
    ) -> None:
        self._burst_seconds = burst_seconds
        self._is_given = tokens_per_minute is not None
        self.tokens = self._allowance(tokens_per_minute)
        self.requests = self._allowance(requests_per_minute)
        self._paced: TokenBucket | None = None  # while refusals show a limit that nobody told (see pace.py)
        self._closed_until = float("-inf")

    def __repr__(self) -> str:
        return (
            f"<Limiter tokens={self.tokens} requests={self.requests} closed_until={self._closed_until:.3f}>"
        )

    def _allowance(self, limit: float | None) -> TokenBucket | None:
        return TokenBucket(limit, self._burst_seconds) if limit else None

    def refuse_impossible(self, tokens: float) -> None:
        """Raises RowError where `tokens` is above what a whole minute allows.

        Against the limit that was given. One that a server reports is for the server to enforce.
        """
        if self.tokens and self._is_given and tokens > self.tokens.configured:
            raise RowError(
                f"the request needs about {tokens:,.0f} tokens, more than the whole limit of"
                f" {self.tokens.configured:,.0f} tokens per minute: it can never be sent"
                " (lower --max-tokens or --max-side, or raise --tpm)",
                kind="over_limit",
            )

    def wait_seconds(self, now: float, tokens: float) -> float:
        """Seconds until a request of so many tokens may be sent; 0 when now."""
        wait = self._closed_until - now
        if self.tokens:
            wait = max(wait, self.tokens.wait_seconds(now, tokens))
        if self.requests:
            wait = max(wait, self.requests.wait_seconds(now, 1))
        if self._paced:
            wait = max(wait, self._paced.wait_seconds(now, tokens))
        return wait if wait > EPSILON else 0.0

    def take(self, now: float, tokens: float) -> Admission:
        """Take `tokens` and one request."""
        return Admission(
            self.tokens.take(now, tokens) if self.tokens else None,
            self.requests.take(now, 1) if self.requests else None,
            self._paced.take(now, tokens) if self._paced else None,
        )

    def settle(self, now: float, admission: Admission, used_tokens: float) -> None:
        """The answer came: replace the estimate by what was used."""
        if admission.tokens and self.tokens and not self.tokens.is_heard:
            self.tokens.settle(now, admission.tokens, used_tokens)
        if admission.paced and self._paced:
            self._paced.settle(now, admission.paced, used_tokens)

    def hear(
        self,
        now: float,
        admission: Admission,
        tokens: LimitReport | None = None,
        requests: LimitReport | None = None,
    ) -> None:
        """The server said how much is left."""
        self.tokens = self._hear_one(self.tokens, admission.tokens, tokens, now)
        self.requests = self._hear_one(self.requests, admission.requests, requests, now)

    def refused(self, now: float, admission: Admission) -> None:
        """The server answered 429: none of it was charged."""
        self.settle(now, admission, 0)
        for allowance, grant in ((self.tokens, admission.tokens), (self.requests, admission.requests)):
            if allowance and grant:
                allowance.refused(grant)

    def close_until(self, now: float, time: float) -> None:
        """Nobody passes before `time`; a later time already set stays."""
        for allowance in (self.tokens, self.requests, self._paced):
            if allowance and not allowance.is_heard:
                allowance.empty(now)
        self._closed_until = max(self._closed_until, time)

    def set_pace(self, now: float, pace: float | None) -> None:
        """Send no more than `pace` tokens per minute, whatever the limits say; None for the limits alone."""
        if pace is None:
            self._paced = None
            return
        if self._paced is None:
            self._paced = TokenBucket(float("inf"), self._burst_seconds)
        self._paced.set_pace(now, pace)

    def has_room(self, now: float, tokens: float) -> bool:
        """Whether, by what is known, such a request had room: a refusal is then for another reason."""
        return not any(
            allowance and allowance.wait_seconds(now, amount) > 0
            for allowance, amount in ((self.tokens, tokens), (self.requests, 1))
        )

    @property
    def tokens_per_minute(self) -> float | None:
        """The limit that holds now, given, reported or found out; None where there is none."""
        limits = [a.rate_per_second * WINDOW_SECONDS for a in (self.tokens, self._paced) if a]
        return min(limits, default=None)

    def tokens_last_minute(self, now: float) -> float | None:
        """Tokens granted in the last 60 seconds; None without a limit."""
        allowance = self.tokens or self._paced
        return allowance.used_last_minute(now) if allowance else None

    def closed_seconds(self, now: float) -> float:
        """Seconds until it opens again; 0 when it is open."""
        return max(0.0, self._closed_until - now)

    @property
    def is_heard(self) -> bool:
        """Whether the server's own account of our tokens is known."""
        return self.tokens is not None and self.tokens.is_heard

    def _hear_one(
        self, allowance: TokenBucket | None, grant: Grant | None, report: LimitReport | None, now: float
    ) -> TokenBucket | None:
        if report is None or report.limit <= 0:
            return allowance
        if allowance is None:
            allowance = TokenBucket(report.limit, self._burst_seconds)
            allowance.configured = float("inf")  # nobody gave one: whatever the server says, now and later
            grant = allowance.take(now, 0.0)
        if grant is not None:
            allowance.hear(now, grant, report.limit, report.remaining)
        return allowance
