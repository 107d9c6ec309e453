"""One row's journey, N rows at a time. Wiring only: what is done to a row comes in as `Steps` and channels.

    rows -> prepare (ahead, in threads) -> [ gate -> a channel: build, post, read, settle ] -> record
                                              again, while the error says so

Workers pull from one queue, so nothing grows with the manifest; the gate says who is sent, when and
where. Each kind of failure is handled once: RowError in `_journey`, TransientError by the retry policy,
RunError in `_put_aside` for one endpoint among others, in `_work` for the run.

Stopping drains: rows whose request is out are answered and saved; rows that only wait (for tokens,
for a pause, for the next attempt) are given up and stay unfinished. A second stop gives up those too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from ..nouns.config import LimitSettings
from ..nouns.errors import (
    AccountError,
    AnswerError,
    ConnectionLost,
    RateLimited,
    RowError,
    RunError,
    ServerBusy,
    TransientError,
)
from ..nouns.rows import Failure, Outcome, Picture, Prepared, Reply, Row, Spending, Tally, Usage
from ..rules.budget import Budget
from ..rules.error_table import may_be_billed
from ..rules.retry import call, retrying
from .dispatcher import Ask, Dispatcher
from .endpoint import Endpoint, Ticket
from .prefetch import Prefetch

_log = logging.getLogger(__name__)

MOST_ROWS_AHEAD = 64
FAILED_EXAMPLES = 5
# refusals of a row that are about an endpoint's own bounds
ELSEWHERE_KINDS = frozenset(
    {"over_limit", "body_too_large", "context_too_long", "bad_request", "refused_by_relay"}
)


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done to a row apart from sending it. Tests pass plain functions, jobs the real ones.

    prepare: may do fewer rows than asked, at least one. prepare_at_once: how many calls of it may run.
    tell: gets a line that the user should see at once. unanswered: gets the kind of an attempt that brought
    no answer that counts, and what it may have cost at the most.
    """

    prepare: Callable[[list[Row]], Awaitable[list[Prepared]]]
    record: Callable[[Outcome], Awaitable[None]]
    tell: Callable[[str], None]
    prepare_at_once: int = 2
    unanswered: Callable[[str, Spending], None] = lambda kind, spending: None  # noqa: ARG005  nobody keeps account


@dataclass(slots=True)
class _Trace:
    """What is known of a row on its way.

    last: the ticket of the last attempt. cost_of_cut, longer_usage: of the two answers where one was cut off
    and a longer one came, perhaps from elsewhere.
    """

    started_at: float
    attempts: int = 0
    last: Ticket | None = None
    pictures: tuple[Picture, ...] = ()
    cost_of_cut: Decimal | None = None
    longer_usage: Usage | None = None


class Runner:
    """Takes rows through their journey.

    channels: the endpoints, at least one. limits: retries and pauses. chance: for the jitter. budget: None
    for no bound. now: Unix time, for the columns; all waiting goes by the event loop's clock. Read `tally`
    at any time; `stopped_by` after `run`.
    """

    def __init__(
        self,
        steps: Steps,
        channels: Sequence[Endpoint],
        limits: LimitSettings,
        tally: Tally,
        chance: random.Random,
        *,
        budget: Budget | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._steps = steps
        self._gate = Dispatcher(channels, budget)
        # one for each request that may be out; it takes the next row when its answer is safe, so that no
        # more than that many answers can be lost, whatever happens
        self._workers = sum(channel.ceiling for channel in channels)
        self.tally = tally
        self._now = now
        self._retrying = retrying(limits.max_retries, chance, lambda: self._is_stopping, self._will_retry)
        self._retry_length = limits.retry_length
        self._is_stopping = False
        self.stopped_by: RunError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: set[asyncio.Task[None]] = set()  # workers whose request is out, or being recorded
        self._ahead: Prefetch | None = None

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return sum(channel.in_flight for channel in self._gate.channels)

    async def run(self, rows: AsyncGenerator[list[Row]]) -> None:
        """Until the rows are through or the run is stopped. Raises only what is a bug."""
        queue: asyncio.Queue[Prepared | None] = asyncio.Queue(min(self._workers, MOST_ROWS_AHEAD))
        self._ahead = ahead = Prefetch(rows, queue)
        feeder = asyncio.create_task(self._feed(ahead))
        workers = [asyncio.create_task(self._work(ahead)) for _ in range(self._workers)]
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
        current = asyncio.current_task() if self._tasks else None  # a stop before `run` has no loop
        for task in self._tasks - self._out:
            if task is not current:
                task.cancel()

    # ---- feeding

    async def _feed(self, ahead: Prefetch) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._steps.prepare_at_once):
                    group.create_task(self._prepare(ahead))
        except* RunError as errors:
            error = errors.exceptions[0]
            self.stop(error if isinstance(error, RunError) else None)
        else:
            for _ in range(self._workers):
                await ahead.queue.put(None)

    async def _prepare(self, ahead: Prefetch) -> None:
        while rows := await ahead.next_rows():
            await ahead.put(rows, await self._steps.prepare(rows))

    async def _work(self, ahead: Prefetch) -> None:
        while not self._is_stopping:
            prepared = await ahead.queue.get()
            if prepared is None:
                return
            trace = _Trace(self._now())
            try:
                await self._finish(*prepared, trace)
            except RunError as error:
                self.stop(error)
            finally:
                self._leave()
                ahead.release(trace.pictures)

    # ---- one row

    async def _finish(self, row: Row, pictures: tuple[Picture, ...] | RowError, trace: _Trace) -> None:
        outcome = await self._journey(row, pictures, trace)
        if outcome is None:
            return
        self._enter()
        await self._steps.record(outcome)
        self._count(outcome)
        if trace.last is not None:
            self._note_end(trace.last.channel, outcome.failure)

    def _note_end(self, channel: Endpoint, failure: Failure | None) -> None:
        try:
            channel.recorded(failure)
        except RunError as error:
            self._put_aside(channel, error)

    async def _journey(
        self, row: Row, pictures: tuple[Picture, ...] | RowError, trace: _Trace
    ) -> Outcome | None:
        """How the row ended; None where it was given up because the run stops."""
        try:
            if isinstance(pictures, RowError):
                raise pictures
            trace.pictures = pictures
            ask = Ask(row, pictures)
            reply = await call(self._retrying, lambda: self._attempt(ask, trace))
            if self._retry_length is not None and _is_cut(reply):
                reply = await self._ask_longer(replace(ask, answer_tokens=self._retry_length), reply, trace)
        except (RowError, TransientError, AccountError) as error:
            if self._is_stopping and not isinstance(error, RowError):
                return None
            return self._outcome(row, trace, failure=Failure(error.kind, str(error), error.http_status))
        return self._outcome(row, trace, reply=reply)

    async def _ask_longer(self, ask: Ask, cut: Reply, trace: _Trace) -> Reply:
        """Once more with room for a longer answer; its usage is that of both. The one that was cut, where none comes."""
        if self._is_stopping:
            return cut
        self.tally.retries += 1
        last = trace.last
        if last is not None:
            trace.cost_of_cut = last.channel.steps.price(cut)
        try:
            longer = await self._attempt(ask, trace)
        except (RowError, TransientError, RunError) as error:
            if isinstance(error, RunError) and not isinstance(error, AccountError):  # the budget, say
                self.stop(error)
            trace.last, trace.cost_of_cut = last, None
            return cut
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            trace.last, trace.cost_of_cut = last, None  # the answer that was cut is paid for, and is saved
            return cut
        self._steps.unanswered("length", Spending(requests=1))  # what it cost is in the row
        trace.longer_usage = longer.usage
        return replace(longer, usage=cut.usage + longer.usage)

    async def _attempt(self, ask: Ask, trace: _Trace) -> Reply:
        """One attempt that counts. What an endpoint has against our account, that it cannot be reached or
        is broken still (a probe), is no word about the row: it goes back to the line."""
        while True:
            try:
                return await self._pass(ask, trace)
            except (ConnectionLost, ServerBusy, AccountError, RowError) as error:
                if self._is_stopping or trace.last is None:
                    raise
                channel = trace.last.channel
                goes_elsewhere = self._goes_elsewhere(error, ask, channel)
                if goes_elsewhere and isinstance(error, RowError):
                    self._note_end(channel, Failure(error.kind, str(error), error.http_status))
                is_probe = trace.last.is_probe and isinstance(error, ConnectionLost | ServerBusy)
                if not (goes_elsewhere or is_probe or channel.health.is_outage(error)):
                    raise
                if not is_probe:
                    ask.avoid.add(channel)

    def _goes_elsewhere(self, error: AnswerError, ask: Ask, channel: Endpoint) -> bool:
        """Whether what one endpoint has against a row, or the row's owner, may be nothing to another."""
        is_of_the_endpoint = (
            isinstance(error, AccountError)
            or error.kind == "cannot_connect"
            or (error.kind in ELSEWHERE_KINDS and error.http_status is not None)
        )
        return is_of_the_endpoint and any(
            c is not channel and c not in ask.avoid for c in self._gate.in_service
        )

    async def _pass(self, ask: Ask, trace: _Trace) -> Reply:
        """Once through the gate, one POST."""
        ticket = await self._gate.admit(ask)
        self._enter()
        trace.last = ticket
        trace.attempts += 1
        self.tally.attempts += 1
        end: Reply | Spending | None = None
        try:
            end = await ticket.channel.send(ticket, ask.row, ask.pictures, ask.answer_tokens)
            if end.usage.spent_tokens is None:
                self._steps.unanswered("without_usage", replace(ticket.most, requests=0))
        except AnswerError as error:
            end = ticket.most if may_be_billed(error) else Spending(requests=1)
            self._steps.unanswered(error.kind, end)
            self._failed(error, ask, trace, ticket)
            raise
        except asyncio.CancelledError:
            self._steps.unanswered("given_up", ticket.most)
            raise
        finally:
            self._leave()
            self._gate.leave(ticket, end)
        return end

    def _failed(self, error: AnswerError, ask: Ask, trace: _Trace, ticket: Ticket) -> None:
        """What a failed attempt means for the others."""
        self.tally.rate_limited += isinstance(error, RateLimited)
        _log.debug("%s: attempt %d at %s: %s", ask.row.id, trace.attempts, ticket.channel.name, error)
        now = asyncio.get_running_loop().time()
        try:
            ticket.channel.failed(ticket, error, ask.row.id, trace.attempts, now)
        except RunError as stop:
            self._put_aside(ticket.channel, stop)

    def _put_aside(self, channel: Endpoint, error: RunError) -> None:
        """Go on with the others. Raises RunError, for the whole run, where there are none."""
        if channel.put_aside is not None:
            return
        channel.put_aside = error
        if len(self._gate.channels) == 1:
            raise error
        left = [c.name for c in self._gate.in_service]
        if not left:
            reasons = "; ".join(_named(c) for c in self._gate.channels)
            raise RunError(f"no endpoint is left ({reasons})", kind=error.kind, http_status=error.http_status)
        self._steps.tell(f"put aside: {_named(channel)}; going on with {', '.join(left)}")
        self._gate.poke()

    def _enter(self) -> None:
        if task := asyncio.current_task():
            self._out.add(task)

    def _leave(self) -> None:
        if task := asyncio.current_task():
            self._out.discard(task)

    def _will_retry(self, _error: BaseException) -> None:
        self.tally.retries += 1

    # ---- the end of a row

    def _outcome(
        self, row: Row, trace: _Trace, reply: Reply | None = None, failure: Failure | None = None
    ) -> Outcome:
        last = trace.last
        cost = self._cost(reply, trace) if reply else None
        return Outcome(
            row=row,
            started_at=trace.started_at,
            finished_at=self._now(),
            attempts=trace.attempts,
            reply=reply,
            failure=failure,
            pictures=trace.pictures,
            estimated_tokens=last.reserved_tokens if last else None,
            latency_seconds=last.latency_seconds if last else None,
            endpoint=last.channel.name if last else None,
            model_requested=last.channel.model if last else None,
            cost_usd=cost,
        )

    @staticmethod
    def _cost(reply: Reply, trace: _Trace) -> Decimal | None:
        """Each answer at the price of where it came from."""
        if trace.last is None:
            return None
        price = trace.last.channel.steps.price
        if trace.longer_usage is None:
            return price(reply)
        longer = price(replace(reply, usage=trace.longer_usage))
        return None if longer is None or trace.cost_of_cut is None else longer + trace.cost_of_cut

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
            tally.cost_usd = (tally.cost_usd or Decimal(0)) + outcome.cost_usd


def _is_cut(reply: Reply) -> bool:
    return all(choice.finish == "length" for choice in reply.choices)


def _named(channel: Endpoint) -> str:
    """Why an endpoint was given up, with its name; what the connection says has it already."""
    reason = str(channel.put_aside)
    return reason if reason.startswith(channel.name) else f"{channel.name}: {reason}"
