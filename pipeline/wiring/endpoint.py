"""One endpoint of a run and all that is known of it: limits, places, health. One attempt goes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from ..nouns.errors import AnswerError, RateLimited, RunError, TransientError
from ..nouns.rows import (
    Failure,
    HttpAnswer,
    LimitReport,
    Picture,
    Reply,
    Row,
    Spending,
    TokenEstimate,
    Usage,
)
from ..rules.flow.breaker import CircuitBreaker
from ..rules.flow.bucket import Admission, Limiter
from ..rules.flow.concurrency import ConcurrencyController
from ..rules.flow.discovery import RateDiscovery
from ..rules.usage import UsageWatch


@dataclass(frozen=True, slots=True)
class EndpointSteps:
    """What is done to a row at one endpoint, in order. Tests pass plain functions, jobs the real ones.

    price: of an answer; None where there is none. most: what an attempt may cost at the most.
    """

    estimate: Callable[[Row, tuple[Picture, ...]], TokenEstimate]
    build: Callable[[Row, tuple[Picture, ...], int | None], bytes]
    post: Callable[[bytes], Awaitable[HttpAnswer]]
    read: Callable[[HttpAnswer], Reply]
    report: Callable[[HttpAnswer], tuple[LimitReport | None, LimitReport | None]]
    learn: Callable[[TokenEstimate, Usage], None]
    price: Callable[[Reply], Decimal | None]
    most: Callable[[TokenEstimate], Spending]


@dataclass(slots=True, eq=False)
class Ticket:
    """Permission for one attempt, and what is known of it afterwards.

    sent_at: by the loop's clock.
    """

    channel: Endpoint
    estimate: TokenEstimate
    reserved_tokens: int
    admission: Admission
    is_probe: bool = False
    sent_at: float = 0.0
    latency_seconds: float | None = None

    @property
    def most(self) -> Spending:
        """What it may cost at the most."""
        return self.channel.steps.most(self.estimate)


@dataclass(slots=True, eq=False)
class Endpoint:
    """The way to one endpoint.

    name: for the `endpoint` column. model: its name there. concurrency: requests in flight at once, a
    number or a controller that finds it out. charge: what is reserved, as in the settings. weight: its
    share where several have room; 0: only when no other has. put_aside: why nothing is sent there any
    more; None while it is in service. tell: gets a line for the user. stops_on_anomaly: whether usage that
    cannot be true gives it up.
    """

    name: str
    model: str
    steps: EndpointSteps
    limiter: Limiter
    concurrency: ConcurrencyController | int
    health: CircuitBreaker
    charge: Literal["auto", "reserved", "used"] = "auto"
    weight: float = 1.0
    tell: Callable[[str], None] = lambda text: None  # noqa: ARG005  nobody wants to know
    stops_on_anomaly: bool = False
    pace: RateDiscovery = field(default_factory=RateDiscovery)
    usage: UsageWatch = field(default_factory=UsageWatch)
    in_flight: int = 0
    put_aside: RunError | None = None
    _probe: Ticket | None = None
    _fewer: int | None = None  # places, since a relay said that the money is gone
    _fewer_since: float = 0.0

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} {self.in_flight}/{self.most_in_flight_now} out, {self.limiter}>"

    # ---- who may go

    @property
    def most_in_flight_now(self) -> int:
        """What concurrency is allowed at the moment; moves where it is found out."""
        concurrency = self.concurrency
        now = concurrency if isinstance(concurrency, int) else concurrency.limit
        return now if self._fewer is None else min(now, self._fewer)

    @property
    def ceiling(self) -> int:
        """What concurrency never exceeds: what a kill -9 may cost at this endpoint."""
        concurrency = self.concurrency
        return concurrency if isinstance(concurrency, int) else concurrency.ceiling

    @property
    def load(self) -> float:
        """How busy it would be with one more; the least loaded of those with room is chosen."""
        return (self.in_flight + 1) / self.weight if self.weight else float("inf")

    def closed_seconds(self, now: float) -> float:
        """Seconds of a pause or a rest that are left; 0 when it is open."""
        return max(self.limiter.closed_seconds(now), self.health.resting_until - now)

    def reservation(self, estimate: TokenEstimate) -> int:
        """Tokens to take before sending: with the longest answer where the endpoint charges that up front."""
        up_front = self.charge == "reserved" or (self.charge == "auto" and self.limiter.is_heard)
        return estimate.prompt + (estimate.longest_answer if up_front else estimate.likely_answer)

    def wait_seconds(self, now: float, estimate: TokenEstimate) -> float:
        """Seconds until such a request may be sent, 0 when now; inf while another must come back first."""
        if self.in_flight >= self.most_in_flight_now or (self.health.is_probing and self._probe is not None):
            return float("inf")
        pace, tokens = self.pace.per_minute(now), self.limiter.tokens
        if pace is not None and tokens and pace >= tokens.limit_per_minute:
            self.pace.forget()
            pace = None
        self.limiter.set_pace(now, pace)
        wait = self.limiter.wait_seconds(now, self.reservation(estimate))
        return max(wait, self.health.resting_until - now)

    def admit(self, now: float, estimate: TokenEstimate) -> Ticket:
        """Take place and tokens for one attempt; `leave` gives the place back."""
        tokens = self.reservation(estimate)
        ticket = Ticket(self, estimate, tokens, self.limiter.take(now, tokens))
        self.pace.sent(now, tokens)
        self.in_flight += 1
        if self.health.is_probing:
            self._probe, ticket.is_probe = ticket, True
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The attempt is over, however it ended."""
        self.in_flight -= 1
        if self._probe is ticket:
            self._probe = None

    def unused(self, now: float, ticket: Ticket) -> None:
        """The ticket was given to somebody who had already left."""
        self._settle(now, ticket, 0)
        self.leave(ticket)

    # ---- one attempt

    async def send(
        self, ticket: Ticket, row: Row, pictures: tuple[Picture, ...], answer_tokens: int | None = None
    ) -> Reply:
        """One POST and what it teaches. Raises an AnswerError where no answer came.

        answer_tokens: how long the answer may be, where that is not what the run says.
        """
        loop = asyncio.get_running_loop()
        body = self.steps.build(row, pictures, answer_tokens)
        ticket.sent_at = loop.time()
        try:
            answer = await self.steps.post(body)
        finally:
            now = loop.time()
            ticket.latency_seconds = now - ticket.sent_at
        self.limiter.hear(now, ticket.admission, *self.steps.report(answer))
        reply = self.steps.read(answer)
        self._answered(ticket, reply.usage, now)
        if finding := self.usage.note(ticket.estimate, reply.usage, sum(len(p.base64) for p in pictures)):
            self.tell(f"{self.name}: {finding}")
        return reply

    def _answered(self, ticket: Ticket, usage: Usage, now: float) -> None:
        if self.health.is_probing:
            self.tell(f"{self.name} works again")
        self.health.answered()
        self.pace.answered(ticket.sent_at)
        if isinstance(self.concurrency, ConcurrencyController):
            self.concurrency.answered(now - ticket.sent_at, self.in_flight)
        self.steps.learn(ticket.estimate, usage)
        if usage.total_tokens and self.charge != "reserved":
            self._settle(now, ticket, usage.total_tokens)

    def spent(self, most: Spending, reply: Reply) -> Spending:
        """What an answer cost; the most that was held back for it where it does not say."""
        tokens = reply.usage.spent_tokens
        if tokens is None:
            return most
        usd = self.steps.price(reply)
        return Spending(1, tokens, most.usd if usd is None else usd)

    def _settle(self, now: float, ticket: Ticket, used_tokens: int) -> None:
        self.limiter.settle(now, ticket.admission, used_tokens)
        self.pace.sent(now, used_tokens - ticket.reserved_tokens)

    def _may_be_precharge(self, error: AnswerError) -> bool:
        """A relay charges prompt and max_tokens ahead for all that is out, so money may be left for fewer."""
        return error.facts.concerns == "credit" and error.http_status == 403 and self.health.has_answered

    def _ask_fewer(self, ticket: Ticket, error: AnswerError, now: float) -> bool:
        """The first time go on with a quarter of the places. True where that was done before and did not help."""
        if self._fewer is None:
            self._fewer, self._fewer_since = max(1, self.in_flight // 4), now
            self.tell(
                f"{self.name}: {error}; going on with {self._fewer} requests at once, it charges ahead for each"
            )
        return ticket.sent_at > self._fewer_since

    def recorded(self, failure: Failure | None) -> None:
        """A row that ended here is safe. Raises RunError where the endpoint is to be given up for how it ended."""
        if failure is not None:
            self.health.row_failed(failure)
        elif self.stops_on_anomaly and self.usage.finding is not None:
            raise RunError(f"{self.name}: {self.usage.finding}", kind="usage_anomaly")

    def failed(self, ticket: Ticket, error: AnswerError, row_id: str, attempt: int, now: float) -> None:
        """What a failed attempt means for those that follow.

        Raises RunError where the endpoint is to be given up, RowError where the row is.
        """
        is_overload = error.facts.is_overload
        if isinstance(self.concurrency, ConcurrencyController) and is_overload:
            self.concurrency.overloaded(now)
        if self._may_be_precharge(error) and not self._ask_fewer(ticket, error, now):
            return
        was_probing, was_shortened = self.health.is_probing, self.health.shortened_pause_until is not None
        hold_seconds = self.health.attempt_failed(error, row_id, attempt, ticket.sent_at, now, is_overload)
        if isinstance(error, RateLimited):
            self.limiter.refused(now, ticket.admission)
        # where the server tells what is left, a refusal for want of it is in its headers already
        is_told = self.limiter.is_heard and not self.limiter.has_room(now, ticket.reserved_tokens)
        if isinstance(error, RateLimited) and not is_overload and not is_told:
            self.pace.refused(now, ticket.sent_at, ticket.reserved_tokens, hold_seconds)
        is_named = isinstance(error, TransientError) and error.retry_after_seconds is not None
        if hold_seconds > 0 and (is_named or is_overload or not self.pace.is_passing_over(now)):
            self.limiter.close_until(now, now + hold_seconds)
        if self.health.is_probing and not was_probing:
            self.tell(f"{self.name} rests; one request at a time finds out when it works again ({error})")
        if self.health.shortened_pause_until is not None and not was_shortened:
            asked = error.retry_after_seconds if isinstance(error, TransientError) else None
            self.tell(
                f"{self.name} asks to wait {asked or 0:,.0f} s; {hold_seconds:,.0f} s are waited (--max-wait),"
                " then it is asked once more"
            )
