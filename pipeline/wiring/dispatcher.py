"""The queue before the endpoints: one for all, first in, first out, to the endpoint that has room.

A row that is asked again goes before all that were never asked, so that a run has no tail of retries.

A row that waits belongs to no endpoint yet. The row at the head goes to the least loaded of the
endpoints that have a place and the tokens for it, and no other overtakes it there, so a row with large
pictures gets its turn. No endpoint idles meanwhile: its bucket fills until it is large enough, and one
that the head cannot use (its limit is too small, it refused the row) serves those behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from ..nouns.errors import RowError, RunError
from ..nouns.rows import Ask, Spending, TokenEstimate
from ..rules.budget import Budget
from .endpoint import Endpoint, Ticket

LONGEST_TIMER_SECONDS = 1.0  # a discovered rate that grows shortens a wait


@dataclass(slots=True, eq=False)
class _Waiter:
    """avoid: endpoints that refused the row. is_retry: it was asked before. turn: its ticket. estimates: made when it stands at the head, with
    all that was learned until then; empty before."""

    ask: Ask
    avoid: Collection[Endpoint]
    is_retry: bool
    turn: asyncio.Future[Ticket]
    estimates: dict[Endpoint, TokenEstimate] = field(default_factory=dict)


class Dispatcher:
    """Sends rows to endpoints. Asks only the event loop for time. budget: None for no bound."""

    def __init__(self, endpoints: Sequence[Endpoint], budget: Budget | None = None) -> None:
        self.endpoints = tuple(endpoints)
        self.budget = budget
        self._queue: deque[_Waiter] = deque()  # oldest first; `admit` appends, `poke` removes
        self._timer: asyncio.TimerHandle | None = None  # the next look at the queue; `poke` sets it

    @property
    def in_service(self) -> list[Endpoint]:
        """The endpoints that are not disabled."""
        return [endpoint for endpoint in self.endpoints if endpoint.disabled is None]

    @property
    def in_flight(self) -> int:
        """Requests in flight at all endpoints."""
        return sum(endpoint.flow.in_flight for endpoint in self.endpoints)

    async def admit(self, ask: Ask, avoid: Collection[Endpoint] = (), *, is_retry: bool = False) -> Ticket:
        """Wait for the turn, for a place and for tokens. The ticket must be given back with `leave`.

        avoid: endpoints that refused this row. is_retry: it was asked before; it waits before those that were not.
        Raises RowError where the request is above what a whole minute
        allows at any endpoint, RunError where the budget is reached.
        """
        waiter = _Waiter(ask, avoid, is_retry, asyncio.get_running_loop().create_future())
        self._enqueue(waiter)
        if self._queue[0] is waiter or len(self.endpoints) > 1:  # those ahead may not want every endpoint
            self.poke()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                self._take_back(waiter.turn.result())  # admitted in the moment in which it was given up
            self.poke()
            raise

    def leave(self, ticket: Ticket, cost: Spending) -> None:
        """The attempt is over; the next may come. cost: what it cost, or may have cost at the most."""
        ticket.endpoint.flow.left(ticket.admission)
        self._settle(ticket, cost)
        self.poke()

    def disable(self, endpoint: Endpoint, error: RunError) -> str | None:
        """Send nothing more to an endpoint.

        Returns a line for the user, None where it was disabled before. Raises RunError, for the whole run, where
        no endpoint is left.
        """
        if endpoint.disabled is not None:
            return None
        endpoint.disabled = error
        if len(self.endpoints) == 1:
            raise error
        left = [e.name for e in self.in_service]
        if not left:
            reasons = "; ".join(_reason(e) for e in self.endpoints)
            raise RunError(f"no endpoint is left ({reasons})", kind=error.kind, http_status=error.http_status)
        self.poke()
        return f"endpoint disabled: {_reason(endpoint)}; continuing with {', '.join(left)}"

    def poke(self) -> None:
        """Something changed: admit as many as there is room for now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_seconds = self._admit_waiting()
        while self._queue and self._queue[0].turn.done():
            self._queue.popleft()
        if wait_seconds < float("inf"):
            seconds = min(wait_seconds, LONGEST_TIMER_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(seconds, self.poke)

    def _enqueue(self, waiter: _Waiter) -> None:
        """At the end of its own kind: what is asked again stands before what is new."""
        if not waiter.is_retry:
            self._queue.append(waiter)
            return
        behind = next(
            (place for place, other in enumerate(self._queue) if not other.is_retry), len(self._queue)
        )
        self._queue.insert(behind, waiter)

    # ---- one look at the queue

    def _admit_waiting(self) -> float:
        """Seconds after which another look is worth it; inf where an answer must come first."""
        in_service, wanted = len(self.in_service), set[Endpoint]()  # by those who wait further ahead
        wait_seconds = float("inf")
        for waiter in self._queue:
            if not waiter.turn.done():
                wait_seconds = min(wait_seconds, self._try(waiter, wanted))
                if not waiter.turn.done():
                    wanted.update(e for e in waiter.estimates if e.disabled is None)
            if len(wanted) >= in_service:
                break
        return wait_seconds

    def _try(self, waiter: _Waiter, wanted: set[Endpoint]) -> float:
        """Admit a waiter, or say after how many seconds to try again; inf where that is no use.

        wanted: endpoints for which a row waits before it.
        """
        now = asyncio.get_running_loop().time()
        if all(endpoint.disabled is not None for endpoint in waiter.estimates):  # also when it is new here
            try:
                waiter.estimates = self._estimate(waiter)
            except RowError as error:
                waiter.turn.set_exception(error)
                return float("inf")
            for endpoint in waiter.estimates:
                endpoint.flow.start(now)
        best: Endpoint | None = None
        shortest = float("inf")
        too_expensive: Spending | None = None  # for what is left of the budget
        for endpoint, estimate in waiter.estimates.items():
            if endpoint.disabled is not None or endpoint in wanted or not endpoint.has_room_to_learn:
                continue
            wait = endpoint.flow.wait_seconds(now, estimate)
            if wait > 0:
                shortest = min(shortest, wait)
            elif self.budget and not self.budget.fits(most := endpoint.connection.most(estimate)):
                too_expensive = most
            elif best is None or endpoint.load < best.load:
                best = endpoint
        if best is not None:
            self._admit(waiter, best, now)
            return float("inf")
        is_last_hope = shortest == float("inf")  # else another endpoint may do it yet
        if too_expensive and is_last_hope and self.budget and not self.budget.has_requests_in_flight:
            waiter.turn.set_exception(self.budget.reached(too_expensive))
        return shortest

    def _admit(self, waiter: _Waiter, endpoint: Endpoint, now: float) -> None:
        ticket = endpoint.admit(now, waiter.estimates[endpoint])
        if self.budget is not None:
            self.budget.hold_back(ticket.most)
        waiter.turn.set_result(ticket)

    def _settle(self, ticket: Ticket, cost: Spending) -> None:
        if self.budget is not None:
            self.budget.settle(ticket.most, cost)

    def _take_back(self, ticket: Ticket) -> None:
        ticket.endpoint.flow.unused(asyncio.get_running_loop().time(), ticket.admission)
        self._settle(ticket, Spending(requests=0))

    def _estimate(self, waiter: _Waiter) -> dict[Endpoint, TokenEstimate]:
        """Where the row may go at all, and what it needs there.

        Raises RowError where its need is above the whole limit of each of them.
        """
        in_service, estimates = self.in_service, dict[Endpoint, TokenEstimate]()
        refusal = None
        for endpoint in [e for e in in_service if e not in waiter.avoid] or in_service:
            estimate = _with_longer_answer(endpoint.estimate(waiter.ask), waiter.ask.answer_tokens)
            try:
                endpoint.flow.refuse_impossible(estimate)
            except RowError as error:
                refusal = error
            else:
                estimates[endpoint] = estimate
        if refusal is not None and not estimates:
            raise refusal
        return estimates


def _with_longer_answer(estimate: TokenEstimate, answer_tokens: int | None) -> TokenEstimate:
    """The estimate of an ask whose answer may be longer than the run says."""
    if answer_tokens is None:
        return estimate
    longer = answer_tokens * estimate.answers
    return replace(estimate, longest_answer=longer, likely_answer=longer, most_answer=longer)


def _reason(endpoint: Endpoint) -> str:
    """Why an endpoint was disabled, with its name; what the connection says has it already."""
    reason = str(endpoint.disabled)
    return reason if reason.startswith(endpoint.name) else f"{endpoint.name}: {reason}"
