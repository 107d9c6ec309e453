"""One row's way from its pictures to its outcome.

    journey -> first answer: [ dispatcher -> endpoint: post, read ], again while the error says so
            -> follow-up asks, as long as the rules have one -> Outcome

Each kind of failure is handled once: RowError ends the row, TransientError goes to the retry policy,
RunError disables the endpoint, and stops the run where no endpoint is left.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from ..nouns.config import LimitSettings
from ..nouns.errors import (
    AccountError,
    AnswerError,
    ConnectionLost,
    RowError,
    RunError,
    ServerBusy,
    TransientError,
    WayRefused,
)
from ..nouns.labels import Label
from ..nouns.rows import Ask, Failure, Outcome, Picture, Prepared, Reply, Row
from ..rules.backoff import Backoff
from ..rules.follow_up import FollowUps
from ..rules.retry import RowRetries
from .accounting import Accounting
from .dispatcher import Dispatcher
from .drain import Drain
from .endpoint import Answer, Endpoint, Ticket
from .ports import Recorder

_log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How a row ended, and at which endpoint; None where no attempt was made."""

    outcome: Outcome
    endpoint: Endpoint | None


@dataclass(slots=True)
class _Trace:
    """What is known of a row on its way. last: the ticket of the last attempt. avoid: endpoints that refused it."""

    row: Row
    pictures: tuple[Picture, ...]
    started_at: float
    attempts: int = 0
    last: Ticket | None = None
    avoid: set[Endpoint] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)  # oldest first; the last one is the row's
    is_unfinished: bool = (
        False  # the rules have a further ask, and it brought no answer; `_follow_up` sets it
    )

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the last attempt went."""
        return None if self.last is None else self.last.endpoint


class Attempts:
    """Takes single rows through their attempts.

    limits: retries. chance: for the jitter. Times of the columns are Unix time; all waiting goes by the loop's
    clock.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        drain: Drain,
        accounting: Accounting,
        recorder: Recorder,
        limits: LimitSettings,
        chance: random.Random,
    ) -> None:
        self._dispatcher = dispatcher
        self._drain = drain
        self._accounting = accounting
        self._recorder = recorder
        self._max_retries = limits.max_retries
        self._max_unreadable = limits.max_unreadable_retries
        self._backoff = Backoff(chance)
        self._follow_ups = FollowUps(limits.retry_length, limits.max_reasks)

    async def journey(self, prepared: Prepared) -> Ended | None:
        """How the row ended; None where it was given up because the run stops."""
        row, pictures = prepared
        trace = _Trace(row, () if isinstance(pictures, RowError) else pictures, time.time())
        try:
            if isinstance(pictures, RowError):
                raise pictures
            trace.answers.append(await self._answer(Ask(row, pictures), trace))
            await self._follow_up(trace)
        except (RowError, TransientError, AccountError) as error:
            if self._drain.is_stopping and not isinstance(error, RowError):
                return None
            failure = Failure(error.kind, str(error), error.http_status)
            return Ended(_outcome(trace, failure=failure), trace.endpoint)
        if (reading := trace.answers[-1].reading) is None or reading.label is not None:
            return Ended(_outcome(trace, reply=_joined(trace.answers)), trace.endpoint)
        self._accounting.no_label(trace.answers)
        if trace.is_unfinished and self._drain.is_stopping:
            return None
        invalid = RowError(reading.problem, kind="invalid_label")
        failure = Failure(invalid.kind, str(invalid))
        return Ended(_outcome(trace, _all_choices(trace.answers), failure), trace.endpoint)

    def row_ended(self, endpoint: Endpoint, failure: Failure | None) -> None:
        """A row's end is recorded. Raises RunError where that disables the last endpoint."""
        if error := endpoint.row_ended(failure):
            self._disable(endpoint, error)

    # ---- the asks of one row

    async def _answer(self, ask: Ask, trace: _Trace) -> Answer:
        try:
            return await self._attempt(ask, trace)
        except (TransientError, AccountError) as error:
            first = error
        retries = RowRetries(self._max_retries, self._backoff, self._drain.stopping, self._max_unreadable)
        async for attempt in retries.attempts():
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                self._accounting.retried()
                return await self._attempt(ask, trace)
        raise AssertionError("the policy returns or raises")

    async def _follow_up(self, trace: _Trace) -> None:
        """Ask again as long as the rules say so. Where no further answer comes, the row keeps what it has."""
        while (next_ask := self._next_ask(trace.answers[-1])) is not None:
            trace.is_unfinished = True
            if self._drain.is_stopping:
                return
            self._accounting.retried()
            kept = trace.last
            try:
                # a cut answer is one that may be kept: the longer one is asked for once
                ask_once = self._attempt if next_ask.reason == "length" else self._answer
                trace.answers.append(await ask_once(next_ask, trace))
            except (RowError, TransientError, RunError) as error:
                trace.last = kept
                if isinstance(error, RunError) and not isinstance(error, AccountError):  # the budget, say
                    self._drain.stop(error)
                return
            except asyncio.CancelledError:
                trace.last = kept  # the answer that came is paid for, and is saved
                if not self._drain.is_stopping:
                    raise
                return
            trace.is_unfinished = False
            self._accounting.replaced(next_ask.reason or "follow_up")

    def _next_ask(self, answer: Answer) -> Ask | None:
        return self._follow_ups.next_ask(answer.ask, answer.reply, answer.reading)

    async def _attempt(self, ask: Ask, trace: _Trace) -> Answer:
        """One attempt that counts. An endpoint that refuses our account, that cannot be reached, or that is still
        broken (a probe) says nothing about the row: the row is queued again."""
        while True:
            try:
                return await self._pass(ask, trace)
            except WayRefused:
                if self._drain.is_stopping:
                    raise
            except (ConnectionLost, ServerBusy, AccountError, RowError) as error:
                if self._drain.is_stopping or trace.last is None or not self._is_requeued(error, trace):
                    raise

    def _is_requeued(self, error: AnswerError, trace: _Trace) -> bool:
        """Whether the row is queued again, and where it shall not go then."""
        assert trace.last is not None  # noqa: S101  the caller looked
        endpoint = trace.last.endpoint
        goes_elsewhere = self._goes_elsewhere(error, endpoint, trace.avoid)
        if goes_elsewhere and isinstance(error, RowError):
            self.row_ended(endpoint, Failure(error.kind, str(error), error.http_status))
        is_probe = trace.last.admission.is_probe and isinstance(error, ConnectionLost | ServerBusy)
        if is_probe and not error.bought_nothing:  # a probe that is billed each time counts as an attempt
            return True
        if goes_elsewhere or endpoint.flow.breaker.is_outage(error):
            trace.avoid.add(endpoint)
            return True
        return False

    def _goes_elsewhere(self, error: AnswerError, endpoint: Endpoint, avoid: set[Endpoint]) -> bool:
        """Whether what one endpoint has against a row, or its owner, may not hold at another."""
        others = (e for e in self._dispatcher.in_service if e is not endpoint and e not in avoid)
        return error.may_be_tried_elsewhere and any(others)

    async def _pass(self, ask: Ask, trace: _Trace) -> Answer:
        """Once through the dispatcher, one POST."""
        ticket = await self._dispatcher.admit(ask, trace.avoid, is_retry=trace.attempts > 0)
        trace.last = ticket
        trace.attempts += 1
        self._accounting.sent()
        cost = ticket.most
        with self._drain.protected():
            try:
                answer = await ticket.endpoint.send(ticket, ask)
                cost = self._accounting.answered(answer)
            except WayRefused as error:  # the row and the endpoint are well
                cost = self._accounting.failed(error, ticket)
                raise
            except AnswerError as error:
                cost = self._accounting.failed(error, ticket)
                self._failed(error, trace, ticket)
                raise
            except asyncio.CancelledError:
                cost = self._accounting.given_up(ticket)
                raise
            finally:
                self._dispatcher.leave(ticket, cost)
        return answer

    def _failed(self, error: AnswerError, trace: _Trace, ticket: Ticket) -> None:
        """What a failed attempt means for the others. Raises what ends the row or the run instead."""
        endpoint = ticket.endpoint
        _log.debug("%s: attempt %d at %s: %s", trace.row.id, trace.attempts, endpoint.name, error)
        give_up = endpoint.failed(ticket, error, trace.row.id, trace.attempts)
        if isinstance(give_up, RowError):
            raise give_up from error
        if give_up is not None:
            self._disable(endpoint, give_up)

    def _disable(self, endpoint: Endpoint, error: RunError) -> None:
        if line := self._dispatcher.disable(endpoint, error):
            self._recorder.tell(line)


# ---- the end of a row


def _joined(answers: list[Answer]) -> Reply:
    """The last reply, with the usage of all."""
    usage = answers[0].reply.usage
    for answer in answers[1:]:
        usage += answer.reply.usage
    return replace(answers[-1].reply, usage=usage) if len(answers) > 1 else answers[0].reply


def _all_choices(answers: list[Answer]) -> Reply:
    """The last reply with the choices of all, numbered anew, the last answer first; its usage is that of all."""
    choices = [choice for answer in reversed(answers) for choice in answer.reply.choices]
    return replace(_joined(answers), choices=tuple(replace(c, index=n) for n, c in enumerate(choices)))


def _label(answers: list[Answer]) -> Label | None:
    """The label of the last answer, marked where it took a further ask."""
    last = answers[-1]
    label = last.reading.label if last.reading else None
    return label if label is None or not last.ask.reasks else replace(label, parse="reasked")


def _cost(answers: list[Answer]) -> Decimal | None:
    """Each answer at the price of where it came from; None where one has no price."""
    costs = [answer.cost_usd for answer in answers]
    return None if None in costs else sum((c for c in costs if c is not None), Decimal(0))


def _outcome(trace: _Trace, reply: Reply | None = None, failure: Failure | None = None) -> Outcome:
    last = trace.last
    return Outcome(
        row=trace.row,
        started_at=trace.started_at,
        finished_at=time.time(),
        attempts=trace.attempts,
        reply=reply,
        failure=failure,
        pictures=trace.pictures,
        estimated_tokens=last.admission.tokens if last else None,
        latency_seconds=last.latency_seconds if last else None,
        endpoint=last.endpoint.name if last else None,
        model_requested=last.endpoint.model if last else None,
        cost_usd=_cost(trace.answers) if reply and not failure else None,
        label=_label(trace.answers) if reply else None,
    )
