"""How many requests may be in flight, discovered while running. Pure; takes `now` and latencies as numbers.

Theory of operation
-------------------
Relays, vLLM and Ollama publish no limit; what they can take shows in two ways only.

  They refuse (429, 503, 529): the limit is cut to 0.7 of itself, at most once in a round trip, since
  the requests in flight at the cut will be refused too and say nothing new.

  They queue: answers take longer. The mean latency of a round (as many answers as the limit) is held
  against the best round so far. Up to 1.25 of it there is room. Above that comes a trial: the limit
  stands still for two rounds (one to drain, one to measure), then at 0.7 of itself for two more. If
  answers now come sooner it was a queue, and the limit goes where the queue would be short (more
  requests bring waiting, no work). If they do not, the model has become slower or the pictures
  larger: the limit goes back and the new latency is the normal one.

Growth is one for each answer at first (doubling in a round trip), until the first sign of either kind;
from then on one for each round trip. The limit only grows while it is used: a run that is held by its
tokens a minute learns nothing about concurrency.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 4
CUT = 0.7
ROOM = 1.25
USED_SHARE = 0.8
FEWEST_ANSWERS_A_ROUND = 16  # fewer, and chance looks like a queue


@dataclass(slots=True)
class _Trial:
    """limit: where it stood. rounds: of the trial that are over. latency: at that limit, once measured."""

    limit: float
    rounds: int = 0
    latency: float = 0.0


@dataclass(slots=True)
class _Round:
    """length: answers that end it. seconds: the sum of their latencies."""

    length: int
    answers: int = 0
    seconds: float = 0.0


class FixedConcurrency:
    """A number of requests in flight that the user gave. Has the methods of ConcurrencyController."""

    def __init__(self, limit: int) -> None:
        self.limit = self.ceiling = limit

    def answered(self, latency_seconds: float, in_flight: int) -> None:
        """Nothing to learn."""

    def overloaded(self, now: float) -> None:
        """Nothing to learn."""


class ConcurrencyController:
    """Additive increase, multiplicative decrease between 1 and a ceiling.

    ceiling: never exceeded. start: the first limit.
    """

    def __init__(self, ceiling: int, start: int = START) -> None:
        self.ceiling = ceiling
        self._limit = float(
            min(start, ceiling)
        )  # requests in flight; whole part holds. Moved by every method
        self._is_doubling = True  # until the first sign of a limit
        self._last_cut = float("-inf")  # seconds
        self._latency: float | None = None  # mean of the last round, seconds
        self._best: float | None = None  # the best round so far, seconds; a trial may replace it
        self._round = _Round(FEWEST_ANSWERS_A_ROUND)  # the one that runs now
        self._trial: _Trial | None = None  # None while there is none

    def __repr__(self) -> str:
        phase = "doubling" if self._is_doubling else "probing"
        return f"<ConcurrencyController {self._limit:.1f}/{self.ceiling} {phase} latency={self._latency}>"

    @property
    def limit(self) -> int:
        """Requests in flight that are allowed now."""
        return int(self._limit)

    def answered(self, latency_seconds: float, in_flight: int) -> None:
        """An answer came. in_flight: requests in flight just before it, this one included."""
        self._round.seconds += latency_seconds
        self._round.answers += 1
        if self._round.answers >= self._round.length:
            self._end_round()
        is_used = in_flight >= USED_SHARE * self.limit
        if is_used and self._trial is None and self._has_room():
            self._limit = min(self._limit + (1 if self._is_doubling else 1 / self._limit), self.ceiling)

    def overloaded(self, now: float) -> None:
        """The server refused for load. now: seconds of a monotonic clock."""
        self._is_doubling = False
        round_trip = self._latency or 1.0
        if now - self._last_cut >= round_trip:
            self._last_cut = now
            self._trial = None
            self._limit = max(1.0, self._limit * CUT)

    def _has_room(self) -> bool:
        return self._best is None or self._latency is None or self._latency <= ROOM * self._best

    def _end_round(self) -> None:
        latency = self._round.seconds / self._round.answers
        self._latency = latency
        if self._trial is not None:
            self._go_on(self._trial, latency)
        else:
            self._best = latency if self._best is None else min(self._best, latency)
            if not self._has_room():
                self._is_doubling = False
                self._trial = _Trial(self._limit)
        self._round = _Round(max(int(self._limit), FEWEST_ANSWERS_A_ROUND))

    def _go_on(self, trial: _Trial, latency: float) -> None:
        """One more round of a trial is over: drained, measured, drained at the smaller limit, measured."""
        trial.rounds += 1
        if trial.rounds == 2:
            trial.latency = latency
            self._limit = max(1.0, trial.limit * CUT)
        elif trial.rounds == 4:
            self._trial = None
            was_queue = latency <= trial.latency * (1 + CUT) / 2
            if was_queue and self._best is not None:
                self._limit = max(1.0, trial.limit * min(1.0, ROOM * self._best / trial.latency))
            else:
                self._best, self._limit = latency, trial.limit
