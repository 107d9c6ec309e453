"""Whether refusals are spurious: few among many requests, and no fewer when less is sent. Pure.

Refusals that go on below the discovered rate, a few among many requests that are taken, are not for our
rate: a relay's upstream key was busy, say. They are ignored for a minute, then longer, as long as they
stay few.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY_BETWEEN = 8  # requests taken between two refusals, where they are spurious
ENOUGH_SCORE = 2.0
DOUBT = 0.5  # for a refusal above the rate: spurious ones come there too, at a low rate as often as below it
FEWEST_OUTCOMES = 50
MOST_SHARE = 0.05
MOST_OF_A_HUNDRED = 10  # more than that are not spurious
FIRST_IGNORE_SECONDS = 60.0
LONGEST_IGNORE_SECONDS = 960.0


@dataclass(slots=True)
class _Count:
    """Outcomes since a moment. since: seconds; requests sent before it are not counted as answers."""

    since: float = float("-inf")
    answers: int = 0
    refusals: int = 0


class SpuriousRefusals:
    """The classifier of one endpoint. All times are seconds of one clock."""

    def __init__(self) -> None:
        self.taken = 0  # requests that were sent after the last refusal and answered; zeroed by the discovery
        self.ignored_until = float("-inf")  # set by `ignore`, taken back when refusals become many
        self._ignore_seconds = FIRST_IGNORE_SECONDS  # length of the next period; doubles with each
        self._score = 0.0  # evidence for spurious refusals; `one_more` moves it
        self._count = _Count()  # since the last guess or the last period began
        self._hundred = _Count()  # of the hundred requests that run now

    @property
    def are_few(self) -> bool:
        """Whether refusals are few among the requests that were sent since the counting began."""
        answers, refusals = self._count.answers, self._count.refusals
        return answers >= FEWEST_OUTCOMES and refusals <= MOST_SHARE * answers

    @property
    def were_ignored(self) -> bool:
        """Whether they were ignored before, and stayed few meanwhile."""
        return self.ignored_until > float("-inf")

    def answered(self, sent_at: float, refused_at: float) -> None:
        """A request was answered. refused_at: time of the last refusal that counted."""
        self.taken += sent_at > refused_at
        self._count.answers += sent_at > self._count.since
        self._hundred.answers += 1
        if self._hundred.answers + self._hundred.refusals >= 100:
            self._hundred = _Count()

    def refused(self) -> None:
        """A request was refused. Too many of a hundred end a period at once."""
        self._count.refusals += 1
        self._hundred.refusals += 1
        if self._hundred.refusals > MOST_OF_A_HUNDRED:
            self.ignored_until = float("-inf")

    def start_counting(self, now: float) -> None:
        """Count outcomes of requests sent from now on."""
        self._count = _Count(now)

    def one_more(self, *, is_below: bool) -> bool:
        """A refusal below or above a measured limit. Returns whether they are spurious, all in all."""
        if is_below and self.taken >= MANY_BETWEEN:
            self._score += 1.0
        else:
            self._score = max(0.0, self._score - DOUBT)
        return self._score >= ENOUGH_SCORE

    def ignore(self, now: float) -> None:
        """Ignore refusals for a while, twice as long as the last time."""
        self.start_counting(now)
        self._score, self.taken = 0.0, 0
        self.ignored_until = now + self._ignore_seconds
        self._ignore_seconds = min(2 * self._ignore_seconds, LONGEST_IGNORE_SECONDS)

    def there_is_a_limit(self) -> None:
        """A limit was measured: the next period is short again."""
        self._ignore_seconds = FIRST_IGNORE_SECONDS
