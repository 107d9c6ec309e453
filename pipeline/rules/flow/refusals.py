"""What a refusal (429) means for those that follow. Pure. (Docstring to come.)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .at_once import SHORTEST_HOLD_SECONDS, AtOnce
from .pace import Pace
from .schedule import Slot

Belief = Literal["none", "at_once", "rate", "strays"]

TOLERATED = 0.02  # share of refusals that slows nothing
BELOW = 0.02  # share of refusals at a rate below the limit
MANY = 0.2  # so much more than the tolerated share are many
SURE = 4.0  # log of the odds at which a hypothesis is taken, or given up
MOST_SURE = 20.0
FEWEST = 8  # outcomes that say something of a share
LONGEST_HOLD_SECONDS = 30.0


@dataclass(slots=True)
class Attempt:
    """A request, as the theory sees it. number: counted from 1. place: how many were in flight with it."""

    number: int
    place: int
    is_probe: bool
    slot: Slot | None


@dataclass(slots=True)
class _Level:
    """Outcomes of the requests sent at one load: since `since` (seconds), after the one with number `first`."""

    since: float
    first: int
    last: int  # number of the latest that was refused
    refused: int = 0
    score: float = 0.0  # log of the odds for many refusals against the tolerated ones
    taken: int = 0  # between the refusals that made the score
    least: int = 0  # place of the refused one with the fewest in flight
    most: int = 0  # place of the answered one with the most in flight
    n_before: int = 99
    r_before: int = 0
    ratio: float = 1.0

    @property
    def count(self) -> int:
        return self.last - self.first

    @property
    def share_before(self):
        return (self.r_before + 1) / (self.n_before + 2)


class Refusals:
    """All times are seconds of one clock."""

    def __init__(self, burst_seconds: float) -> None:
        self.belief: Belief = "none"
        self.since = 0.0
        self.share = 0.0  # of strays
        self.pace = Pace(burst_seconds)
        self.at_once = AtOnce()
        self.hold_until = float("-inf")
        self._hold = SHORTEST_HOLD_SECONDS
        self._bar = SURE
        self._sure = 0.0
        self._stage = 0  # of the rate: 0 guessed, 1 fewer are refused at less, 2 more are refused at more
        self._touches = 0
        self._doubts = 0
        self._number = 0
        self._ripe = (0, 0.0, 0)
        self._lag = 0.0
        self._streak = 0  # refused one after the other
        self._level = _Level(float("-inf"), 0, 0)
        self.log = None

    # ---- queries

    def has_place(self, now, in_flight):
        return self.at_once.has_place(now, in_flight)

    def wait_seconds(self, now, tokens):
        return max(self.hold_until - now, self.pace.wait_seconds(now, tokens))

    # ---- events

    def sent(self, now, tokens, in_flight):
        self._number += 1
        place, is_probe = self.at_once.sent(self._number, in_flight)
        had = self.pace.rate
        attempt = Attempt(self._number, place, is_probe, self.pace.take(now, tokens))
        if had is not None and self.pace.rate is None:
            self._free(now, "lifted")
        self._look(now)
        return attempt

    def answered(self, now, attempt):
        level = self._level
        if attempt.number > level.last and self._streak:
            self._streak = 0
            self._hold = max(SHORTEST_HOLD_SECONDS, self._hold / 4)
        if attempt.number > level.first:
            level.most = max(level.most, attempt.place)
        if attempt.is_probe and self.at_once.probe_answered(attempt.place):
            self._say(now, "more at once")

    def left(self, attempt):
        if attempt.is_probe:
            self.at_once.left()

    def refused(self, now, attempt, sent_at, tokens, names):
        level = self._level
        self.pace.refused(now, attempt.slot, attempt.number, tokens)
        self._lag = max(now - sent_at, 0.9 * self._lag)
        if attempt.is_probe:
            self.at_once.probe_refused(now)
        elif sent_at <= level.since:
            return
        elif names == "at_once":
            self._believe_at_once(now, attempt.place - 1, is_proven=True)
        else:
            self._count(attempt)
            self._judge(now)

    # ---- evidence

    def _count(self, attempt):
        """One more refusal: the score and the streak."""
        level = self._level
        tolerated = min(max(TOLERATED, 1.2 * self.share), 0.9)
        many = tolerated + min(MANY, (1 - tolerated) / 2)
        refused, taken = math.log(many / tolerated), math.log((1 - many) / (1 - tolerated))
        level.refused += 1
        if attempt.number < level.last:  # it overtook others, one of which was taken for taken
            level.score += refused - taken
            return
        between = attempt.number - level.last - 1
        if self.belief == "rate" and self._stage == 0:
            at_less, as_before = self._predicted()
            self._sure += between * math.log((1 - as_before) / (1 - at_less))
            if level.n_before >= FEWEST:
                self._sure += math.log(as_before / at_less)
        level.last = attempt.number
        self._streak = self._streak + 1 if between == 0 else 1
        level.score = max(0.0, level.score + between * taken)
        level.taken = 0 if level.score == 0 else level.taken + between
        level.least = attempt.place if level.score == 0 or self._streak == 1 else min(level.least, attempt.place)
        level.score += refused

    def _predicted(self):
        """Share of refusals at this level: by a limit of the rate, and by strays."""
        level = self._level
        before = level.share_before if level.n_before >= FEWEST else MANY
        as_before = min(max(before, 0.01), 0.99)
        return min(max(BELOW, 1 - (1 - before) / level.ratio), as_before), as_before

    def _share(self):
        share = max(TOLERATED, self.share)
        if self.belief == "rate" and self._level.n_before >= FEWEST:
            share = max(share, self._level.share_before)
        return share

    def _judge(self, now):
        level = self._level
        is_closed = -math.log(self._share()) * self._streak > self._bar + SURE
        if self.belief == "rate" and self._stage == 0 and self._sure > SURE and level.count >= FEWEST and level.refused < 0.75 * level.count:
            self._believe_strays(now)
        elif self._stage == 2 and self.pace.is_above(now):
            self._touch(now, is_closed)
        elif is_closed or level.score > self._bar:
            self._doubt(now, is_closed)
        elif self.belief == "strays" and level.count >= 100:
            self.share = (self.share + level.refused / level.count) / 2
            level.first, level.refused = level.last, 0

    def _look(self, now):
        """What requests that were not refused show."""
        ripe, time, number = self._ripe
        if now - time > 2 * self._lag:
            ripe = number
            self._ripe = (number, now, self._number)
        level = self._level
        if self.belief == "rate" and self._stage == 0:
            at_less, as_before = self._predicted()
            taken = ripe - max(level.last, level.first)
            if self._sure + taken * math.log((1 - as_before) / (1 - at_less)) < -SURE:
                self._stage = 1
                self.pace.grow(now)
                self._say(now, "fewer are refused at less")
        elif self.belief == "at_once" and self.at_once.is_refuted(ripe):
            self.at_once.forget()
            self._free(now, "not at once")

    # ---- beliefs

    def _free(self, now, what):
        self.belief = "none"
        self._stage = 0
        self._bar = min(self._bar + SURE, MOST_SURE)
        self._restart(now)
        self._say(now, what)

    def _believe_strays(self, now):
        level = self._level
        share = level.refused / level.count
        self._free(now, "strays")
        self.belief, self.share = "strays", share
        self.pace.lift(now)

    def _believe_at_once(self, now, most, *, is_proven):
        self.belief = "at_once"
        self.at_once.believe(now, most, is_proven=is_proven)
        if most < 1:
            self.hold_until = now + SHORTEST_HOLD_SECONDS
        self._restart(now)
        self._say(now, "cap")

    def _touch(self, now, is_closed, is_first=False, is_many=False):
        if self._touches > 6:
            self._bar = SURE
        self._touches = 1 if is_first else self._touches + 1
        self._doubts = self._doubts + 1 if is_many else 0
        is_retest = self._touches in (6, 24, 96, 384) and not is_many
        self.pace.touch(now, self._close(now, is_closed), is_first=is_first, is_retest=is_retest)
        self._restart(now)
        self._say(now, f"touch {is_closed} {is_first} {self.pace.is_measured} {is_many}")

    def _close(self, now, is_closed):
        """Nothing is sent for a while, if nothing at all is taken. Returns for how long."""
        if not is_closed:
            return 0.0
        hold = self._hold
        self.pace.cost(self._streak)
        self.pace.pause(now, hold)
        self.hold_until = now + hold
        self._hold = min(2 * hold, LONGEST_HOLD_SECONDS)
        return hold

    def _may_be_at_once(self):
        level, most = self._level, self.at_once.most
        return (
            self.belief != "rate"
            and level.taken <= 1
            and level.least > level.most
            and (most is None or self.at_once.is_proven or most <= 4 or 2 * level.least <= most)
            and (level.least > 1 or most is None)
        )

    def _doubt(self, now, is_closed):
        """Many are refused."""
        level = self._level
        taken = level.count - level.refused
        if self._may_be_at_once():
            self._believe_at_once(now, level.least - 1, is_proven=False)
        elif is_closed and self._stage == 2 and taken <= 0:
            self._close(now, True)
            self._restart(now)
            self._say(now, f"closed {self._hold}")
        elif self._stage == 1 and taken > 0:
            self._stage = 2
            self._touch(now, is_closed, True)
        elif self._stage == 2 and self._doubts < 3 and not self.pace.is_trying:
            self._touch(now, is_closed, is_many=self.pace.is_early(now))
        elif self._stage == 2 and self.pace.is_trying:
            self.pace.reject_unit(now, self._close(now, is_closed))
            self._restart(now)
            self._say(now, "not this unit")
        else:
            self._slow_down(now, is_closed, taken)

    def _slow_down(self, now, is_closed, taken):
        level = self._level
        before = self.pace.now(now)
        if self.belief != "rate" or self._stage:
            self._sure = 0.0
            level.n_before, level.r_before, level.ratio = 0, 0, 1.0
        if before is None:
            rate = self.pace.average(now) / 2
        elif taken <= 0:
            rate = before
        else:
            rate = min(before / 2, self.pace.measure(now) or before)
        rate = max(rate, 1 / LONGEST_HOLD_SECONDS)
        self.pace.guess(now, rate, self._close(now, is_closed))
        self.at_once.forget()
        self.belief, self._stage, self.share = "rate", 0, 0.0
        if is_closed and self._streak >= 5:  # strays do not come in rows
            self._stage = 1
            self.pace.grow(self.hold_until)
        n, r, ratio = level.count, level.refused, 0.5 if before is None else rate / before
        if is_closed:
            n, r, ratio = 0, 0, 0.5
            self._sure = min(self._sure, 0.0)
        elif before is not None and level.n_before != 99:
            n, r, ratio = n + level.n_before, r + level.r_before, ratio * level.ratio
        self._level = _Level(now, self._number, self._number, n_before=n, r_before=r, ratio=ratio)
        self._say(now, f"rate closed={is_closed} hold={self._hold:.2f} r={r} of {n} ratio={ratio:.2f} sure={self._sure:.1f}")

    def _restart(self, now):
        self._level = _Level(now, self._number, self._number)

    def _say(self, now, what):
        if self.log is not None:
            self.log.append((round(now, 3), what, self.belief, self._stage, self.pace.rate and round(self.pace.rate,3), self.pace.counts_tokens, self.at_once.most, self.share, round(self._bar,1)))
