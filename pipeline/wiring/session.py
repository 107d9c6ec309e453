"""A whole run: open and check everything, take the rows through the runner, leave one clean dataset.

`Mill.open` is synchronous and sends nothing: whatever is wrong with source, settings or folder shows
here. `run` sends; `stop` may be called at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from ..accounts.spent import open_budget
from ..edges.chat import ChatClient
from ..nouns.address import Address
from ..nouns.config import IMAGE_DEFAULTS, PriceTable, RunConfig
from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Outcome, Row, Tally
from ..pictures.pool import PicturePool
from ..pictures.prepare import PicturePreparer
from ..pictures.remote import RemotePictures
from ..rules.budget import Budget
from ..rules.prices import PriceBook
from ..sources.manifest import Manifest, Survey
from ..store import parts
from ..store.checkpoint import Checkpoint
from ..store.database import is_blank
from ..store.folder import RunFolder, utc_now
from ..store.journal import Entry, Journal
from ..store.recovery import open_journal
from ..vision.sizes import picture_bounds
from . import deadline, live
from .connect import connect
from .live import EndpointState, LoopLag
from .runner import Runner, Steps

_LOOKUP_ROWS = 256
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Job:
    """What to run.

    endpoints: address and key for each of `config.endpoints()`, in the same order. retry_failed: kinds of
    failed rows to try again; empty for all, None for none. is_moved: the source of a run that goes on
    has another path now. most_rows: of those that are not finished, only so many; None for all.
    """

    source: Path
    run_path: Path
    config: RunConfig
    endpoints: tuple[Address, ...]
    retry_failed: frozenset[str] | None = None
    is_moved: bool = False
    most_rows: int | None = None


class Session:
    """One start of a run. Make it with `open`, use `run` once, then `close`."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        survey: Survey,
        manifest: Manifest,
        tell: Callable[[str], None],
    ) -> None:
        self._job = job
        self._tell = tell
        self.folder = folder
        self.survey = survey
        self._manifest = manifest
        config = job.config
        self.tally = Tally(total=survey.total)
        self._prices = PriceBook(config.prices)
        self._own_prices = {
            endpoint.name: entry.price
            for endpoint, entry in zip(job.endpoints, config.endpoints(), strict=True)
        }
        self.budget: Budget | None = None
        self._clients = tuple(
            ChatClient(
                endpoint,
                config.timeout,
                config.connect_timeout,
                config.read_timeout,
                config.proxy,
                sends_again=not config.has_budget,
            )
            for endpoint in job.endpoints
        )
        self._chance = random.Random()
        self.channels = tuple(
            connect(config, entry, client, self._prices, self._chance, tell)
            for entry, client in zip(config.endpoints(), self._clients, strict=True)
        )
        self.lag = LoopLag()
        self._is_all_done = False  # the last start ended with no row left, and the source is the same
        self.endpoints_before: list[str] | None = None  # where an earlier start of this run sent to
        self._checkpoint: Checkpoint | None = None
        self._runner: Runner | None = None
        self._is_interrupted = False
        self.given_up = 0  # requests that were out when it was stopped at once
        self._started_at = time.monotonic()

    @classmethod
    def open(cls, job: Job, tell: Callable[[str], None]) -> Session:
        """Check source and settings, take the folder, clear away what a crash left. Sends nothing.

        tell: gets a line that the user should see at once, now and while it runs. Raises UsageError, RunError.
        """
        config, folder = job.config, RunFolder(job.run_path)
        folder.check_usable()
        if _has_answers(folder):
            if not folder.run_json.exists():
                raise RunError(
                    f"{folder.run_json}: missing, so nobody knows to which settings these answers belong;"
                    f" put it back, or `captionmill repair {folder.path}`",
                    kind="damaged_run",
                )
            if folder.read_run().get("settings_lost"):  # after a repair
                tell("source and settings of the earlier answers are not known; these are taken for them")
            else:
                if not job.is_moved:
                    folder.check_same_source(job.source.resolve())
                folder.check_same_answers(config.answer_settings(), IMAGE_DEFAULTS)
                folder.check_same_currency((config.prices or PriceTable()).currency)
        manifest = Manifest(
            job.source, config.prompt, config.limit, config.allow_outside, config.allow_remote
        )
        tell(f"reading {job.source}")
        survey = manifest.survey()
        folder.lock()
        try:
            mill = cls(job, folder, survey, manifest, tell)
            journal = open_journal(folder)
            mill._check_kinds()
            if config.has_budget:
                mill.budget = open_budget(folder, config, mill._prices, mill._own_prices, tell)
            mill._checkpoint = Checkpoint(folder, journal, config.rows_per_part, mill.budget)
            mill._write_run()
        except BaseException:
            folder.unlock()
            raise
        return mill

    def close(self) -> None:
        """Let go of the folder. Safe to call twice."""
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None
        self.folder.unlock()

    # ---- running

    async def run(self) -> None:
        """Caption what is not finished. Raises RunError where the run stopped early; all else is saved."""
        assert self._checkpoint is not None, "use Session.open"  # noqa: S101
        config = self._job.config
        remote = RemotePictures() if config.allow_remote else None
        preparer = PicturePreparer(config, picture_bounds(config))
        pool = PicturePool(preparer, remote, config.prepare_threads)
        models = sorted({channel.model for channel in self.channels})
        watching = asyncio.gather(
            self.lag.watch(),
            live.keep(self.folder, self.channels, self.lag),
            self._checkpoint.keep_account(),
        )
        loading = asyncio.get_running_loop().run_in_executor(None, self._prices.load, models)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for client in self._clients:
                    await stack.enter_async_context(client)
                if remote is not None:
                    await stack.enter_async_context(remote)
                steps = self._steps(pool, self._checkpoint)
                runner = Runner(steps, self.channels, config, self.tally, self._chance, budget=self.budget)
                self._runner = runner
                if config.deadline is not None:
                    stack.enter_context(_cancelled_at_the_end(deadline.keep(config.deadline, runner.stop)))
                if self._is_interrupted:
                    runner.stop()
                await runner.run(self._unfinished_rows())
        finally:
            pool.close()
            watching.cancel()
            # without prices is better than without answers
            await asyncio.gather(loading, watching, return_exceptions=True)
            live.log_lag(self.lag)
            await self._finish(self._checkpoint)
        if runner.stopped_by is not None:
            raise runner.stopped_by

    async def _finish(self, checkpoint: Checkpoint) -> None:
        """Everything into parts. What stopped the run is the better news where this fails for it too."""
        try:
            await checkpoint.finish()
            self._write_run()
        except RunError:
            if self._runner is None or self._runner.stopped_by is None:
                raise

    def stop(self) -> None:
        """First call: send nothing more and save what is out. Second call: stop at once."""
        if self._is_interrupted and self._runner is not None:
            self.given_up = self._runner.in_flight
            self._runner.stop_at_once()
        elif self._runner is not None:
            self._runner.stop()
        self._is_interrupted = True

    @property
    def rows_left(self) -> int:
        """Rows that have neither an answer nor a failure."""
        tally = self.tally
        return tally.total - tally.done_before - tally.answered - tally.failed

    @property
    def currency(self) -> str:
        """Of all money of this run."""
        return self._prices.currency

    @property
    def cost_of_the_rest(self) -> Decimal | None:
        """What the rows that are left may cost, going by the answers of this start; None before the first."""
        tally = self.tally
        priced = tally.answered - tally.unpriced
        return tally.cost_usd / priced * self.rows_left if tally.cost_usd is not None and priced else None

    @property
    def is_interrupted(self) -> bool:
        return self._is_interrupted

    @property
    def in_flight(self) -> int:
        return self._runner.in_flight if self._runner else 0

    def endpoint_states(self) -> list[EndpointState]:
        """Each endpoint at this moment. Only while the loop runs."""
        now = asyncio.get_running_loop().time()
        return [EndpointState.of(channel, now) for channel in self.channels]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started_at

    def _steps(self, pool: PicturePool, checkpoint: Checkpoint) -> Steps:
        model, endpoints = self._job.config.model, self._job.endpoints

        async def record(outcome: Outcome) -> None:
            kind = outcome.failure.kind if outcome.failure else None
            row, text = outcome.row, parts.to_record(outcome, model)
            for endpoint in endpoints:
                text = endpoint.scrub_record(text)
            await checkpoint.record(Entry(row.id, kind, text, row.content_hash))

        return Steps(
            prepare=pool.prepare,
            record=record,
            tell=self._tell,
            unanswered=checkpoint.unanswered,
            prepare_at_once=pool.calls_at_once,
        )

    # ---- which rows

    async def _unfinished_rows(self) -> AsyncGenerator[list[Row]]:
        """Rows without an answer, in order. Read and looked up in a thread, some hundred at a time."""
        if self._is_all_done:
            self.tally.done_before = self.survey.total
            return
        loop = asyncio.get_running_loop()
        rows = self._manifest.rows()
        thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        journal = Journal(self.folder.journal)
        room = self._job.most_rows
        try:
            while room is None or room > 0:
                batch, seen = await loop.run_in_executor(thread, self._next_unfinished, rows, journal)
                if not seen:
                    return
                self.tally.done_before += seen - len(batch)
                if room is not None:
                    batch = batch[:room]
                    room -= len(batch)
                if batch:
                    yield batch
        finally:
            thread.shutdown(wait=True)  # a lookup may still be under way when we are cancelled
            journal.close()

    def _next_unfinished(self, rows: Iterator[Row], journal: Journal) -> tuple[list[Row], int]:
        """The unfinished among the next rows, and how many were looked at (0 at the end)."""
        try:
            batch = list(islice(rows, _LOOKUP_ROWS))
        except UsageError as error:  # it was whole a moment ago
            raise RunError(f"{error} (the manifest changed during the run)", kind="manifest") from error
        ids = [row.id for row in batch]
        finished = journal.finished(ids)
        failed = journal.failed(ids)
        self._note_changed([r.id for r in batch if finished.get(r.id, r.content_hash) != r.content_hash])
        again = self._job.retry_failed
        keep = [
            row
            for row in batch
            if row.id not in finished
            and (row.id not in failed or (again is not None and (not again or failed[row.id] in again)))
        ]
        return keep, len(batch)

    def _note_changed(self, ids: list[str]) -> None:
        self.tally.changed += len(ids)
        room = EXAMPLES - len(self.tally.changed_examples)
        self.tally.changed_examples += ids[:room]

    def _check_kinds(self) -> None:
        """Raises UsageError where --retry-failed names only kinds that no row of this run failed with."""
        journal = Journal(self.folder.journal)
        kinds = journal.failed_kinds()
        journal.close()
        wanted = self._job.retry_failed or frozenset()
        unknown = sorted(wanted - kinds.keys())
        here = ", ".join(f"{kind} ({count})" for kind, count in kinds.items()) or "none"
        if unknown and len(unknown) == len(wanted):
            raise UsageError(f"--retry-failed {','.join(unknown)}: no row failed so; the kinds here: {here}")
        if unknown:
            self._tell(f"--retry-failed: no row failed with {', '.join(unknown)}; the kinds here: {here}")

    def _write_run(self) -> None:
        from .. import __version__  # noqa: PLC0415  the map imports us

        run = {}
        with contextlib.suppress(UsageError, RunError):
            run = self.folder.read_run()
        if self._runner is None:
            self.endpoints_before = run.get("endpoints")
            self._is_all_done = (
                run.get("rows_left") == 0
                and run.get("manifest_fingerprint") == self.survey.fingerprint
                and self._job.retry_failed is None
            )
        config = self._job.config
        self.folder.write_run(
            {
                "captionmill_version": __version__,
                "created": run.get("created") or utc_now(),
                "last_started": utc_now() if self._runner is None else run.get("last_started"),
                "last_ended": None if self._runner is None else utc_now(),
                "source": str(self._job.source.resolve()),
                "rows": self.survey.total,
                "rows_left": None if self._runner is None else self.rows_left,
                "manifest_fingerprint": self.survey.fingerprint,
                "endpoints": [endpoint.name for endpoint in self._job.endpoints],
                "currency": self.currency,
                "answer_settings": config.answer_settings(),
                "other_settings": config.other_settings(),
            }
        )


@contextlib.contextmanager
def _cancelled_at_the_end(watch: Coroutine[Any, Any, None]) -> Iterator[None]:
    task = asyncio.create_task(watch)
    try:
        yield
    finally:
        task.cancel()


def _has_answers(folder: RunFolder) -> bool:
    """Whether anything was answered yet; a first start with a typo in it binds nobody."""
    if not folder.journal.exists() or (not folder.run_json.exists() and is_blank(folder.journal)):
        return any(folder.results.glob("part-*.parquet"))
    journal = Journal(folder.journal)
    try:
        return journal.counts()[0] > 0
    finally:
        journal.close()
