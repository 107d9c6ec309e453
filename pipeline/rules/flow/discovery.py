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

MANY_BETWEEN = 8  # requests taken between two refusals, where they are strays
STRAYS_TO_PASS_OVER = 2
DOUBT = 0.5  # for a refusal above the pace: strays come there too, at a low pace as often as below it
FAR_BELOW_SECONDS = 3.0  # after a guess: the pace is at most three quarters of what it was
FEWEST_OUTCOMES = 50
STRAY_SHARE = 0.05
MOST_STRAYS_OF_A_HUNDRED = 10  # above that they are no strays
FIRST_PASS_OVER_SECONDS = 60.0
LONGEST_PASS_OVER_SECONDS = 960.0


class RateDiscovery:
    """Tokens per minute that may be sent to one endpoint, as its refusals show. All times of one clock."""

    def __init__(self) -> None:
        self._total = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_SECONDS)  # (time, total), one a second
        self._anchor: tuple[float, float] | None = None  # a moment at which the server's bucket was empty
        self._refused_at = float("-inf")
        self._peak: float | None = None  # tokens per minute, at which it refused
        self._keep = KEEP_OF_GUESSED
        self._answers = 0  # since the last refusal
        self._early = 0  # refusals in a row with hardly an answer between them
        self._given_up_until = float("-inf")
        self._strays = _SpuriousRefusals()

    def is_passing_over(self, now: float) -> bool:
        """Whether refusals are not taken for a limit at the moment."""
        return now < self._strays.passed_over_until

    def sent(self, now: float, tokens: float) -> None:
        """So many were sent; negative for what turned out as unused."""
        if not self._recent or now - self._recent[-1][0] >= 1.0:
            self._recent.append((now, self._total))
        self._total += tokens

    def answered(self, sent_at: float) -> None:
        """The server took a request."""
        self._answers += 1
        self._strays.answered(sent_at, self._refused_at)

    def refused(self, now: float, sent_at: float, tokens: float, hold_seconds: float) -> None:
        """The server refused a request of so many tokens, and everybody holds so long for it."""
        self.sent(now, -tokens)
        self._strays.refused()
        if sent_at <= self._refused_at or now < self._given_up_until or self.is_passing_over(now):
            return  # it was out already when we learned of the last one
        if self._is_stray(now - self._refused_at):
            self._peak = self._anchor = None
            self._strays.pass_over(now)
        elif self._is_at_any_rate():
            self._give_up(_one_each(tokens, hold_seconds), now)
        elif self._anchor is None or not self._measure(now, *self._anchor):
            self._guess(now, tokens, hold_seconds)

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

    # ---- what a refusal means

    def _is_stray(self, seconds_since_refusal: float) -> bool:
        if self._peak is None:
            return self._strays.are_few and self._strays.were_passed_over
        if self._keep == KEEP_OF_GUESSED:
            return self._strays.are_few and (
                seconds_since_refusal < FAR_BELOW_SECONDS or self._strays.were_passed_over
            )
        return self._strays.one_more(is_below=seconds_since_refusal < PLATEAU_SECONDS)

    def _is_at_any_rate(self) -> bool:
        self._early = self._early + 1 if self._answers < FEWEST_BETWEEN else 0
        self._answers = 0
        return self._early >= EARLY_TO_GIVE_UP

    def _give_up(self, per_minute: float, now: float) -> None:
        self._peak, self._keep = per_minute, 1.0
        self._anchor = None
        self._early = 0
        self._refused_at = now
        self._given_up_until = now + GIVEN_UP_SECONDS

    def _measure(self, now: float, since: float, total_then: float) -> bool:
        seconds = now - since
        if not SHORTEST_MEASURE_SECONDS <= seconds <= LONGEST_MEASURE_SECONDS or self._total <= total_then:
            return False
        if now - self._refused_at >= PLATEAU_SECONDS:
            self._strays.there_is_a_limit()
        self._peak = (self._total - total_then) * 60.0 / seconds
        self._keep = KEEP_OF_MEASURED
        self._anchor = (now, self._total)
        self._refused_at = now
        self._strays.taken = 0
        return True

    def _guess(self, now: float, tokens: float, hold_seconds: float) -> None:
        if self._peak is None or self._keep != KEEP_OF_GUESSED:
            self._strays.start_counting(now)
        guess = self._recent_per_minute(now, tokens) or _one_each(tokens, hold_seconds)
        slowest = _one_each(tokens, LONGEST_GUESSED_SECONDS) / KEEP_OF_GUESSED
        self._peak = max(min(guess, self.per_minute(now) or guess), slowest)
        self._keep = KEEP_OF_GUESSED
        if self._anchor is None or now - self._anchor[0] > LONGEST_MEASURE_SECONDS:
            self._anchor = (now, self._total)
        self._refused_at = now
        self._strays.taken = 0

    def _recent_per_minute(self, now: float, tokens: float) -> float | None:
        """The rate of the last seconds; None where it is one of a handful of requests."""
        if not self._recent:
            return None
        time, total = self._recent[0]
        if self._total - total < FEWEST_FOR_A_RATE * tokens:
            return None
        return (self._total - total) * 60.0 / max(now - time, 1.0)


class _SpuriousRefusals:
    """Whether refusals are strays: few among many requests, and no fewer when less is sent.

    taken: requests that were sent after the last refusal and answered.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.passed_over_until = float("-inf")
        self._pass_over_seconds = FIRST_PASS_OVER_SECONDS
        self._score = 0.0
        self._counted_from = float("-inf")
        self._counted_answers = self._counted_refusals = 0
        self._hundred_answers = self._hundred_refusals = 0  # of the hundred requests that run now

    def answered(self, sent_at: float, refused_at: float) -> None:
        self.taken += sent_at > refused_at
        self._counted_answers += sent_at > self._counted_from
        self._hundred_answers += 1
        if self._hundred_answers + self._hundred_refusals >= 100:
            self._hundred_answers = self._hundred_refusals = 0

    def refused(self) -> None:
        self._counted_refusals += 1
        self._hundred_refusals += 1
        if self._hundred_refusals > MOST_STRAYS_OF_A_HUNDRED:
            self.passed_over_until = float("-inf")

    def start_counting(self, now: float) -> None:
        self._counted_from = now
        self._counted_answers = self._counted_refusals = 0

    @property
    def are_few(self) -> bool:
        """Of the requests that were sent since the counting began."""
        answers, refusals = self._counted_answers, self._counted_refusals
        return answers >= FEWEST_OUTCOMES and refusals <= STRAY_SHARE * answers

    @property
    def were_passed_over(self) -> bool:
        """They were, and they stayed few meanwhile."""
        return self.passed_over_until > float("-inf")

    def one_more(self, *, is_below: bool) -> bool:
        """A refusal below or above a measured limit. Returns whether they are strays, all in all."""
        if is_below and self.taken >= MANY_BETWEEN:
            self._score += 1.0
        else:
            self._score = max(0.0, self._score - DOUBT)
        return self._score >= STRAYS_TO_PASS_OVER

    def pass_over(self, now: float) -> None:
        self.start_counting(now)
        self._score, self.taken = 0.0, 0
        self.passed_over_until = now + self._pass_over_seconds
        self._pass_over_seconds = min(2 * self._pass_over_seconds, LONGEST_PASS_OVER_SECONDS)

    def there_is_a_limit(self) -> None:
        self._pass_over_seconds = FIRST_PASS_OVER_SECONDS


def _one_each(tokens: float, seconds: float) -> float:
    """As often as the server says that it will take one, a request a second at least."""
    return tokens * 60.0 / min(max(seconds, SHORTEST_GUESSED_SECONDS), LONGEST_GUESSED_SECONDS)
