"""The line before the endpoints: one for all, first in, first out, to whichever endpoint has room.

A row that waits belongs to no endpoint yet. Whoever stands at the head goes to the least loaded of the
endpoints that have a place and the tokens for it, and nobody overtakes it there, so a row with large
pictures gets its turn. No endpoint idles meanwhile: its bucket fills until it is large enough, and one
that the head cannot use (its limit is too small, it refused the row) serves those behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..nouns.errors import RowError
from ..nouns.rows import Picture, Reply, Row, Spending, TokenEstimate
from ..rules.budget import Budget
from .channel import Channel, Ticket


@dataclass(slots=True, eq=False)
class Ask:
    """A row that wants to be sent.

    answer_tokens: how long its answer may be, None as the run says. avoid: endpoints that refused it for
    reasons of their own account.
    """

    row: Row
    pictures: tuple[Picture, ...]
    answer_tokens: int | None = None
    avoid: set[Channel] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Waiter:
    ask: Ask
    turn: asyncio.Future[Ticket]
    # estimated when it stands at the head, with all that was learned until then
    estimates: dict[Channel, TokenEstimate] = field(default_factory=dict)


class Gate:
    """Lets rows through to the channels. Asks only the event loop for time. budget: None for no bound."""

    def __init__(self, channels: Sequence[Channel], budget: Budget | None = None) -> None:
        self.channels = tuple(channels)
        self._budget = budget
        self._line: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_service(self) -> list[Channel]:
        return [channel for channel in self.channels if channel.put_aside is None]

    async def admit(self, ask: Ask) -> Ticket:
        """Wait for the turn, for a place and for tokens. The ticket must be given back with `leave`.

        Raises RowError where the request is above what a whole minute allows at any endpoint, RunError
        where the budget is reached.
        """
        waiter = _Waiter(ask, asyncio.get_running_loop().create_future())
        self._line.append(waiter)
        if len(self._line) == 1 or len(self.channels) > 1:  # those ahead may not want every endpoint
            self.poke()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                ticket = waiter.turn.result()  # let through in the moment in which it was given up
                ticket.channel.unused(asyncio.get_running_loop().time(), ticket)
                self._settle(ticket, Spending(requests=0))
            self.poke()
            raise

    def leave(self, ticket: Ticket, end: Reply | Spending | None = None) -> None:
        """The attempt is over; the next may come. end: the answer, or what it cost without one; None for the most."""
        ticket.channel.leave(ticket)
        self._settle(ticket, end)
        self.poke()

    def _settle(self, ticket: Ticket, end: Reply | Spending | None) -> None:
        if self._budget is None:
            return
        if isinstance(end, Reply):
            end = ticket.channel.spent(ticket, end)
        self._budget.settle(ticket.most, ticket.most if end is None else end)

    def poke(self) -> None:
        """Something changed: let through as many as there is room for now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._line:
            return
        in_service, wanted = len(self.in_service), set[Channel]()  # by those who wait further ahead
        wait_seconds = float("inf")
        for waiter in self._line:
            if not waiter.turn.done():
                wait_seconds = min(wait_seconds, self._try(waiter, wanted))
                if not waiter.turn.done():
                    wanted.update(c for c in waiter.estimates if c.put_aside is None)
            if len(wanted) >= in_service:
                break
        while self._line and self._line[0].turn.done():
            self._line.popleft()
        if wait_seconds < float("inf"):
            # looked at again each second: a pace that grows shortens the wait
            self._timer = asyncio.get_running_loop().call_later(min(wait_seconds, 1.0), self.poke)

    def _try(self, waiter: _Waiter, wanted: set[Channel]) -> float:
        """Let a waiter through, or say after how many seconds to try again; inf where that is no use.

        wanted: where somebody waits before it.
        """
        now = asyncio.get_running_loop().time()
        best: Channel | None = None
        shortest = float("inf")
        too_dear: Spending | None = None  # for what is left of the budget
        if all(channel.put_aside is not None for channel in waiter.estimates):  # also when it is new here
            try:
                waiter.estimates.clear()
                self._estimate(waiter)
            except RowError as error:
                waiter.turn.set_exception(error)
                return shortest
        for channel, estimate in waiter.estimates.items():
            if channel.put_aside is not None or channel in wanted:
                continue
            wait = channel.wait_seconds(now, estimate)
            if wait > 0:
                shortest = min(shortest, wait)
            elif not self._affords(channel, estimate):
                too_dear = channel.steps.most(estimate)
            elif best is None or channel.load < best.load:
                best = channel
        if best is not None:
            self._let_through(waiter, best, now)
            return float("inf")
        is_last_hope = shortest == float("inf")  # else another endpoint may do it yet
        if too_dear is not None and is_last_hope and self._budget and not self._budget.has_requests_out:
            waiter.turn.set_exception(self._budget.reached(too_dear))
        return shortest

    def _affords(self, channel: Channel, estimate: TokenEstimate) -> bool:
        return self._budget is None or self._budget.fits(channel.steps.most(estimate))

    def _let_through(self, waiter: _Waiter, channel: Channel, now: float) -> None:
        estimate = waiter.estimates[channel]
        ticket = channel.admit(now, estimate)
        if self._budget is not None:
            self._budget.hold_back(ticket.most)
        waiter.turn.set_result(ticket)

    def _estimate(self, waiter: _Waiter) -> None:
        """Where the row may go at all, and what it needs there.

        Raises RowError where its need is above the whole limit of each of them.
        """
        in_service = self.in_service
        refusal = None
        for channel in [c for c in in_service if c not in waiter.ask.avoid] or in_service:
            estimate = channel.steps.estimate(waiter.ask.row, waiter.ask.pictures)
            if waiter.ask.answer_tokens is not None:
                longer = waiter.ask.answer_tokens * estimate.answers
                estimate = replace(estimate, longest_answer=longer, likely_answer=longer, most_answer=longer)
            try:
                channel.limiter.refuse_impossible(channel.reservation(estimate))
            except RowError as error:
                refusal = error
            else:
                waiter.estimates[channel] = estimate
        if refusal is not None and not waiter.estimates:
            raise refusal
