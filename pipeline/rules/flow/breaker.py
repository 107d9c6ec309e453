"""The circuit breaker of one endpoint: what failures mean for all rows that would follow. Pure.

One row's failure is its own matter (rules/retry.py); here it is asked what it means for the others.

    429, or a server that names a time      everybody pauses: as long as it asks, at most max_wait
    ... and asks for more than that again   the endpoint is disabled
    five attempts in a row broke, or        the circuit opens, longer each time; then it is half open: one
    it is unreachable, once it worked       request at a time probes. After max_outage: disabled
    key, money, model refused three times   disabled; but all for one row: that row fails
    in a row
    nothing but refusals, of any sort       said after half a minute, with the server's words, and each ten
                                            minutes; after max_outage: disabled
    answers that cannot be read, from the   disabled after six of them
    first on
    row after row fails                     disabled after stop_after_failures in a row, two fifths of
                                            that before the first answer; pictures do not count

Disabling the last endpoint stops the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...nouns.errors import (
    KINDS,
    AccountError,
    AnswerError,
    ConnectionLost,
    RateLimited,
    RowError,
    RunError,
    ServerBusy,
    TransientError,
)
from ...nouns.rows import Failure
from ..backoff import Backoff
from .standing import StandingRefusals

ACCOUNT_ERRORS_TO_STOP = 3
BROKEN_TO_OPEN = 5
LONGEST_OPEN_SECONDS = 60.0
# nothing but failures from the first request on is a wrong address more often than an outage
FIRST_OUTAGE_SECONDS = 120.0
# each was billed, so waiting for an outage to end is no use
UNREADABLE_TO_STOP = 6


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """The user's bounds.

    max_wait_seconds: longest pause to honour. max_outage_seconds: how long an endpoint may be unreachable or
    broken. stop_after_failures: rows without an answer, in a row; 0 for any number.
    """

    max_wait_seconds: float
    max_outage_seconds: float
    stop_after_failures: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failed attempt means.

    hold_seconds: nothing is sent for so long; 0 for no pause. give_up: RunError where the endpoint is to be
    disabled, RowError where only this row is to fail, None to go on. note: what the user should be told now.
    """

    hold_seconds: float = 0.0
    give_up: RunError | RowError | None = None
    note: str | None = None


@dataclass(slots=True)
class _Outage:
    """Attempts in a row that broke. since: the first of them, seconds. last: the latest. rows: ids of theirs."""

    since: float
    last: float
    rows: list[str] = field(default_factory=list)

    @property
    def is_of_several_rows(self) -> bool:
        return len(self.rows) >= BROKEN_TO_OPEN and len(set(self.rows)) > 1


class CircuitBreaker:
    """State of one endpoint over a run. All `now` and `sent_at` are seconds of one monotonic clock."""

    def __init__(self, settings: BreakerSettings, backoff: Backoff) -> None:
        self._settings = settings
        self._backoff = backoff
        self.has_answered = False  # a completion came once in this run
        self.open_until = float("-inf")  # seconds; nothing is sent before. Set when the circuit opens
        self.is_half_open = False  # one request at a time, until the server says something
        self.shortened_until: float | None = (
            None  # end of a pause that was cut to max_wait; None: there is none
        )
        self._opened_at = float("-inf")  # seconds; attempts sent before it are no news
        self._refused_rows: list[str] = []  # ids, since the last answer; account errors
        self.failed_rows = 0  # since the last answer
        self.standing = StandingRefusals(settings.max_outage_seconds)
        self._outage: _Outage | None = None  # None while the server says something of its own

    def answered(self) -> None:
        """A completion came: the trouble is over."""
        self.has_answered = True
        self._refused_rows.clear()
        self.failed_rows = 0
        self.shortened_until = None
        self.standing.answered()
        self._close()

    def is_outage(self, error: AnswerError) -> bool:
        """Whether the request never got to an endpoint that once answered: no attempt was made."""
        return self.has_answered and error.facts.is_unreachable

    def failed(
        self, error: AnswerError, row_id: str, attempt: int, sent_at: float, now: float, *, is_overload: bool
    ) -> Judgement:
        """Take in a failed attempt: the row's `attempt`-th, sent at `sent_at`."""
        judgement = self._judge(error, row_id, attempt, sent_at, now, is_overload=is_overload)
        if isinstance(error, RowError) or judgement.give_up is not None:
            return judgement
        if give_up := self.standing.refused(error, now):
            return Judgement(give_up=give_up)
        return replace(judgement, note=self.standing.note(judgement.hold_seconds, now))

    def _judge(
        self, error: AnswerError, row_id: str, attempt: int, sent_at: float, now: float, *, is_overload: bool
    ) -> Judgement:
        give_up: RunError | RowError | None = None
        if isinstance(error, AccountError) or (error.facts.is_unreachable and not self.has_answered):
            give_up = self._refused(error, row_id)
        elif error.facts.bought_nothing and not self.has_answered:
            give_up = self._refused(error, row_id, UNREADABLE_TO_STOP)
        if give_up is None and isinstance(error, ServerBusy | ConnectionLost):
            give_up = self._broke(error, row_id, sent_at, now)
        elif give_up is None:
            self._close()
        if give_up is not None:
            return Judgement(give_up=give_up)
        if not isinstance(error, TransientError):
            return Judgement()
        asked = error.retry_after_seconds
        if asked is None:
            holds = is_overload or isinstance(error, RateLimited)
            return Judgement(self._backoff.seconds(attempt) if holds else 0.0)
        return self._pause(error, asked, sent_at, now)

    def row_failed(self, failure: Failure) -> RunError | None:
        """A row has no answer. Returns why the endpoint is to be disabled where that were too many in a row."""
        if KINDS[failure.kind].concerns == "picture":  # a folder may hold many
            return None
        self.failed_rows += 1
        most = self._settings.stop_after_failures
        if not self.has_answered:  # where nothing ever worked, fewer are enough
            most = -(-most * 2 // 5)
        if not most or self.failed_rows < most:
            return None
        return RunError(
            f"{self.failed_rows} rows in a row failed (--stop-after-failures), the last with: {failure.message}; they are left to"
            " be asked again (if they themselves are at fault, --stop-after-failures 0 goes past them)",
            kind=failure.kind,
            http_status=failure.http_status,
        )

    def _refused(
        self, error: AnswerError, row_id: str, most: int = ACCOUNT_ERRORS_TO_STOP
    ) -> RunError | RowError | None:
        """most: refusals in a row that are believed."""
        self._refused_rows.append(row_id)
        if len(self._refused_rows) >= most and len(set(self._refused_rows)) > 1:
            return RunError(str(error), kind=error.kind, http_status=error.http_status)
        if self._refused_rows.count(row_id) >= most:  # a router's moderation, say
            return RowError(str(error), kind=error.kind, http_status=error.http_status)
        return None

    def _pause(self, error: TransientError, asked: float, sent_at: float, now: float) -> Judgement:
        """As long as the server asks; where that is too long, as long as allowed, and once only."""
        longest = self._settings.max_wait_seconds
        if asked <= longest:
            return Judgement(asked)
        if self.shortened_until is None:
            self.shortened_until = now + longest
            self.standing.told(now)  # flow control says so
        elif sent_at >= self.shortened_until:
            return Judgement(
                give_up=RunError(
                    f"{error} (the server asks for a pause of {asked:,.0f} s again, after one of --max-wait"
                    f" {longest:,.0f} s)",
                    kind="asked_to_wait",
                    http_status=error.http_status,
                )
            )
        return Judgement(longest)

    # ---- the circuit

    def _close(self) -> None:
        """The server said something of its own, be it a refusal."""
        self._outage = None
        self.is_half_open = False
        self.open_until = float("-inf")

    def _broke(self, error: AnswerError, row_id: str, sent_at: float, now: float) -> RunError | None:
        if sent_at <= self._opened_at:  # it was in flight already: no news
            return None
        outage = self._outage
        if outage is None or (not self.is_half_open and now - outage.last > LONGEST_OPEN_SECONDS):
            self._outage = outage = _Outage(now, now)  # an older failure is no part of this outage
        outage.last = now
        outage.rows.append(row_id)
        if outage.is_of_several_rows or self.is_half_open or self.is_outage(error):
            return self._open(error, now, outage)
        return None

    def _open(self, error: AnswerError, now: float, outage: _Outage) -> RunError | None:
        down_seconds = now - outage.since
        most = self._settings.max_outage_seconds
        if down_seconds > (most if self.has_answered else min(most, FIRST_OUTAGE_SECONDS)):
            return RunError(
                f"{error} (down for {down_seconds:,.0f} s)", kind=error.kind, http_status=error.http_status
            )
        self._opened_at = now
        if not self.is_half_open:
            self.standing.told(now)  # flow control says so
        self.open_until = now + min(LONGEST_OPEN_SECONDS, max(1.0, down_seconds / 2))
        self.is_half_open = True
        outage.rows.clear()
        return None
