"""What a refusal (429) means for the requests that follow. Pure.

Theory of operation
-------------------
A refusal is evidence for one of several hypotheses. Each says what comes next at the present load, so the load is
changed a little and the outcomes are counted.

    none      few are refused, no more than are tolerated: nothing is slowed
    at once   the server works on so many at a time: one fewer in flight and all are taken; at_once.py
    rate      tokens or requests a minute: half as many a second and hardly any are refused, more and many are; pace.py
    strays    they have no relation to our load: at half of it the same share is refused
    closed    nothing at all is taken (a window is used up, an outage in pieces): ever longer pauses, one request each

The order follows the cost of the test. Refusals are tolerated until a sequential test (CUSUM: Page 1954) says that many
are refused. If they came one after the other, and all with more in flight than any that was answered, it is the
places: the next refused probe proves it, a taken one refutes it. Else the rate is halved, and a sequential
probability ratio test (Wald 1945) holds strays, which predict the share of before, against a limit, which predicts
none, or so many fewer as less is sent. Strays: nothing is slowed, and that share is tolerated from now on. A limit:
the rate grows again until many are refused, which proves it, and only from there on it is measured. A measure
that was taken before, below our own pace, would say nothing about the server. From time to time a proven
limit is tested by growing again.

Outcomes are told apart by the numbers of the requests: those sent between two refused ones were taken. What was sent
before the load was changed is old news.

Words are strong evidence: a server that names requests at once is believed immediately. Retry-After is honoured
by everybody while no limit or a rate is believed in. Where it comes three times because of places that are free
as soon as an answer comes, this is said once, and the places count.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from .at_once import SHORTEST_HOLD_SECONDS, AtOnce
from .pace import Pace
from .schedule import Slot

Belief = Literal["none", "at_once", "rate", "strays"]

TOLERATED = 0.02  # share of refusals that slows nothing; and that a rate below the limit may show
MANY = 0.2  # so much more than the tolerated share are many
SURE = 4.0  # log of the odds at which a hypothesis is taken, or given up
FEWEST = 8  # outcomes that say something about a share
LONGEST_HOLD_SECONDS = 30.0

# of the rate
GUESSED, LESS_HELPS, PROVEN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request, as the theory sees it.

    number: counted from 1. place: how many were in flight with it. is_probe: it tries one place more.
    slot: what it took of the pace.
    """

    number: int
    place: int
    is_probe: bool
    slot: Slot | None


@dataclass(slots=True)
class _Level:
    """Outcomes of the requests sent at one load; changed by `Refusals` only."""

    first: int  # number of the request before; what was sent until then is old news
    last: int  # number of the latest that was refused
    refused: int = 0
    score: float = 0.0  # log of the odds for many refusals against the tolerated ones
    taken: int = 0  # between the refusals that made the score
    least: int = 0  # place of the refused one with the fewest in flight
    most: int = 0  # place of the answered one with the most in flight
    count_before: int = 0  # outcomes at the higher loads of this test
    refused_before: int = 0
    ratio: float = 1.0  # of this load to the highest of them

    @property
    def count(self) -> int:
        return self.last - self.first

    @property
    def share_before(self) -> float:
        return (self.refused_before + 1) / (self.count_before + 2)


class Refusals:
    """What is believed about one endpoint's refusals. All times are seconds of one clock."""

    def __init__(self, burst_seconds: float) -> None:
        self.belief: Belief = "none"  # moved by `_believe`
        self.since = 0.0  # seconds; since when
        self.share = 0.0  # of strays, tolerated
        self.pace = Pace(burst_seconds)
        self.at_once = AtOnce()
        self.changes: deque[str] = deque(
            maxlen=20
        )  # each change of mind with its evidence; the reader empties it
        self.hold_until = float("-inf")  # seconds; nothing is sent before
        self._hold_seconds = SHORTEST_HOLD_SECONDS  # the next one; doubles while nothing is taken
        self._bar = SURE  # score at which many are refused; higher after each false alarm
        self._sure = 0.0  # log of the odds for strays against a limit of the rate
        self._stage = GUESSED  # of the rate
        self._touches = 0  # of a proven rate
        self._refuted = 0  # times that strays were believed in and many more were refused
        self._strays_after = float("-inf")  # seconds; not believed in again before
        self._grown = 0  # times that many were refused once the guess had grown
        self._early = 0  # in a row, at a rate below the proven one
        self._streak = 0  # refused one after the other, nothing taken in between
        self._gentle = (float("-inf"), 0)  # seconds until which a few are sent; number of the last one before
        self._has_said = False  # that Retry-After is not honoured any more
        self._asked = 0  # times that a Retry-After came though only the places were taken
        self._number = 0  # of the latest request
        self._ripe = (
            0,
            0.0,
            0,
        )  # number that is old enough to have been refused; time and number of the next
        self._lag = 0.0  # seconds in which a refusal comes back
        self._level = _Level(0, 0)

    # ---- queries

    @property
    def honours_pauses(self) -> bool:
        """Whether what the server asks for in Retry-After can be true."""
        return self.belief in ("none", "rate")

    def has_place(self, now: float, in_flight: int) -> bool:
        """Whether one more may be in flight."""
        return self.at_once.has_place(now, in_flight)

    def wait_seconds(self, now: float, tokens: float) -> float:
        """Seconds until a request may go; 0 when now."""
        gentle_until, number = self._gentle
        gentle = gentle_until - now if self._number - number >= FEWEST // 2 else 0.0
        return max(0.0, self.hold_until - now, gentle, self.pace.wait_seconds(now, tokens))

    def tokens_per_minute(self, now: float) -> float | None:
        """The rate that is kept at this moment; None where none is believed in."""
        rate = self.pace.now(now)
        return None if rate is None else rate * 60.0 * self.pace.mean_tokens

    def limited_by(self, now: float) -> str | None:
        """In a few words why less is sent than could be; None where nothing is slowed."""
        if self.belief == "at_once" and self.at_once.most is not None:
            return f"server takes {self.at_once.most} at once"
        if self.belief == "strays":
            return f"{100 * self.share:.2g} % stray 429s ignored"
        rate = self.pace.now(now)
        if rate is None:
            return None
        if self.pace.counts_tokens:
            return f"limited by refusals: about {rate * 60 * self.pace.mean_tokens:,.0f} tokens/min"
        return f"limited by refusals: about {rate * 60:,.3g} requests/min"

    # ---- events

    def sent(self, now: float, tokens: float, in_flight: int) -> Attempt:
        """A request goes. in_flight: with it."""
        self._number += 1
        place, is_probe = self.at_once.sent(self._number, in_flight)
        had_rate = self.pace.rate is not None
        attempt = Attempt(self._number, place, is_probe, self.pace.take(now, tokens))
        if had_rate and self.pace.rate is None:
            self._free(now, "no limit of the rate: something else holds us first")
        self._look(now)
        return attempt

    def answered(self, attempt: Attempt) -> None:
        """A completion came."""
        level = self._level
        if attempt.number > level.last and self._streak:
            self._streak = 0
            self._hold_seconds = max(SHORTEST_HOLD_SECONDS, self._hold_seconds / 4)
        if attempt.number > level.first:
            level.most = max(level.most, attempt.place)
        if attempt.is_probe and self.at_once.probe_answered(attempt.place):
            self.changes.append(f"{attempt.place} at once are taken")

    def left(self, attempt: Attempt) -> None:
        """The request is over, however it ended."""
        if attempt.is_probe:
            self.at_once.left()

    def settle(self, now: float, attempt: Attempt, tokens: float, used: float) -> None:
        """Replace what was reserved for a request by what was used."""
        self.pace.settle(now, attempt.slot, attempt.number, tokens, used)

    def refused(self, now: float, attempt: Attempt, sent_at: float, tokens: float, names: str | None) -> None:
        """A request was refused. names: the limit that the server's words name, None where they name none."""
        self.pace.refused(now, attempt.slot, attempt.number, tokens)
        self._lag = max(now - sent_at, 0.9 * self._lag)
        if attempt.is_probe:
            self.at_once.probe_refused(now)
        elif names == "at_once":
            if attempt.number > self._level.first or self.belief != "at_once":
                self._believe_at_once(now, attempt.place - 1, "the server says so", is_proven=True)
        elif attempt.number > self._level.first:
            self._count(attempt)
            self._judge(now)

    def paused(self, now: float, until: float) -> None:
        """Nothing is sent before a time; then a few, and the others once it is seen what becomes of these."""
        self.pace.pause(now, until)
        self._gentle = (until + max(2.0 * self._lag, SHORTEST_HOLD_SECONDS / 4.0), self._number)

    def asked_to_wait(self, now: float, attempt: Attempt, seconds: float) -> str | None:
        """A refusal came with a Retry-After. Returns a line for the user where it is not honoured any more."""
        is_of_places = self.honours_pauses and 0 < self._level.most < attempt.place and seconds >= 1.0
        self._asked = self._asked + 1 if is_of_places else 0
        if self._asked < 3:
            return None
        self._believe_at_once(
            now, attempt.place - 1, f"asked for {seconds:,.0f} s three times", is_proven=False
        )
        if self._has_said:
            return None
        self._has_said = True
        return (
            f"the server asks for pauses of {seconds:,.0f} s, but refuses only what is above {self.at_once.most}"
            " at once; waiting for own answers instead"
        )

    # ---- evidence

    def _count(self, attempt: Attempt) -> None:
        """One more refusal: the score, the streak, and the odds for strays."""
        level = self._level
        tolerated = min(max(TOLERATED, 1.2 * self.share), 0.9)
        many = tolerated + min(MANY, (1.0 - tolerated) / 2.0)
        refused, taken = math.log(many / tolerated), math.log((1.0 - many) / (1.0 - tolerated))
        level.refused += 1
        if attempt.number < level.last:  # it overtook others; one of them had been taken for accepted
            level.score += refused - taken
            return
        between = attempt.number - level.last - 1
        self._weigh(between)
        level.last = attempt.number
        self._streak = self._streak + 1 if between == 0 else 1
        level.score = max(0.0, level.score + between * taken)
        is_new = level.score == 0.0
        level.taken = 0 if is_new else level.taken + between
        level.least = attempt.place if is_new or self._streak == 1 else min(level.least, attempt.place)
        level.score += refused

    def _weigh(self, taken: int) -> None:
        """One refused after so many taken ones: strays or a limit?"""
        if self.belief == "rate" and self._stage == GUESSED:
            by_limit, by_strays = self._predicted()
            self._sure += taken * math.log((1.0 - by_strays) / (1.0 - by_limit))
            if self._level.count_before >= FEWEST:
                self._sure += math.log(by_strays / by_limit)

    def _predicted(self) -> tuple[float, float]:
        """The share of refusals at this load: by a limit of the rate, and by strays."""
        level = self._level
        before = level.share_before if level.count_before >= FEWEST else MANY
        by_strays = min(max(before, 0.01), 0.99)
        return min(max(TOLERATED, 1.0 - (1.0 - before) / level.ratio), by_strays), by_strays

    def _is_closed(self) -> bool:
        """Whether so many in a row were refused that nothing at all is taken."""
        share = max(TOLERATED, self.share)
        if self.belief == "rate" and self._level.count_before >= FEWEST:
            share = max(share, min(self._level.share_before, 0.5))
        return -math.log(share) * self._streak > self._bar + SURE

    def _judge(self, now: float) -> None:
        """What one more refusal means, all in all."""
        level, is_closed = self._level, self._is_closed()
        count, refused = level.count + level.count_before, level.refused + level.refused_before
        is_mixed = count >= 2 * FEWEST and refused < 0.85 * count
        if (
            self.belief == "rate"
            and self._stage == GUESSED
            and self._sure > SURE
            and is_mixed
            and now > self._strays_after
        ):
            self._believe_strays(now)
        elif self.belief == "rate" and self._stage == PROVEN and self.pace.is_above(now):
            self._touch(now, is_closed)
        elif is_closed or level.score > self._bar:
            self._doubt(now, is_closed)
        elif self.belief == "strays" and level.count >= 100:
            # never up: a limit of the rate would refuse more at our full load, and is not to be tolerated
            self.share = min(self.share, (self.share + level.refused / level.count) / 2.0)
            level.first, level.refused = level.last, 0

    def _look(self, now: float) -> None:
        """What requests that were not refused show."""
        ripe, time, number = self._ripe
        if now - time > 2.0 * self._lag:
            ripe = number
            self._ripe = (number, now, self._number)
        if self.belief == "rate" and self._stage == GUESSED:
            by_limit, by_strays = self._predicted()
            taken = ripe - max(self._level.last, self._level.first)
            if self._sure + taken * math.log((1.0 - by_strays) / (1.0 - by_limit)) < -SURE:
                self._stage = LESS_HELPS
                self.pace.grow(now)
                self.changes.append(f"a limit of the rate: {taken} taken in a row at {self.pace.rate:.3g}/s")
        elif self.belief == "at_once" and self.at_once.is_refuted(ripe):
            most = self.at_once.most
            self.at_once.forget()
            self._free(now, f"not {most} at once: one more was taken")

    # ---- beliefs

    def _believe(self, now: float, belief: Belief, evidence: str) -> None:
        if belief != self.belief:
            self.belief, self.since = belief, now
        level = self._level
        self.changes.append(
            f"{belief}: {evidence} (refused {level.refused} of {level.count}, {self._streak} in a row)"
        )

    def _restart(self) -> None:
        self._level = _Level(self._number, self._number)

    def _free(self, now: float, evidence: str) -> None:
        """A false alarm: the next needs more evidence."""
        self._believe(now, "none", evidence)
        self._stage, self._grown = GUESSED, 0
        self._bar = min(self._bar + SURE, 3.0 * SURE)
        self._restart()

    def _believe_strays(self, now: float) -> None:
        level = self._level
        share = (level.refused + level.refused_before) / (level.count + level.count_before)
        self._free(now, f"the same share is refused at {level.ratio:.2g} of the load")
        self._believe(now, "strays", f"{100 * share:.2g} %")
        self.share = share
        self.pace.lift(now)

    def _believe_at_once(self, now: float, most: int, evidence: str, *, is_proven: bool) -> None:
        self.at_once.believe(now, most, is_proven=is_proven)
        self._believe(now, "at_once", f"{self.at_once.most}, {evidence}")
        self._asked = 0
        if most < 1:
            self.hold_until = now + SHORTEST_HOLD_SECONDS
        self._restart()

    def _may_be_at_once(self) -> bool:
        """Whether all that was refused lately had more in flight than all that was taken."""
        level, most = self._level, self.at_once.most
        is_one_step = most is None or self.at_once.is_proven or most <= 4 or 2 * level.least <= most
        return (
            self.belief != "rate"
            and level.taken <= 1
            and level.least > level.most
            and (level.least > 1 or most is None)
            and is_one_step
        )

    def _doubt(self, now: float, is_closed: bool) -> None:
        """Many are refused."""
        level = self._level
        taken = level.count - level.refused
        is_proven = self.belief == "rate" and self._stage == PROVEN
        if self._may_be_at_once():
            self._believe_at_once(now, level.least - 1, "all above were refused", is_proven=False)
        elif is_proven and is_closed and taken <= 0:
            self._close(now, is_closed)
            self._restart()
        elif is_proven and self.pace.is_trying:
            self.pace.reject_unit(now, self._close(now, is_closed))
            self._restart()
        elif is_proven and self._early < 3:
            self._touch(now, is_closed)
        elif (
            self.belief == "rate"
            and self._stage == GUESSED
            and self.pace.has_grown(now)
            and taken >= 2 * FEWEST
        ):
            self._more_hurts(now, is_closed, taken)
        elif self.belief == "rate" and self._stage == LESS_HELPS and taken > 0:
            self._stage = PROVEN
            self._touch(now, is_closed, is_first=True)
        else:
            self._slow_down(now, is_closed, taken)

    def _more_hurts(self, now: float, is_closed: bool, taken: int) -> None:
        """Hardly any were refused at less, and many at more. Seen twice, it is a limit."""
        self._grown += 1
        if self._grown > 1:
            self._stage = PROVEN
            self._touch(now, is_closed, is_first=True)
        else:
            self._bar += SURE / 2.0
            self._slow_down(now, is_closed, taken)

    def _close(self, now: float, is_closed: bool) -> float:
        """Send nothing for a while, if nothing at all is taken. Returns for how many seconds."""
        if not is_closed:
            return 0.0
        hold = self._hold_seconds
        self.pace.pause(now, now + hold, self._streak)
        self.hold_until = now + hold
        self._hold_seconds = min(2.0 * hold, LONGEST_HOLD_SECONDS)
        return hold

    def _touch(self, now: float, is_closed: bool, *, is_first: bool = False) -> None:
        """The limit of a proven rate was met; early: at less than what was believed."""
        is_early = not is_first and self.pace.is_early(now) and not self.pace.is_above(now)
        self._touches, self._grown = 1 if is_first else self._touches + 1, 0
        if self._touches > 6:
            self._bar = SURE
        self._early = self._early + 1 if is_early else 0
        is_test = is_first or (self._touches in (6, 24, 96, 384) and not is_early)
        self.pace.touch(now, self._close(now, is_closed), is_early=is_early, is_test=is_test)
        self._believe(now, "rate", f"{self.pace.rate:.3g} requests/s")
        self._restart()

    def _slow_down(self, now: float, is_closed: bool, taken: int) -> None:
        """Test a limit of the rate: send half as much, or what was taken if that is less."""
        level, before = self._level, self.pace.now(now)
        if before is None:
            rate = self.pace.average(now) / 2.0
        else:
            rate = min(before / 2.0, self.pace.measure(now) or before) if taken > 0 else before
        rate = max(rate, 1.0 / LONGEST_HOLD_SECONDS)
        is_new = self.belief != "rate" or self._stage != GUESSED
        if self.belief == "strays":  # refuted: many more than that share are refused
            self._refuted += 1
            self._strays_after = now + SURE * 2.0 ** min(self._refuted, FEWEST)
        self.pace.guess(now, rate, self._close(now, is_closed))
        self.at_once.forget()
        self._believe(
            now, "rate", f"testing {rate:.3g} requests/s" + (", nothing is taken" if is_closed else "")
        )
        self._stage, self.share = GUESSED, 0.0
        self._sure = 0.0 if is_new else self._sure
        self._level = _Level(self._number, self._number, ratio=0.5)
        if is_closed and self._streak >= 5:  # strays do not come in rows
            self._stage, self._sure = LESS_HELPS, 0.0
            self.pace.grow(self.hold_until)
            return
        self._level.count_before, self._level.refused_before = level.count, level.refused
        if before is not None:
            self._level.ratio = rate / before * (1.0 if is_new else level.ratio)
            if not is_new:
                self._level.count_before += level.count_before
                self._level.refused_before += level.refused_before
