"""N rows at a time: a pool of workers between the pictures that are prepared ahead and the record.

    rows -> prepare (ahead, in threads) -> a worker: attempts -> record

Workers pull from one queue, so nothing grows with the manifest; the dispatcher says which row is sent,
when and where. One row's attempts are in attempts.py, stopping is in drain.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator

from ..nouns.config import LimitSettings
from ..nouns.errors import KINDS, RunError
from ..nouns.rows import Outcome, Prepared, Row, Tally
from ..rules.budget import Budget
from .accounting import Accounting
from .attempts import Attempts
from .dispatcher import Dispatcher
from .drain import Drain
from .endpoint import Endpoint
from .ports import PictureSource, Recorder
from .prefetch import Prefetch, pictures_of

MOST_ROWS_AHEAD = 64


class Runner:
    """Takes rows through their journey. Read `tally` at any time; `stopped_by` after `run`.

    limits: retries and pauses. chance: for the jitter.
    """

    def __init__(
        self,
        pictures: PictureSource,
        recorder: Recorder,
        dispatcher: Dispatcher,
        limits: LimitSettings,
        tally: Tally,
        chance: random.Random,
    ) -> None:
        self._pictures = pictures
        self._recorder = recorder
        self._dispatcher = dispatcher
        self.tally = tally
        self._drain = Drain()
        self._accounting = Accounting(tally, recorder)
        self._attempts = Attempts(dispatcher, self._drain, self._accounting, recorder, limits, chance)
        # one for each request that may be in flight; it takes the next row when its answer is safe, so that no
        # more than that many answers can be lost, however the process ends
        self._worker_count = sum(endpoint.ceiling for endpoint in dispatcher.endpoints)
        # the last failed rows of each endpoint, pictures' own faults left out; `_finish` adds
        self._failed: dict[Endpoint, deque[Outcome]] = {}
        self._most_failed = max(1, min(limits.stop_after_failures, 100_000))
        self._is_streak = False  # the run stops because of such a streak

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return self._dispatcher.in_flight

    @property
    def budget(self) -> Budget | None:
        """What the run may spend; None for no bound."""
        return self._dispatcher.budget

    @property
    def stopped_by(self) -> RunError | None:
        """Why the run stopped early; None where it did not, or at the user's wish."""
        return self._drain.stopped_by

    async def run(self, rows: AsyncGenerator[list[Row]]) -> None:
        """Until the rows are through or the run is stopped. Raises only what is a bug."""
        queue: asyncio.Queue[Prepared | None] = asyncio.Queue(min(self._worker_count, MOST_ROWS_AHEAD))
        prefetch = Prefetch(rows, queue)
        feeder = asyncio.create_task(self._feed(prefetch))
        workers = [asyncio.create_task(self._work(prefetch)) for _ in range(self._worker_count)]
        tasks = self._drain.tasks = {feeder, *workers}
        if self._drain.is_stopping:
            self._drain.cancel_waiting()
        try:
            await _join(tasks)
        except BaseException:
            self._drain.stopping.set()
            self._drain.cancel_waiting()
            await self._drain.finished()  # what is in flight is paid for in any case
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await rows.aclose()

    def stop(self, error: RunError | None = None) -> None:
        """Send nothing more; save what is in flight. error: why, where it was not the user's wish."""
        self._drain.stop(error)

    def stop_at_once(self) -> None:
        """Give up what is in flight too."""
        self._drain.stop_at_once()

    async def _feed(self, prefetch: Prefetch) -> None:
        """Prepare pictures ahead, then tell each worker that there are no more."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._pictures.calls_at_once):
                    group.create_task(self._prepare(prefetch))
        except* RunError as errors:
            error = errors.exceptions[0]
            self._drain.stop(error if isinstance(error, RunError) else None)
        else:
            for _ in range(self._worker_count):
                await prefetch.queue.put(None)

    async def _prepare(self, prefetch: Prefetch) -> None:
        while rows := await prefetch.next_rows():
            await prefetch.put(rows, await self._pictures.prepare(rows))

    async def _work(self, prefetch: Prefetch) -> None:
        while not self._drain.is_stopping:
            prepared = await prefetch.queue.get()
            if prepared is None:
                return
            try:
                await self._finish(prepared)
            except RunError as error:
                self._drain.stop(error)
            finally:
                prefetch.release(pictures_of(prepared))

    async def _finish(self, prepared: Prepared) -> None:
        """Take one row to its end and make that durable."""
        ended = await self._attempts.journey(prepared)
        if ended is None:
            return
        failure = ended.outcome.failure
        is_own = failure is None or KINDS[failure.kind].concerns == "picture"
        if self._is_streak and not is_own:  # it was in flight when row after row had failed
            return
        with self._drain.protected():
            await self._recorder.record(ended.outcome)
            self._accounting.recorded(ended.outcome)
            if self._is_streak and not is_own:  # row after row failed while it was recorded
                await self._unfinish([ended.outcome])
            elif ended.endpoint is not None:
                if not is_own:
                    self._failed.setdefault(ended.endpoint, deque(maxlen=self._most_failed)).append(
                        ended.outcome
                    )
                try:
                    self._attempts.row_ended(ended.endpoint, failure)
                except RunError:
                    if failure is not None:
                        count = ended.endpoint.flow.breaker.failed_rows
                        await self._unfinish([*self._failed.get(ended.endpoint, ())][-count:])
                    raise

    async def _unfinish(self, outcomes: list[Outcome]) -> None:
        """The rows that made the run stop are not at fault: the same command asks them again."""
        self._is_streak = True
        await self._recorder.unfinish([outcome.row.id for outcome in outcomes])
        self._accounting.unfinished(outcomes)


async def _join(tasks: set[asyncio.Task[None]]) -> None:
    """All workers have ended, or one task has failed with what was not expected."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
