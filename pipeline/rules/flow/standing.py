"""Refusals that stand: nothing but refusals of any sort, for a while. Pure.

After half a minute, and again each ten minutes, the user is told in the server's own words; after --max-outage the
endpoint is disabled. What a refusal means for the pace is in refusals.py.
"""

from __future__ import annotations

from ...nouns.errors import AnswerError, RunError

STANDING_SECONDS = 25.0  # of nothing but refusals, before they are told
TELL_AGAIN_SECONDS = 600.0


class StandingRefusals:
    """Of one endpoint. All `now` are seconds of one monotonic clock."""

    def __init__(self, max_outage_seconds: float) -> None:
        self._max_outage_seconds = max_outage_seconds
        self._since: float | None = None  # the first refusal since the last answer; None without one
        self._told_at: float | None = None  # when the user was told last; None since the last answer
        self._words = ""  # of the last refusal

    def answered(self) -> None:
        """A completion came."""
        self._since = self._told_at = None

    def refused(self, error: AnswerError, now: float) -> RunError | None:
        """An attempt was refused. Returns why the endpoint is to be disabled where that has gone on for too long."""
        if self._since is None:
            self._since = now
        self._words = str(error)
        seconds = now - self._since
        if seconds <= self._max_outage_seconds:
            return None
        return RunError(
            f"{error} (no answer for {seconds:,.0f} s, only refusals; --max-outage)",
            kind=error.kind,
            http_status=error.http_status,
        )

    def note(self, hold_seconds: float, now: float) -> str | None:
        """A line for the user where it is time for one. hold_seconds: for which nothing is sent now."""
        seconds = 0.0 if self._since is None else now - self._since
        is_told = self._told_at is not None and now - self._told_at < TELL_AGAIN_SECONDS
        if is_told or max(seconds, hold_seconds) < STANDING_SECONDS:
            return None
        self._told_at = now
        wait = f", pausing for {hold_seconds:,.0f} s" if hold_seconds >= 1 else ""
        return f"no answer for {seconds:,.0f} s{wait}; the server says: {self._words}"

    def told(self, now: float) -> None:
        """The user hears of it in other words."""
        self._told_at = now

    def text(self, now: float) -> str | None:
        """The server's own words where nothing but refusals came for half a minute; None else."""
        if self._since is None or now - self._since < STANDING_SECONDS:
            return None
        return f"no answer for {now - self._since:,.0f} s, only refusals: {self._words}"
