"""What answers and failures say about an endpoint: go on, hold everybody for a while, or give it up. Pure.

One row's failure is its own matter (see retry.py); here it is asked what it means for all the others.

    429, or a server that names a time      everybody holds: as long as it asks, at most max_wait
    ... and asks for more than that again   give it up
    five attempts in a row broke, or        it rests, longer each time; after a rest one request goes
    nobody is there, once it worked         ahead alone (a probe). After max_outage: give it up
    key, money, model refused three times   give it up; but all for one row: that row fails
    in a row
    row after row fails                     give it up: after stop_after_failures in a row, two fifths of
                                            that before the first answer; pictures do not count

Giving up the last endpoint stops the run.
"""

from __future__ import annotations

from collections.abc import Callable

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

ACCOUNT_ERRORS_TO_STOP = 3
BROKEN_TO_REST = 5
LONGEST_REST_SECONDS = 60.0
# nothing but failures from the first request on is a wrong address more often than an outage
FIRST_OUTAGE_SECONDS = 120.0


class CircuitBreaker:
    """State of one endpoint over a run.

    max_wait_seconds: longest pause that is granted. max_outage_seconds: how long it may be gone.
    stop_after_failures: rows without an answer, in a row; 0 for any number. backoff: seconds to hold after
    a row's n-th attempt where the server names no time.
    shortened_pause_until: set while a longer pause was asked for than is granted; None otherwise.
    resting_until: nothing is sent before. is_probing: one request at a time, until an answer comes.
    All `now` and `sent_at` are of one monotonic clock.
    """

    def __init__(
        self,
        max_wait_seconds: float,
        max_outage_seconds: float,
        stop_after_failures: int,
        backoff: Callable[[int], float],
    ) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._max_outage_seconds = max_outage_seconds
        self._stop_after_failures = stop_after_failures
        self._backoff = backoff
        self.has_answered = False
        self.resting_until = float("-inf")
        self.is_probing = False
        self._rested_at = float("-inf")  # when the last rest began
        self._refused_rows: list[str] = []  # since the last answer, like the rest below
        self._broken_rows: list[str] = []
        self._failed_rows = 0
        self._down_since: float | None = None
        self._broke_at = float("-inf")
        self.shortened_pause_until: float | None = None

    def answered(self) -> None:
        """A completion came: whatever was wrong is over."""
        self.has_answered = True
        self._refused_rows.clear()
        self._failed_rows = 0
        self.shortened_pause_until = None
        self._is_there()

    def is_outage(self, error: AnswerError) -> bool:
        """Whether the request never got to an endpoint that once answered: no attempt was made."""
        return self.has_answered and _is_unreachable(error)

    def attempt_failed(
        self, error: AnswerError, row_id: str, attempt: int, sent_at: float, now: float, is_overload: bool
    ) -> float:
        """Seconds for which everybody holds; 0 for none.

        Raises RunError where the endpoint is to be given up, RowError where this row is.
        """
        if isinstance(error, AccountError) or (_is_unreachable(error) and not self.has_answered):
            self._refused(error, row_id)
        if isinstance(error, ServerBusy | ConnectionLost):
            self._broke(error, row_id, sent_at, now)
        else:
            self._is_there()
        if not isinstance(error, TransientError):
            return 0.0
        asked = error.retry_after_seconds
        if asked is None:
            return self._backoff(attempt) if is_overload or isinstance(error, RateLimited) else 0.0
        if asked > self._max_wait_seconds:
            self._shorten(error, asked, sent_at, now)
        return min(asked, self._max_wait_seconds)

    def row_failed(self, failure: Failure) -> None:
        """A row has no answer. Raises RunError where that has happened to too many, with no answer between."""
        if KINDS[failure.kind].concerns == "picture":  # a folder may hold many
            return
        self._failed_rows += 1
        most = self._stop_after_failures
        if not self.has_answered:  # where nothing ever worked, fewer are enough
            most = -(-most * 2 // 5)
        if most and self._failed_rows >= most:
            raise RunError(
                f"{self._failed_rows} rows in a row failed (--stop-after-failures), the last with: {failure.message}",
                kind=failure.kind,
                http_status=failure.http_status,
            )

    def _refused(self, error: AnswerError, row_id: str) -> None:
        self._refused_rows.append(row_id)
        if len(self._refused_rows) >= ACCOUNT_ERRORS_TO_STOP and len(set(self._refused_rows)) > 1:
            raise RunError(str(error), kind=error.kind, http_status=error.http_status) from error
        if self._refused_rows.count(row_id) >= ACCOUNT_ERRORS_TO_STOP:  # a router's moderation, say
            raise RowError(str(error), kind=error.kind, http_status=error.http_status) from error

    # ---- the circuit breaker

    def _is_there(self) -> None:
        """It said something of its own, be it a refusal."""
        self._broken_rows.clear()
        self._down_since = None
        self.is_probing = False
        self.resting_until = float("-inf")

    def _broke(self, error: AnswerError, row_id: str, sent_at: float, now: float) -> None:
        if sent_at <= self._rested_at:  # it was out already: no news
            return
        if self._down_since is None or (not self.is_probing and now - self._broke_at > LONGEST_REST_SECONDS):
            self._down_since = now  # an older failure is no part of this outage
            self._broken_rows.clear()
        self._broke_at = now
        self._broken_rows.append(row_id)
        is_broken = len(self._broken_rows) >= BROKEN_TO_REST and len(set(self._broken_rows)) > 1
        if is_broken or self.is_probing or self.is_outage(error):
            self._rest(error, now, now - self._down_since)

    def _rest(self, error: AnswerError, now: float, gone_seconds: float) -> None:
        most = self._max_outage_seconds
        if gone_seconds > (most if self.has_answered else min(most, FIRST_OUTAGE_SECONDS)):
            raise RunError(
                f"{error}, for {gone_seconds:,.0f} s now", kind=error.kind, http_status=error.http_status
            ) from error
        self._rested_at = now
        self.resting_until = now + min(LONGEST_REST_SECONDS, max(1.0, gone_seconds / 2))
        self.is_probing = True
        self._broken_rows.clear()

    def _shorten(self, error: AnswerError, asked: float, sent_at: float, now: float) -> None:
        """The first time wait as long as allowed; a request sent after that may not be told so again."""
        if self.shortened_pause_until is None:
            self.shortened_pause_until = now + self._max_wait_seconds
        elif sent_at >= self.shortened_pause_until:
            raise RunError(
                f"{error} (it asks to wait {asked:,.0f} s; --max-wait is {self._max_wait_seconds:,.0f} s, and"
                " that was waited)",
                kind="asked_to_wait",
                http_status=error.http_status,
            ) from error


def _is_unreachable(error: AnswerError) -> bool:
    return error.facts.is_unreachable
