"""The limits per minute of one endpoint: its tokens, its requests, and a pause of everybody. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ...nouns.errors import RowError
from ...nouns.rows import LimitReport
from .bucket import EPSILON, Grant, TokenBucket


@dataclass(frozen=True, slots=True)
class LimitGrant:
    """What one admission took; handed back to `settle`, `report`, `refused`. None where there is no limit."""

    tokens: Grant | None
    requests: Grant | None


class Limiter:
    """The limits of one endpoint.

    tokens_per_minute, requests_per_minute: None means that no limit is known; one that the server reports is
    then taken over. burst_seconds: what may be sent at once, in seconds of a limit. All `now` are seconds of
    one monotonic clock.
    """

    def __init__(
        self,
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        burst_seconds: float = 1.0,
    ) -> None:
        self.burst_seconds = burst_seconds
        self._most_tokens = tokens_per_minute  # of one request; None: the server decides
        self.tokens = self._bucket(tokens_per_minute)  # appears with the first report where none was given
        self.requests = self._bucket(requests_per_minute)  # likewise
        self._closed_until = float("-inf")  # seconds; moves forward in `close_until`

    def __repr__(self) -> str:
        return (
            f"<Limiter tokens={self.tokens} requests={self.requests} closed_until={self._closed_until:.3f}>"
        )

    def _bucket(self, limit: float | None) -> TokenBucket | None:
        return TokenBucket(limit, self.burst_seconds) if limit else None

    def start(self, now: float) -> None:
        """The first request is about to be sent: the limits refill from now on."""
        for bucket in (self.tokens, self.requests):
            if bucket:
                bucket.start(now)

    def refuse_impossible(self, tokens: float) -> None:
        """Raises RowError where a request of so many tokens is above the limit that the user gave.

        A limit that the server reports is for the server to enforce.
        """
        if self._most_tokens and tokens > self._most_tokens:
            raise RowError(
                f"the request needs about {tokens:,.0f} tokens, more than the whole limit of"
                f" {self._most_tokens:,.0f} tokens per minute: it can never be sent"
                " (lower --max-tokens or --max-side, or raise --tpm)",
                kind="over_limit",
            )

    def wait_seconds(self, now: float, tokens: float) -> float:
        """Seconds until a request of so many tokens may be sent; 0 when now."""
        wait = self._closed_until - now
        if self.tokens:
            wait = max(wait, self.tokens.wait_seconds(now, tokens))
        if self.requests:
            wait = max(wait, self.requests.wait_seconds(now, 1))
        return wait if wait > EPSILON else 0.0

    def has_room(self, now: float, tokens: float) -> bool:
        """Whether, by what is known, such a request had room: a refusal is then for another reason."""
        return not any(
            bucket and bucket.wait_seconds(now, amount) > 0
            for bucket, amount in ((self.tokens, tokens), (self.requests, 1))
        )

    def closed_seconds(self, now: float) -> float:
        """Seconds until the pause is over; 0 when there is none."""
        return max(0.0, self._closed_until - now)

    @property
    def is_server_reported(self) -> bool:
        """Whether the server's own account of our tokens is known."""
        return self.tokens is not None and self.tokens.is_server_reported

    def take(self, now: float, tokens: float) -> LimitGrant:
        """Take `tokens` and one request."""
        return LimitGrant(
            self.tokens.take(now, tokens) if self.tokens else None,
            self.requests.take(now, 1) if self.requests else None,
        )

    def settle(self, now: float, grant: LimitGrant, used_tokens: float) -> None:
        """The answer came: replace what was reserved by what was used."""
        if grant.tokens and self.tokens and not self.tokens.is_server_reported:
            self.tokens.settle(now, grant.tokens, used_tokens)

    def report(
        self,
        now: float,
        grant: LimitGrant,
        tokens: LimitReport | None = None,
        requests: LimitReport | None = None,
    ) -> None:
        """The server said how much is left; None where it did not."""
        self.tokens = self._report_one(self.tokens, grant.tokens, tokens, now)
        self.requests = self._report_one(self.requests, grant.requests, requests, now)

    def refused(self, now: float, grant: LimitGrant) -> None:
        """The server answered 429: none of it was charged."""
        self.settle(now, grant, 0)
        for bucket, taken in ((self.tokens, grant.tokens), (self.requests, grant.requests)):
            if bucket and taken:
                bucket.refused(taken)

    def close_until(self, now: float, time: float) -> None:
        """Send nothing before `time`; a later time already set stays."""
        for bucket in (self.tokens, self.requests):
            if bucket and not bucket.is_server_reported:
                bucket.empty(now)
        self._closed_until = max(self._closed_until, time)

    def _report_one(
        self, bucket: TokenBucket | None, grant: Grant | None, report: LimitReport | None, now: float
    ) -> TokenBucket | None:
        if report is None or report.limit <= 0:
            return bucket
        if bucket is None:  # the user gave no limit: the server's counts, now and later
            bucket = TokenBucket(float("inf"), self.burst_seconds)
            grant = bucket.take(now, 0.0)
        if grant is not None:
            bucket.report(now, grant, report.limit, report.remaining)
        return bucket
