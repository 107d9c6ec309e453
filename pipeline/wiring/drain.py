"""Stopping without losing what is paid for.

The first stop drains: tasks that hold a request in flight, or an answer that is being recorded, go on;
tasks that only wait (for tokens, for a pause, for the next attempt) are cancelled and their rows stay
unfinished. A second stop cancels everything.
"""

from __future__ import annotations

import asyncio

from ..nouns.errors import RunError


class _Protection:
    """The current task is one of `tasks`, from entering to leaving. A class: a generator takes three times as long."""

    __slots__ = ("_task", "_tasks")

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  made in a coroutine
        self._tasks, self._task = tasks, task

    def __enter__(self) -> None:
        self._tasks.add(self._task)

    def __exit__(self, *_: object) -> None:
        self._tasks.discard(self._task)


class Drain:
    """Who may be cancelled. Read `stopped_by` after the run; None where it was the user's wish or none."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()  # set once, by the first stop
        self.stopped_by: RunError | None = None  # why, where it was not the user's wish
        self.tasks: set[asyncio.Task[None]] = set()  # of the run; the runner fills it
        self._protected: set[asyncio.Task[None]] = set()  # those with something paid for; see `protected`

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.stopping.is_set()

    def protected(self) -> _Protection:
        """A context in which the current task holds what is paid for: the first stop waits for it."""
        return _Protection(self._protected)

    def stop(self, error: RunError | None = None) -> None:
        """Send nothing more. error: why, where it was not the user's wish."""
        if error is not None and self.stopped_by is None:
            self.stopped_by = error
        if not self.is_stopping:
            self.stopping.set()
            self.cancel_waiting()

    def stop_at_once(self) -> None:
        """Give up what is in flight too."""
        self.stopping.set()
        for task in self.tasks:
            task.cancel()

    def cancel_waiting(self) -> None:
        """Cancel every task but those that are protected and the one that calls."""
        current = asyncio.current_task() if self.tasks else None  # a stop before `run` has no loop
        for task in self.tasks - self._protected:
            if task is not current:
                task.cancel()

    async def finished(self) -> None:
        """Wait for what is protected now, after something unexpected broke."""
        if self._protected:
            await asyncio.wait(self._protected)
