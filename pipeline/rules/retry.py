"""Again, how often, after how long. The policy is tenacity's, the numbers are ours.

Which failure is worth another attempt is in its class (nouns/errors.py): TransientError is, the rest
is not. A 429 was not paid for and says nothing about the row, so it has a bound of its own, far away.
A whole answer that cannot be read was billed, and so is the next: it has a bound of its own, near.
An AccountError is tried again too, until the circuit breaker believes it: relays give 401 for trouble in
their database, and one such word should not end a night's run.
"""

from __future__ import annotations

import asyncio

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ..nouns.errors import AccountError, RateLimited, TransientError
from .backoff import Backoff

MOST_REFUSALS = 100


class RowRetries:
    """The attempts of one row after its first has failed; most rows never need one (it costs 45 us).

    max_retries: attempts after the first. max_unreadable: attempts after the first whole answer that cannot be read.
    stopping: once set, the next failure is the last.
    """

    def __init__(
        self, max_retries: int, backoff: Backoff, stopping: asyncio.Event, max_unreadable: int = 2
    ) -> None:
        self._max_retries = max_retries
        self._max_unreadable = max_unreadable
        self._backoff = backoff
        self._stopping = stopping
        self._refusals = 0  # failures for a limit; they do not count against max_retries
        self._unreadable = 0  # whole answers that cannot be read: each may be billed

    def attempts(self) -> AsyncRetrying:
        """To iterate over: `async for attempt in ...: with attempt: ...`. The first one must raise the failure
        that is known already. The last real exception comes out."""
        return AsyncRetrying(
            retry=retry_if_exception_type((TransientError, AccountError)),
            after=self._count,
            stop=self._is_over,
            wait=self._wait_seconds,
            sleep=asyncio.sleep,
            reraise=True,
        )

    def _count(self, state: RetryCallState) -> None:
        error = _failure(state)
        self._refusals += isinstance(error, RateLimited)
        self._unreadable += isinstance(error, TransientError) and error.bought_nothing

    def _is_over(self, state: RetryCallState) -> bool:
        counted = state.attempt_number - min(self._refusals, MOST_REFUSALS)
        return (
            counted > self._max_retries or self._unreadable > self._max_unreadable or self._stopping.is_set()
        )

    def _wait_seconds(self, state: RetryCallState) -> float:
        error = _failure(state)
        if isinstance(error, RateLimited):  # the flow control of its endpoint says when anything may go there
            return (
                0.0 if self._refusals < 5 else self._backoff.seconds(self._refusals - 4)
            )  # others have a turn too
        asked = getattr(error, "retry_after_seconds", None)
        if asked is None:
            return self._backoff.seconds(state.attempt_number)
        return self._backoff.scatter_seconds(state.attempt_number, asked)


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
