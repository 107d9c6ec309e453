"""The rate at which an endpoint takes requests, as its refusals show it, and the spacing that follows. Pure.

Theory of operation
-------------------
A limit's account is empty at each refusal. So between two of them it gave out just what flowed in: what was sent /
time between is its rate, at any rate of sending and for any size of the account.

  Guessed: it refused many. Half of what was sent, and from there twice as much after each dozen requests, until it
  refuses many again; where something else holds us before that, there is no such limit.

  Measured: between two moments at which it was empty. The pace goes as TCP CUBIC's window (RFC 9438): from a little
  under the measured rate up to it, flat there, then ever faster. What is left over below is a cushion that is used up
  above. The more refusals the last touch cost, the longer the next one is put off: one request in fifty at most.

A limit counts tokens or requests, and a silent server does not say which. Both are tried, and the unit that
got more through is kept; with a large account it makes no difference.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .schedule import Schedule, Slot

KEEP = 0.95  # of a measured rate, to begin with
PLATEAU_REQUESTS = 100.0  # from there up to the rate, for each refusal that the last touch cost
PLATEAU_SECONDS = 15.0  # at least
DOUBLING_REQUESTS = 12.0  # a guessed rate doubles after so many


class _Sent(NamedTuple):
    """What the server has taken by a time (seconds), and how many requests had been sent by then."""

    time: float
    tokens: float
    requests: float
    number: int

    def plus(self, tokens: float, requests: float) -> _Sent:
        return self._replace(tokens=self.tokens + tokens, requests=self.requests + requests)


class Pace:
    """Requests a second that may be sent. All times are seconds of one clock."""

    def __init__(self, burst_seconds: float) -> None:
        self.rate: float | None = (
            None  # believed limit, requests a second; None: none. Set by guess, touch, lift
        )
        self.is_measured = False  # between two moments at which the server's account was empty
        self.counts_tokens = False  # whether requests are spaced by their tokens; moved by `touch`
        self._through: tuple[float, ...] = ()  # requests a second that each unit got through; set by `touch`
        self._cost = 1  # refusals since the last touch; they put off the next one
        self._since = 0.0  # seconds; growth counts from here
        self._paused_until = 0.0  # seconds; nothing is sent before
        self._sent = _Sent(0.0, 0.0, 0.0, 0)  # until now; every request moves it
        self._empty: _Sent | None = None  # when its account was empty; None where it may have been full
        self._start = _Sent(0.0, 0.0, 0.0, 0)  # when no rate began to be believed in
        self._schedule = Schedule(burst_seconds)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a request, on the average."""
        return max(self._sent.tokens / max(self._sent.requests, 1.0), 1.0)

    def now(self, now: float) -> float | None:
        """Requests a second at this moment; None where no limit is believed in."""
        if self.rate is None:
            return None
        x = self._growth(now)
        if not self.is_measured:
            return self.rate * math.exp2(min(max(0.0, x - 2.0), 60.0))
        return self.rate * (1.0 + (1.0 - KEEP) * (x - 1.0) ** 3) * math.exp2(min(max(0.0, x - 3.0), 60.0))

    def is_above(self, now: float) -> bool:
        """Whether as much is sent as the measured rate, or more: a refusal is then no surprise."""
        return self.is_measured and self._growth(now) > 0.5

    def is_early(self, now: float) -> bool:
        """Whether hardly more is sent than the believed rate."""
        rate = self.now(now)
        return rate is not None and self.rate is not None and rate < 1.1 * self.rate

    def has_grown(self, now: float) -> bool:
        """Whether far more is sent than was guessed."""
        rate = self.now(now)
        return rate is not None and self.rate is not None and rate > 1.3 * self.rate

    def average(self, now: float) -> float:
        """Requests a second that were sent since no limit is believed in."""
        return (self._sent.number - self._start.number) / max(now - self._start.time, 0.3)

    def wait_seconds(self, now: float, tokens: float) -> float:
        """Seconds until a request may go; 0 when now."""
        rate = self.now(now)
        return 0.0 if rate is None else self._schedule.wait_seconds(now, self._units(tokens), rate * 60.0)

    def take(self, now: float, tokens: float) -> Slot | None:
        """A request goes. Returns what it took of the pace; None where there is none."""
        if self._sent.number == 0:
            self._start = self._start._replace(time=now)
        rate = self.now(now)
        self._sent = self._sent._replace(number=self._sent.number + 1).plus(tokens, 1.0)
        if rate is None or self.rate is None:
            return None
        units = self._units(tokens)
        if rate > 1.5 * self.rate and self._schedule.is_idle(
            now, units, rate * 60.0, DOUBLING_REQUESTS / rate
        ):
            self.lift(now)  # something else holds us
            return None
        return self._schedule.take(now, units, rate * 60.0)

    def refused(self, now: float, slot: Slot | None, number: int, tokens: float) -> None:
        """The server took nothing of the request with that number."""
        self._correct(number, -tokens, -1.0)
        if slot is not None:
            self._schedule.settle(now, slot, 0.0)

    def settle(self, now: float, slot: Slot | None, number: int, tokens: float, used: float) -> None:
        """Replace what was reserved for a request by what was used."""
        self._correct(number, used - tokens, 0.0)
        if slot is not None and self.counts_tokens:
            self._schedule.settle(now, slot, slot.tokens + (used - tokens) / self.mean_tokens)

    def measure(self, now: float) -> float | None:
        """Requests a second that the server took since its account was empty; None where it took none."""
        if self._empty is None or now <= self._empty.time or self._sent.requests <= self._empty.requests:
            return None
        if self.counts_tokens:
            units = (self._sent.tokens - self._empty.tokens) / self.mean_tokens
        else:
            units = self._sent.requests - self._empty.requests
        return units / (now - self._empty.time) if units >= 1.0 else None

    def guess(self, now: float, rate: float, hold_seconds: float) -> None:
        """The server refuses many, and nothing is sent for so long: try less, and grow fast from there."""
        if self._empty is None:
            self._empty = self._sent._replace(time=now)
        self.is_measured, self._through, self._cost = False, (), 1
        self._set(now + hold_seconds, rate)

    def grow(self, now: float) -> None:
        """Less is taken: grow from here."""
        rate = self.now(now)
        if rate is not None:
            self.rate, self._since = rate, now - 2 * DOUBLING_REQUESTS / rate

    @property
    def is_trying(self) -> bool:
        """Whether another unit is tried."""
        return len(self._through) == 1

    def reject_unit(self, now: float, hold_seconds: float) -> None:
        """Many are refused with the unit that is tried."""
        self._choose_unit(0.0)
        if self.rate is not None:
            self._empty = self._sent._replace(time=now)
            self._set(now + hold_seconds, self.rate)

    def touch(self, now: float, hold_seconds: float, *, is_early: bool, is_test: bool) -> None:
        """The server's account is empty again, at about its rate: measure it.

        is_early: at hardly more than was believed. is_test: grow again until many are refused.
        """
        measured, pace = self.measure(now), self.now(now)
        if measured is None or pace is None or self.rate is None or self._empty is None:
            return
        rate = self._bounded(measured, pace, self.rate, is_early=is_early)
        requests = self._sent.requests - self._empty.requests
        is_enough = requests >= 2 * DOUBLING_REQUESTS  # fewer would be no measure
        if is_enough:
            if self.is_measured:
                self._choose_unit(requests / (now - self._empty.time))
            self.is_measured, self._cost = not is_test, 1
            self._empty = self._sent._replace(time=now)
        self._set(now + hold_seconds, rate if is_enough else min(rate, 0.8 * pace))
        if is_test and not is_enough:
            self.grow(now + hold_seconds)

    def _bounded(self, measured: float, pace: float, believed: float, *, is_early: bool) -> float:
        """The rate to believe in. A small account lost what we left over: its rate is nearer to the pace."""
        if is_early:
            return min(max(measured, believed / 2.0), 0.92 * believed)
        if not (self.is_measured or self._through):
            return math.sqrt(measured * pace) if measured < pace < 2.0 * measured else measured
        return min(max(measured, KEEP * believed), pace)

    def pause(self, now: float, until: float, refusals: int = 0) -> None:
        """Nothing is sent before a time, so nothing is learned. refusals: what the last touch cost on top."""
        self._cost += refusals
        longer = until - max(now, self._paused_until)
        if longer > 0:
            self._paused_until = until
            self._since += longer
            self._schedule.restart(until)

    def lift(self, now: float) -> None:
        """No limit is believed in."""
        self.rate = self._empty = None
        self.is_measured = False
        self._start = self._sent._replace(time=now)

    def _choose_unit(self, through: float) -> None:
        if len(self._through) < 2:
            self._through += (through,)
            if len(self._through) == 1 or self._through[0] > through:
                self.counts_tokens = not self.counts_tokens

    def _units(self, tokens: float) -> float:
        return tokens / self.mean_tokens if self.counts_tokens else 1.0

    def _growth(self, now: float) -> float:
        """Time since the last touch, in plateaus; of a guess, in doublings."""
        rate = self.rate or 1.0
        if not self.is_measured:
            return max(0.0, now - self._since) * rate / DOUBLING_REQUESTS
        return max(0.0, now - self._since) / max(PLATEAU_REQUESTS * self._cost / rate, PLATEAU_SECONDS)

    def _correct(self, number: int, tokens: float, requests: float) -> None:
        self._sent = self._sent.plus(tokens, requests)
        if self._empty is not None and number <= self._empty.number:
            self._empty = self._empty.plus(tokens, requests)

    def _set(self, start: float, rate: float) -> None:
        start = max(start, self._paused_until)
        self._schedule.restart(start)
        self.rate, self._since = rate, start
