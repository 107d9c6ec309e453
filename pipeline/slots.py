"""Places for requests in flight: a first-in-first-out semaphore whose size may change while it is used."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Slots:
    """limit: asked anew each time a place is taken or given back."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_use = 0

    async def take(self) -> None:
        """Wait for the turn and a free place."""
        if not self._waiting and self.in_use < self._limit():
            self.in_use += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given a place in the moment it was given up
                self.give_back()
            raise

    def give_back(self) -> None:
        self.in_use -= 1
        self.wake()

    def wake(self) -> None:
        """Let in as many as there is room for; call it too when the limit may have grown."""
        while self._waiting and self.in_use < self._limit():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_use += 1
                turn.set_result(None)
