"""How many requests an endpoint works on at once, as its refusals show it. Pure.

One that was refused while so many were in flight would have been taken with fewer. So no more are sent than were in
flight then, and one more is tried after a moment, then after ever longer ones. Where it is taken, twice as
many are tried next.
"""

from __future__ import annotations

SHORTEST_HOLD_SECONDS = 0.3  # before a place is tried again
LONGEST_PROBE_SECONDS = 240.0
PROVEN_SECONDS = 1.0  # a probe that waited so long was refused before


class AtOnce:
    """The most requests in flight that an endpoint takes. All times are seconds of one clock."""

    def __init__(self) -> None:
        self.most: int | None = None  # None: not believed in. Set by `refused`, `answered`, `forget`
        self.is_proven = False  # said by the server, or one more was refused again and again
        self._step = 1  # how many more are tried at once; doubles with each that is taken
        self._probe_at = 0.0  # seconds; when they are tried
        self._probe_seconds = SHORTEST_HOLD_SECONDS  # pause before the next try; doubles when refused
        self._probes = 0  # tried ones in flight
        self._first_probe = 0  # number of the oldest of them; 0: none

    def has_place(self, now: float, in_flight: int) -> bool:
        """Whether one more may go; a tried one takes no place."""
        if self.most is None or in_flight - self._probes < self.most:
            return True
        return now >= self._probe_at and self._probes < self._step

    def seconds_to_probe(self, now: float) -> float:
        """Until one more may be tried; inf while one is in flight."""
        return float("inf") if self._probes >= self._step else max(0.0, self._probe_at - now)

    def sent(self, number: int, in_flight: int) -> tuple[int, bool]:
        """A request goes. Returns how many are in flight with it, and whether it is a tried one."""
        place = in_flight - self._probes
        if self.most is None or place <= self.most:
            return place, False
        self._probes += 1
        self._first_probe = self._first_probe or number
        return in_flight, True

    def left(self) -> None:
        """A tried one is over."""
        self._probes -= 1
        if not self._probes:
            self._first_probe = 0

    def is_refuted(self, ripe: int) -> bool:
        """Whether one more was taken, though it should not have been. ripe: a later number is too young to tell."""
        return not self.is_proven and 0 < self._first_probe <= ripe

    def believe(self, now: float, most: int, *, is_proven: bool) -> None:
        """It takes no more than `most` at once."""
        self.most = max(1, most if self.most is None else min(most, self.most))
        self.is_proven = is_proven
        self._step, self._probe_seconds = 1, SHORTEST_HOLD_SECONDS
        self._probe_at = now + self._probe_seconds

    def probe_refused(self, now: float) -> None:
        """One more was too many."""
        self._step = 1
        self.is_proven = self.is_proven or self._probe_seconds > PROVEN_SECONDS
        self._probe_seconds = min(2 * self._probe_seconds, LONGEST_PROBE_SECONDS)
        self._probe_at = now + self._probe_seconds

    def probe_answered(self, place: int) -> bool:
        """A tried one was answered. Returns whether more are believed in now."""
        if self.most is None or place <= self.most:
            return False
        self.most = place
        self._step *= 2
        self._probe_seconds = SHORTEST_HOLD_SECONDS
        return True

    def forget(self) -> None:
        """Not believed in any more."""
        self.most = None
        self._first_probe = 0
