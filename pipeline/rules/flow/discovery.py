"""The rate at which a server refuses only now and then, discovered from its refusals. Pure.

Theory of operation
-------------------
A relay with an unpublished quota, or a limit that was lowered without notice, shows in one way
only: 429. A server's bucket is empty at each refusal, so between two of them it gave out just what was
refilled: tokens used / time between is its limit, at any rate of sending and for any size of the
bucket. That is measured over five seconds at least; two refusals closer together halve the rate.

From there the rate goes as TCP CUBIC's window (RFC 9438): from a little under what was measured up to
it in a quarter of a minute, flat there, then ever faster. So the server's bucket gets a cushion that is
used up later: nothing is lost, a steady limit is touched every half minute by a request or two, and one
that came back is found within the half minute too.

Spurious refusals (spurious.py) are ignored; only a pause that the server names is kept. And a server
that goes on refusing, with hardly a request taken in between, although ever less is sent, is asked for
a minute as often as it says that it will take one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from .spurious import SpuriousRefusals

PLATEAU_SECONDS = 15.0
SHORTEST_MEASURE_SECONDS = 5.0
# in a longer time without a refusal the bucket may have been full: what it gave is then less than its limit
LONGEST_MEASURE_SECONDS = 60.0
KEEP_OF_MEASURED = 0.85
KEEP_OF_GUESSED = 0.5
RECENT_SECONDS = 10
FEWEST_FOR_A_RATE = 4
LONGEST_GUESSED_SECONDS = 1.0
SHORTEST_GUESSED_SECONDS = 0.05
FEWEST_BETWEEN = 4  # answers between two refusals, unless the server refuses at any rate
EARLY_TO_GIVE_UP = 8
GIVEN_UP_SECONDS = 60.0
FAR_BELOW_SECONDS = 3.0  # after a guess: the rate is at most three quarters of what it was


class _Peak(NamedTuple):
    """A rate at which the server refused (tokens per minute), and the share of it to begin with."""

    per_minute: float
    keep: float

    def at(self, seconds: float) -> float:
        """The rate so many seconds after the refusal: CUBIC, then doubling every plateau."""
        x = seconds / PLATEAU_SECONDS - 1.0
        return self.per_minute * (1.0 + (1.0 - self.keep) * x**3) * math.exp2(min(max(0.0, x - 2.0), 60.0))


class _Moment(NamedTuple):
    """A time in seconds, and the tokens that had been sent by then."""

    time: float
    total: float


class RateDiscovery:
    """Tokens per minute that may be sent to one endpoint, as its refusals show. All times of one clock."""

    def __init__(self) -> None:
        self._total = 0.0  # tokens sent so far; `sent` moves it
        self._recent: deque[_Moment] = deque(maxlen=RECENT_SECONDS)  # one a second; `sent` appends
        self._empty: _Moment | None = None  # when the server's bucket was empty; set at a refusal
        self._peak: _Peak | None = None  # None while no refusal shows a limit
        self._refused_at = float("-inf")  # seconds; of the last refusal that counted
        self._answers = 0  # since the last refusal that counted
        self._early = 0  # refusals in a row with hardly an answer between them
        self._given_up_until = float("-inf")  # seconds; refusals before it change nothing
        self._spurious = SpuriousRefusals()

    def per_minute(self, now: float) -> float | None:
        """The discovered rate; None while no refusal shows one."""
        return None if self._peak is None else self._peak.at(now - self._refused_at)

    def is_ignoring(self, now: float) -> bool:
        """Whether refusals are taken for spurious at the moment."""
        return now < self._spurious.ignored_until

    def sent(self, now: float, tokens: float) -> None:
        """So many tokens were sent; negative for what turned out as unused."""
        if not self._recent or now - self._recent[-1].time >= 1.0:
            self._recent.append(_Moment(now, self._total))
        self._total += tokens

    def answered(self, sent_at: float) -> None:
        """The server took a request."""
        self._answers += 1
        self._spurious.answered(sent_at, self._refused_at)

    def refused(self, now: float, sent_at: float, tokens: float, hold_seconds: float) -> None:
        """The server refused a request of so many tokens, and nothing is sent for so long because of it."""
        self.sent(now, -tokens)
        self._spurious.refused()
        if sent_at <= self._refused_at or now < self._given_up_until or self.is_ignoring(now):
            return  # it was in flight already when we learned of the last one
        if self._is_spurious(now - self._refused_at):
            self._peak = self._empty = None
            self._spurious.ignore(now)
        elif self._is_at_any_rate():
            self._give_up(_one_each(tokens, hold_seconds), now)
        elif self._empty is None or not self._measure(now, self._empty):
            self._guess(now, tokens, hold_seconds)

    def forget(self) -> None:
        """The rate is above what is allowed anyway."""
        self._peak = None

    # ---- what a refusal means

    def _is_spurious(self, seconds_since_refusal: float) -> bool:
        spurious = self._spurious
        if self._peak is None:
            return spurious.are_few and spurious.were_ignored
        if self._peak.keep == KEEP_OF_GUESSED:
            is_far_below = seconds_since_refusal < FAR_BELOW_SECONDS
            return spurious.are_few and (is_far_below or spurious.were_ignored)
        return spurious.one_more(is_below=seconds_since_refusal < PLATEAU_SECONDS)

    def _is_at_any_rate(self) -> bool:
        self._early = self._early + 1 if self._answers < FEWEST_BETWEEN else 0
        self._answers = 0
        return self._early >= EARLY_TO_GIVE_UP

    def _give_up(self, per_minute: float, now: float) -> None:
        self._peak = _Peak(per_minute, 1.0)
        self._empty = None
        self._early = 0
        self._refused_at = now
        self._given_up_until = now + GIVEN_UP_SECONDS

    def _measure(self, now: float, since: _Moment) -> bool:
        seconds, tokens = now - since.time, self._total - since.total
        if not SHORTEST_MEASURE_SECONDS <= seconds <= LONGEST_MEASURE_SECONDS or tokens <= 0:
            return False
        if now - self._refused_at >= PLATEAU_SECONDS:
            self._spurious.there_is_a_limit()
        self._peak = _Peak(tokens * 60.0 / seconds, KEEP_OF_MEASURED)
        self._empty = _Moment(now, self._total)
        self._refused_at = now
        self._spurious.taken = 0
        return True

    def _guess(self, now: float, tokens: float, hold_seconds: float) -> None:
        if self._peak is None or self._peak.keep != KEEP_OF_GUESSED:
            self._spurious.start_counting(now)
        guess = self._recent_per_minute(now, tokens) or _one_each(tokens, hold_seconds)
        slowest = _one_each(tokens, LONGEST_GUESSED_SECONDS) / KEEP_OF_GUESSED
        self._peak = _Peak(max(min(guess, self.per_minute(now) or guess), slowest), KEEP_OF_GUESSED)
        if self._empty is None or now - self._empty.time > LONGEST_MEASURE_SECONDS:
            self._empty = _Moment(now, self._total)
        self._refused_at = now
        self._spurious.taken = 0

    def _recent_per_minute(self, now: float, tokens: float) -> float | None:
        """The rate of the last seconds; None where it is one of a handful of requests."""
        if not self._recent:
            return None
        time, total = self._recent[0]
        if self._total - total < FEWEST_FOR_A_RATE * tokens:
            return None
        return (self._total - total) * 60.0 / max(now - time, 1.0)


def _one_each(tokens: float, seconds: float) -> float:
    """Tokens per minute at one request in so many seconds, a request a second at least."""
    return tokens * 60.0 / min(max(seconds, SHORTEST_GUESSED_SECONDS), LONGEST_GUESSED_SECONDS)
