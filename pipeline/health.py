"""What answers and failures say about the endpoint: go on, hold everybody for a while, or stop. Pure.

One row's failure is its own matter (see retry.py); here it is asked what it means for all the others.

    429, or a server that names a time      everybody holds: as long as it asks, at most max_wait
    ... and asks for more than that again   stop
    nobody can be reached, once it worked   everybody holds, longer each time; after max_outage stop
    key, money, model refused three times   stop; but all for one row: that row fails
    in a row
    row after row fails alike               stop: 20 at the start, 50 later; pictures do not count
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import AccountError, AnswerError, ConnectionLost, RateLimited, RowError, RunError, TransientError
from .rows import Failure

ACCOUNT_ERRORS_TO_STOP = 3
FIRST_FAILURES_TO_STOP = 20
FAILURES_TO_STOP = 50
LONGEST_HOLD_SECONDS = 60.0


class EndpointHealth:
    """State of one endpoint over a run.

    max_wait_seconds: longest pause that is granted. max_outage_seconds: how long nobody may be reached.
    backoff: seconds to hold after a row's n-th attempt where the server names no time.
    All `now` and `sent_at` are of one monotonic clock.
    """

    def __init__(
        self, max_wait_seconds: float, max_outage_seconds: float, backoff: Callable[[int], float]
    ) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._max_outage_seconds = max_outage_seconds
        self._backoff = backoff
        self.has_answered = False
        self._refused_rows: list[str] = []  # since the last answer, like the rest below
        self._failed_rows = 0
        self._unreachable_since: float | None = None
        self._shortened_pause_until: float | None = None

    def answered(self) -> None:
        """A completion came: whatever was wrong is over."""
        self.has_answered = True
        self._refused_rows.clear()
        self._failed_rows = 0
        self._unreachable_since = None
        self._shortened_pause_until = None

    def is_outage(self, error: AnswerError) -> bool:
        """Whether the request never got to an endpoint that once answered: no attempt was made."""
        return self.has_answered and _is_unreachable(error)

    def sit_out(self, error: AnswerError, now: float) -> float:
        """Seconds for which everybody holds in an outage. Raises RunError where it has lasted too long."""
        if self._unreachable_since is None:
            self._unreachable_since = now
        gone_seconds = now - self._unreachable_since
        if gone_seconds > self._max_outage_seconds:
            raise RunError(f"{error}, for {gone_seconds:,.0f} s now", kind=error.kind) from error
        return min(LONGEST_HOLD_SECONDS, max(1.0, gone_seconds / 2))

    def attempt_failed(
        self, error: AnswerError, row_id: str, attempt: int, sent_at: float, now: float, is_overload: bool
    ) -> float:
        """Seconds for which everybody holds; 0 for none.

        Raises RunError where the run should stop, RowError where this row is to be given up.
        """
        if isinstance(error, AccountError) or (_is_unreachable(error) and not self.has_answered):
            self._refused(error, row_id)
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
        if failure.kind.startswith("image_"):  # costs nothing, and a folder may hold many
            return
        self._failed_rows += 1
        most = FAILURES_TO_STOP if self.has_answered else FIRST_FAILURES_TO_STOP
        if self._failed_rows >= most:
            raise RunError(
                f"{most} rows in a row failed, the last with: {failure.message}",
                kind=failure.kind,
                http_status=failure.http_status,
            )

    def _refused(self, error: AnswerError, row_id: str) -> None:
        self._refused_rows.append(row_id)
        if len(self._refused_rows) >= ACCOUNT_ERRORS_TO_STOP and len(set(self._refused_rows)) > 1:
            raise RunError(str(error), kind=error.kind, http_status=error.http_status) from error
        if self._refused_rows.count(row_id) >= ACCOUNT_ERRORS_TO_STOP:  # a router's moderation, say
            raise RowError(str(error), kind=error.kind, http_status=error.http_status) from error

    def _shorten(self, error: AnswerError, asked: float, sent_at: float, now: float) -> None:
        """The first time wait as long as allowed; a request sent after that may not be told so again."""
        if self._shortened_pause_until is None:
            self._shortened_pause_until = now + self._max_wait_seconds
        elif sent_at >= self._shortened_pause_until:
            raise RunError(
                f"{error} (it asks to wait {asked:,.0f} s; --max-wait is {self._max_wait_seconds:,.0f} s, and"
                " that was waited)",
                kind="asked_to_wait",
                http_status=error.http_status,
            ) from error


def _is_unreachable(error: AnswerError) -> bool:
    return isinstance(error, ConnectionLost) and error.kind == "cannot_connect"
