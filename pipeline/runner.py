"""One row's journey, N rows at a time. Wiring only: what is done to a row comes in as `Steps`.

    rows -> prepare (ahead, in threads) -> build -> [ admit -> post -> read -> settle ] -> record
                                                    again, while the error says so

N workers pull from one queue, so at most N rows are in flight and nothing grows with the manifest.
Each kind of failure is handled once: RowError in `_journey`, TransientError by the retry policy,
RunError in `_work`, where it stops the run.

Stopping drains: rows whose request is out are answered and saved; rows that only wait (for tokens,
for a pause, for the next attempt) are given up and stay unfinished. A second stop gives up those too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from .ahead import Ahead
from .concurrency import ConcurrencyController
from .config import LimitSettings
from .errors import AccountError, AnswerError, ConnectionLost, RateLimited, RowError, RunError, TransientError
from .health import EndpointHealth
from .limiter import Admission, Limiter
from .retry import backoff_seconds, call, retrying
from .rows import (
    ChatRequest,
    Failure,
    HttpAnswer,
    LimitReport,
    Outcome,
    Picture,
    Prepared,
    Reply,
    Row,
    Tally,
    TokenEstimate,
    Usage,
)
from .slots import Slots

MOST_ROWS_AHEAD = 64
FAILED_EXAMPLES = 5
OVERLOAD_KINDS = frozenset({"overloaded", "saturated", "no_channel"})


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done to a row, in order. Tests pass plain functions, jobs the real ones.

    prepare: may do fewer rows than asked, at least one. prepare_at_once: how many calls of it may run.
    """

    prepare: Callable[[list[Row]], Awaitable[list[Prepared]]]
    build: Callable[[Row, tuple[Picture, ...]], ChatRequest]
    post: Callable[[bytes], Awaitable[HttpAnswer]]
    read: Callable[[HttpAnswer], Reply]
    report: Callable[[HttpAnswer], tuple[LimitReport | None, LimitReport | None]]
    learn: Callable[[TokenEstimate, Usage], None]
    price: Callable[[Reply], Decimal | None]
    record: Callable[[Outcome], Awaitable[None]]
    prepare_at_once: int = 2


@dataclass(slots=True)
class _Trace:
    """What is known of a row on its way."""

    started_at: float
    row_id: str = ""
    has_slot: bool = False
    attempts: int = 0
    estimated_tokens: int | None = None
    sent_at: float = 0.0  # the last attempt, by the loop's clock
    latency_seconds: float | None = None
    endpoint: str | None = None
    pictures: tuple[Picture, ...] = ()


class Runner:
    """Takes rows through their journey.

    limits: concurrency, retries and pauses. chance: for the jitter. now: Unix time, for the columns;
    all waiting goes by the event loop's clock. Read `tally` at any time; `stopped_by` after `run`.
    """

    def __init__(
        self,
        steps: Steps,
        limiter: Limiter,
        limits: LimitSettings,
        tally: Tally,
        chance: random.Random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._steps = steps
        self._limiter = limiter
        self._limits = limits
        self.tally = tally
        self._chance = chance
        self._now = now
        self.concurrency = (
            ConcurrencyController(limits.max_concurrency) if limits.concurrency == "auto" else None
        )
        self._slots = Slots(self.most_in_flight_now)
        self._retrying = retrying(limits.max_retries, chance, lambda: self._is_stopping, self._will_retry)
        self._health = EndpointHealth(
            limits.max_wait, limits.max_outage, lambda attempt: backoff_seconds(attempt, chance)
        )
        self._is_stopping = False
        self.stopped_by: RunError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: set[asyncio.Task[None]] = set()  # workers whose request is out, or being recorded
        self._ahead: Ahead | None = None

    @property
    def in_flight(self) -> int:
        return len(self._out)

    def most_in_flight_now(self) -> int:
        return self.concurrency.limit if self.concurrency else self._limits.most_in_flight

    async def run(self, rows: AsyncGenerator[list[Row]]) -> None:
        """Until the rows are through or the run is stopped. Raises only what is a bug."""
        queue: asyncio.Queue[Prepared | None] = asyncio.Queue(
            min(self._limits.most_in_flight, MOST_ROWS_AHEAD)
        )
        self._ahead = ahead = Ahead(rows, queue)
        feeder = asyncio.create_task(self._feed(ahead))
        workers = [asyncio.create_task(self._work(ahead)) for _ in range(self._limits.most_in_flight)]
        self._tasks = {feeder, *workers}
        if self._is_stopping:
            self._cancel_waiting()
        try:
            await self._join()
        except BaseException:
            self._is_stopping = True
            self._cancel_waiting()
            if self._out:  # what is out is paid for, whatever has happened
                await asyncio.wait(self._out)
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await rows.aclose()

    async def _join(self) -> None:
        """All workers have ended, or one task has failed with what nobody expected."""
        pending = set(self._tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error

    def stop(self, error: RunError | None = None) -> None:
        """Send nothing more; save what is out. error: why, where it was not the user's wish."""
        if error is not None and self.stopped_by is None:
            self.stopped_by = error
        if not self._is_stopping:
            self._is_stopping = True
            self._cancel_waiting()

    def stop_at_once(self) -> None:
        """Give up also what is out."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()

    def _cancel_waiting(self) -> None:
        current = asyncio.current_task()
        for task in self._tasks - self._out:
            if task is not current:
                task.cancel()

    # ---- feeding

    async def _feed(self, ahead: Ahead) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._steps.prepare_at_once):
                    group.create_task(self._prepare(ahead))
        except* RunError as errors:
            error = errors.exceptions[0]
            self.stop(error if isinstance(error, RunError) else None)
        else:
            for _ in range(self._limits.most_in_flight):
                await ahead.queue.put(None)

    async def _prepare(self, ahead: Ahead) -> None:
        while rows := await ahead.next_rows():
            await ahead.put(rows, await self._steps.prepare(rows))

    async def _work(self, ahead: Ahead) -> None:
        while not self._is_stopping:
            await self._slots.take()
            trace = _Trace(self._now(), has_slot=True)
            try:
                prepared = await ahead.queue.get()
                if prepared is None:
                    return
                await self._finish(*prepared, trace)
            except RunError as error:
                self.stop(error)
            finally:
                self._leave()
                self._give_back_slot(trace)
                ahead.release(trace.pictures)

    # ---- one row

    async def _finish(self, row: Row, pictures: tuple[Picture, ...] | RowError, trace: _Trace) -> None:
        trace.row_id = row.id
        outcome = await self._journey(row, pictures, trace)
        if outcome is not None:
            self._enter()
            await self._steps.record(outcome)
            self._count(outcome)
            if outcome.failure is not None:
                self._health.row_failed(outcome.failure)

    async def _journey(
        self, row: Row, pictures: tuple[Picture, ...] | RowError, trace: _Trace
    ) -> Outcome | None:
        """How the row ended; None where it was given up because the run stops."""
        try:
            if isinstance(pictures, RowError):
                raise pictures
            trace.pictures = pictures
            request = self._steps.build(row, pictures)
            reply = await call(self._retrying, partial(self._attempt, request, trace))
        except (RowError, TransientError, AccountError) as error:
            if self._is_stopping and not isinstance(error, RowError):
                return None
            return self._outcome(row, trace, failure=Failure(error.kind, str(error), error.http_status))
        return self._outcome(row, trace, reply=reply)

    async def _attempt(self, request: ChatRequest, trace: _Trace) -> Reply:
        """One attempt that counts. Where nobody could be reached, none was made: wait and try again."""
        while True:
            try:
                return await self._pass(request, trace)
            except ConnectionLost as error:
                if self._is_stopping or not self._health.is_outage(error):
                    raise
                if self._limiter.closed_seconds <= 0:
                    self._hold(self._health.sit_out(error, self._now_in_loop()))

    async def _pass(self, request: ChatRequest, trace: _Trace) -> Reply:
        """Once through the gates, one POST."""
        if not trace.has_slot:  # the first attempt has the worker's
            await self._slots.take()
            trace.has_slot = True
        trace.estimated_tokens = self._reservation(request.estimate)
        admission = await self._limiter.admit(trace.estimated_tokens)
        self._enter()
        try:
            return await self._send(request, trace, admission)
        except AnswerError as error:
            self._react(error, trace)
            raise
        finally:
            self._leave()
            self._give_back_slot(trace)

    def _reservation(self, estimate: TokenEstimate) -> int:
        """Tokens to take before sending: with the longest answer where the endpoint charges that up front."""
        up_front = self._limits.charge == "reserved" or (
            self._limits.charge == "auto" and self._limiter.is_heard
        )
        return estimate.prompt + (estimate.longest_answer if up_front else estimate.likely_answer)

    def _give_back_slot(self, trace: _Trace) -> None:
        if trace.has_slot:
            trace.has_slot = False
            self._slots.give_back()

    async def _send(self, request: ChatRequest, trace: _Trace, admission: Admission) -> Reply:
        loop = asyncio.get_running_loop()
        trace.attempts += 1
        self.tally.attempts += 1
        trace.sent_at = loop.time()
        try:
            answer = await self._steps.post(request.body)
        finally:
            trace.latency_seconds = loop.time() - trace.sent_at
        trace.endpoint = answer.endpoint
        self._limiter.hear(admission, *self._steps.report(answer))
        reply = self._steps.read(answer)
        self._health.answered()
        if self.concurrency is not None:
            self.concurrency.answered(trace.latency_seconds, self.in_flight)
        self._steps.learn(request.estimate, reply.usage)
        if reply.usage.total_tokens and self._limits.charge != "reserved":
            self._limiter.settle(admission, reply.usage.total_tokens)
        return reply

    def _react(self, error: AnswerError, trace: _Trace) -> None:
        """What a failed attempt means for the others."""
        now, is_overload = self._now_in_loop(), self._is_overload(error)
        if self.concurrency is not None and is_overload:
            self.concurrency.overloaded(now)
        self.tally.rate_limited += isinstance(error, RateLimited)
        self._hold(
            self._health.attempt_failed(error, trace.row_id, trace.attempts, trace.sent_at, now, is_overload)
        )

    def _hold(self, seconds: float) -> None:
        if seconds > 0:
            self._limiter.close_until(self._now_in_loop() + seconds)

    def _is_overload(self, error: AnswerError) -> bool:
        """Whether fewer requests at once would help. A 429 for a limit that is known is the limiter's."""
        if error.kind in OVERLOAD_KINDS:
            return True
        return (
            isinstance(error, RateLimited) and self._limiter.tokens is None and self._limiter.requests is None
        )

    @staticmethod
    def _now_in_loop() -> float:
        return asyncio.get_running_loop().time()

    def _will_retry(self, _error: BaseException) -> None:
        self.tally.retries += 1

    def _enter(self) -> None:
        if task := asyncio.current_task():
            self._out.add(task)

    def _leave(self) -> None:
        if task := asyncio.current_task():
            self._out.discard(task)

    # ---- the end of a row

    def _outcome(
        self, row: Row, trace: _Trace, reply: Reply | None = None, failure: Failure | None = None
    ) -> Outcome:
        cost = self._steps.price(reply) if reply else None
        return Outcome(
            row=row,
            started_at=trace.started_at,
            finished_at=self._now(),
            attempts=trace.attempts,
            reply=reply,
            failure=failure,
            pictures=trace.pictures,
            estimated_tokens=trace.estimated_tokens,
            latency_seconds=trace.latency_seconds,
            endpoint=trace.endpoint,
            cost_usd=None if cost is None else format(cost, "f"),
        )

    def _count(self, outcome: Outcome) -> None:
        tally = self.tally
        if outcome.failure is not None:
            tally.failed += 1
            kinds = tally.failures_by_kind
            kinds[outcome.failure.kind] = kinds.get(outcome.failure.kind, 0) + 1
            if len(tally.failed_examples) < FAILED_EXAMPLES:
                names_it = any(name in outcome.failure.message for name in outcome.row.images)
                where = "" if names_it else f"{outcome.row.id}: "
                tally.failed_examples.append(where + outcome.failure.message)
            return
        assert outcome.reply is not None  # noqa: S101  an outcome has one or the other
        tally.answered += 1
        tally.prompt_tokens += outcome.reply.usage.prompt_tokens or 0
        tally.completion_tokens += outcome.reply.usage.completion_tokens or 0
        tally.reserved_tokens += outcome.estimated_tokens or 0
        if outcome.cost_usd is None:
            tally.unpriced += 1
        else:
            tally.cost_usd = (tally.cost_usd or Decimal(0)) + Decimal(outcome.cost_usd)
