"""Again, how often, after how long. The policy is tenacity's, the numbers are ours.

Which failure is worth another attempt is in its class (see errors.py): TransientError is, the rest
is not. A 429 was not paid for and says nothing about the row, so it has a bound of its own, far away.
An empty answer is asked for twice at most: the next will hardly say more, and somebody may bill it.
An AccountError is tried again too, until `health` believes it: relays give 401 for trouble in their
database, and one such word should not end a night's run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ..nouns.errors import AccountError, RateLimited, TransientError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
MOST_REFUSALS = 100
MOST_EMPTY = 2


def backoff_seconds(attempt: int, chance: random.Random) -> float:
    """Before attempt `attempt` + 1: doubles from half a second to a minute, and up to half less by chance."""
    longest = min(FIRST_WAIT_SECONDS * 2.0 ** min(attempt - 1, 30), LONGEST_WAIT_SECONDS)
    return longest * chance.uniform(0.5, 1.0)


def retrying(
    max_retries: int,
    chance: random.Random,
    is_stopping: Callable[[], bool],
    before_wait: Callable[[BaseException], None],
) -> AsyncRetrying:
    """The policy for one run; see `call`.

    is_stopping: once true, the next failure is the last. before_wait: told of each failure that
    will be tried again. The last real exception comes out.
    """

    def wait(state: RetryCallState) -> float:
        assert state.outcome is not None  # noqa: S101  tenacity sets it before it waits
        # a pause that the server asked for is kept by the limiter, for everybody at once; this only keeps
        # those who were refused together from coming back together
        wait_seconds = backoff_seconds(state.attempt_number, chance)
        asked = getattr(state.outcome.exception(), "retry_after_seconds", None)
        return wait_seconds if asked is None else chance.uniform(0.0, min(wait_seconds, 2 * asked + 0.5))

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            before_wait(error)

    return AsyncRetrying(
        retry=retry_if_exception_type((TransientError, AccountError)),
        stop=lambda state: _counted(state) > max_retries or is_stopping() or _is_empty_again(state),
        wait=wait,
        sleep=asyncio.sleep,
        before_sleep=tell,
        reraise=True,
    )


def _counted(state: RetryCallState) -> int:
    """Attempts that count against the retries: refusals for a limit do not, up to a bound of their own."""
    refusals: int = state.kwargs["refusals"].count
    return state.attempt_number - min(refusals, MOST_REFUSALS)


def _is_empty_again(state: RetryCallState) -> bool:
    empty: int = state.kwargs["refusals"].empty
    return empty >= MOST_EMPTY


@dataclass(slots=True)
class _Refusals:
    """Of one row. count: for a limit. empty: answers that said nothing."""

    count: int = 0
    empty: int = 0


async def call(policy: AsyncRetrying, attempt: Callable[[], Awaitable[T]]) -> T:
    """`attempt` under the policy. Raises the last failure.

    The policy meets only rows whose first attempt failed (it would cost the others 45 us each): it is
    handed that failure as its own first attempt.
    """
    try:
        return await attempt()
    except (TransientError, AccountError) as error:
        first: list[BaseException] = [error]

    async def again(refusals: _Refusals) -> T:
        try:
            if first:
                raise first.pop()
            return await attempt()
        except RateLimited:
            refusals.count += 1
            raise
        except TransientError as error:
            refusals.empty += error.facts.is_asked_twice
            raise

    return await policy.copy()(again, refusals=_Refusals())
