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

Refusals that go on below the pace, a few among many requests that are taken, are not for our rate: a
relay's upstream key was busy, say. They are passed over for a minute, then longer, as long as they stay
few; only a pause that the server names is kept. And a server that goes on refusing, with hardly a
request taken in between, although ever less is sent, is asked for a minute as often as it says that
it will take one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

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
MANY_BETWEEN = 8  # requests taken between two refusals, where they are strays
STRAYS_TO_PASS_OVER = 3
FEWEST_SINCE_GUESS = 50
FAR_BELOW_SECONDS = 3.0  # after a guess: the pace is at most three quarters of what it was
STRAY_SHARE = 0.05
MOST_STRAY_SHARE = 0.1  # above that, of the last hundred requests, they are no strays
LONGEST_PASS_OVER_SECONDS = 960.0
GIVEN_UP_SECONDS = 60.0
LONGEST_GUESSED_SECONDS = 1.0
SHORTEST_GUESSED_SECONDS = 0.05


@dataclass(slots=True)
class _Outcomes:
    """Requests that were answered and such that were refused."""

    taken: int = 0
    refused: int = 0


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
        self._answered = 0  # since the last refusal
        self._taken = 0  # ... of requests that were sent after it
        self._given_up_until = float("-inf")
        self._strays = 0  # refusals in a row that were not for our rate
        self._since_guess = _Outcomes()
        self._guessed_at = float("-inf")
        self._lately = _Outcomes()
        self._pass_over_seconds = GIVEN_UP_SECONDS
        self._passed_over_until = float("-inf")

    def is_passing_over(self, now: float) -> bool:
        """Whether refusals are not taken for a limit at the moment."""
        return now < self._passed_over_until

    def sent(self, now: float, tokens: float) -> None:
        """So many were sent; negative for what turned out as unused."""
        if not self._recent or now - self._recent[-1][0] >= 1.0:
            self._recent.append((now, self._total))
        self._total += tokens

    def refused(self, now: float, sent_at: float, tokens: float, hold_seconds: float) -> None:
        """The server refused a request of so many tokens, and everybody holds so long for it."""
        self.sent(now, -tokens)
        self._since_guess.refused += 1
        self._lately.refused += 1
        if self._lately.refused > MOST_STRAY_SHARE * 100:
            self._passed_over_until = float("-inf")
        if sent_at <= self._refused_at or now < self._given_up_until or self.is_passing_over(now):
            return  # it was out already when we learned of the last one
        if self._is_stray(now):
            self._pass_over(now)
            return
        self._early = self._early + 1 if self._answered < FEWEST_BETWEEN else 0
        self._answered = self._taken = 0
        if self._early >= EARLY_TO_GIVE_UP:
            self._give_up(now, _one_each(tokens, hold_seconds))
            return
        if self._anchor is not None and self._measure(now, *self._anchor):
            return
        if self._peak is None or self._keep != KEEP_OF_GUESSED:
            self._since_guess, self._guessed_at = _Outcomes(), now
        guess = self._recent_per_minute(now, tokens) or _one_each(tokens, hold_seconds)
        slowest = _one_each(tokens, LONGEST_GUESSED_SECONDS) / KEEP_OF_GUESSED
        self._peak = max(min(guess, self.per_minute(now) or guess), slowest)
        self._keep = KEEP_OF_GUESSED
        if self._anchor is None or now - self._anchor[0] > LONGEST_MEASURE_SECONDS:
            self._anchor = (now, self._total)
        self._refused_at = now

    def answered(self, sent_at: float) -> None:
        """The server took a request."""
        self._answered += 1
        self._taken += sent_at > self._refused_at
        self._since_guess.taken += sent_at > self._guessed_at
        self._lately.taken += 1
        if self._lately.taken + self._lately.refused >= 100:
            self._lately = _Outcomes()

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

    def _is_stray(self, now: float) -> bool:
        """Whether it refused though less was sent than when it refused before."""
        seconds, since = now - self._refused_at, self._since_guess
        if self._peak is None or self._keep == KEEP_OF_GUESSED:
            is_below = self._peak is not None and seconds < FAR_BELOW_SECONDS
            has_passed_over = self._passed_over_until > float("-inf")  # and they stayed few meanwhile
            are_few = since.taken >= FEWEST_SINCE_GUESS and since.refused <= STRAY_SHARE * since.taken
            return are_few and (is_below or has_passed_over)
        is_stray = seconds < PLATEAU_SECONDS and self._taken >= MANY_BETWEEN
        self._strays = self._strays + 1 if is_stray else max(0, self._strays - 1)
        return self._strays >= STRAYS_TO_PASS_OVER

    def _pass_over(self, now: float) -> None:
        self._peak = self._anchor = None
        self._since_guess, self._guessed_at = _Outcomes(), now
        self._strays = self._answered = self._taken = 0
        self._passed_over_until = now + self._pass_over_seconds
        self._pass_over_seconds = min(2 * self._pass_over_seconds, LONGEST_PASS_OVER_SECONDS)

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
        if now - self._refused_at >= PLATEAU_SECONDS:  # a limit, as it should be
            self._pass_over_seconds = GIVEN_UP_SECONDS
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
