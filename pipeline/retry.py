"""Again, how often, after how long. The policy is tenacity's, the numbers are ours.

Which failure is worth another attempt is in its class (see errors.py): TransientError is, the rest
is not. An AccountError is, until it repeats without any answer in between: relays give 401 for
trouble in their database, and one such word should not end a night's run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from .errors import AccountError, TransientError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
ACCOUNT_ERRORS_TO_STOP = 3


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
        asked = getattr(state.outcome.exception(), "retry_after_seconds", None) or 0.0
        # a pause that the server asked for is kept by the limiter, for everybody at once
        return 0.0 if asked else backoff_seconds(state.attempt_number, chance)

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            before_wait(error)

    return AsyncRetrying(
        retry=retry_if_exception_type((TransientError, AccountError)),
        stop=lambda state: state.attempt_number > max_retries or is_stopping(),
        wait=wait,
        sleep=asyncio.sleep,
        before_sleep=tell,
        reraise=True,
    )


async def call(policy: AsyncRetrying, attempt: Callable[[], Awaitable[T]]) -> T:
    """`attempt` under the policy. Raises the last failure.

    The policy meets only rows whose first attempt failed (it would cost the others 45 us each): it is
    handed that failure as its own first attempt.
    """
    try:
        return await attempt()
    except (TransientError, AccountError) as error:
        first: list[BaseException] = [error]

    async def replay() -> T:
        if first:
            raise first.pop()
        return await attempt()

    return await policy.copy()(replay)


class AccountWatch:
    """Believes an AccountError when it is the third in a row, over all rows."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def answered(self) -> None:
        self._in_a_row = 0

    def refused(self) -> bool:
        """True when the run should stop."""
        self._in_a_row += 1
        return self._in_a_row >= ACCOUNT_ERRORS_TO_STOP
