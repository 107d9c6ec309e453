"""A whole run: open and check everything, take the rows through the runner, leave one clean dataset.

`Mill.open` is synchronous and sends nothing: whatever is wrong with source, settings or folder shows
here. `run` sends; `stop` may be called at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path

from . import faults, parts, replies
from .chat import ChatClient, Endpoint
from .checkpoint import Checkpoint, open_checkpoint
from .config import RunConfig
from .errors import RunError, UsageError
from .folder import RunFolder, utc_now
from .images import PicturePool, PicturePreparer
from .journal import Entry, Journal
from .limiter import Limiter
from .manifest import Manifest, Survey
from .prices import PriceBook
from .request import RequestBuilder
from .rows import HttpAnswer, Outcome, Reply, Row, Tally
from .runner import Runner, Steps
from .tokens import TokenEstimator

_LOOKUP_ROWS = 256


@dataclass(frozen=True, slots=True)
class Job:
    """What to run. retry_failed: kinds of failed rows to try again; empty for all, None for none."""

    source: Path
    run_path: Path
    config: RunConfig
    endpoint: Endpoint
    retry_failed: frozenset[str] | None = None


class Mill:
    """One start of a run. Make it with `open`, use `run` once, then `close`."""

    def __init__(self, job: Job, folder: RunFolder, survey: Survey, manifest: Manifest) -> None:
        self._job = job
        self.folder = folder
        self.survey = survey
        self._manifest = manifest
        config = job.config
        self.tally = Tally(total=survey.total)
        self.limiter = Limiter(config.tpm, config.rpm, config.burst_seconds)
        self._prices = PriceBook()
        self._checkpoint: Checkpoint | None = None
        self._runner: Runner | None = None
        self._is_interrupted = False
        self._started_at = time.time()

    @classmethod
    def open(cls, job: Job, tell: Callable[[str], None]) -> Mill:
        """Check source and settings, take the folder, clear away what a crash left. Sends nothing.

        tell: gets a line on what takes long. Raises UsageError, RunError.
        """
        folder = RunFolder(job.run_path)
        if folder.path.exists() and not folder.exists and any(folder.path.iterdir()):
            _refuse_foreign_folder(folder)
        folder.check_same_answers(job.config.answer_settings())
        manifest = Manifest(job.source, job.config.prompt, job.config.limit)
        tell(f"reading {job.source}")
        survey = manifest.survey()
        folder.lock()
        try:
            mill = cls(job, folder, survey, manifest)
            mill._checkpoint = open_checkpoint(folder, job.config.rows_per_part)
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
        assert self._checkpoint is not None, "use Mill.open"  # noqa: S101
        config = self._job.config
        pool = PicturePool(PicturePreparer(config), config.prepare_threads)
        client = ChatClient(self._job.endpoint, config.timeout, config.connect_timeout)
        loading = asyncio.get_running_loop().run_in_executor(None, self._prices.load, config.model)
        try:
            async with client:
                steps = self._steps(pool, client)
                runner = Runner(steps, self.limiter, config, self.tally, random.Random())
                self._runner = runner
                if self._is_interrupted:
                    runner.stop()
                await runner.run(self._unfinished_rows())
        finally:
            pool.close()
            await loading
            await self._checkpoint.finish()
            self._write_run()
        if runner.stopped_by is not None:
            raise runner.stopped_by

    def stop(self) -> None:
        """First call: send nothing more and save what is out. Second call: stop at once."""
        if self._is_interrupted and self._runner is not None:
            self._runner.stop_at_once()
        elif self._runner is not None:
            self._runner.stop()
        self._is_interrupted = True

    @property
    def is_interrupted(self) -> bool:
        return self._is_interrupted

    @property
    def in_flight(self) -> int:
        return self._runner.in_flight if self._runner else 0

    @property
    def most_in_flight_now(self) -> int:
        """What concurrency is allowed at the moment; moves where it is auto."""
        return self._runner.most_in_flight_now() if self._runner else 0

    @property
    def seconds(self) -> float:
        return time.time() - self._started_at

    def _steps(self, pool: PicturePool, client: ChatClient) -> Steps:
        config, checkpoint = self._job.config, self._checkpoint
        assert checkpoint is not None  # noqa: S101

        async def record(outcome: Outcome) -> None:
            kind = outcome.failure.kind if outcome.failure else None
            await checkpoint.record(Entry(outcome.row.id, kind, parts.to_record(outcome, config.model)))

        def read(answer: HttpAnswer) -> Reply:
            reply = replies.read_reply(answer)
            if reply is None:
                raise faults.read_error(answer, config.endpoint_kind)
            return reply

        def price(reply: Reply) -> Decimal | None:
            return self._prices.cost((reply.model, config.model), reply.usage)

        estimator = TokenEstimator(config)
        return Steps(
            prepare=pool.prepare,
            build=RequestBuilder(config, estimator.estimate).build,
            post=client.post,
            read=read,
            report=lambda answer: faults.limit_reports(answer, config.rate_limit_headers),
            learn=estimator.learn,
            price=price,
            record=record,
            prepare_at_once=pool.threads + 1,
        )

    # ---- which rows

    async def _unfinished_rows(self) -> AsyncGenerator[list[Row]]:
        """Rows without an answer, in order. Read and looked up in a thread, some hundred at a time."""
        loop = asyncio.get_running_loop()
        rows = self._manifest.rows()
        thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        journal = Journal(self.folder.journal, read_only=True)
        try:
            while True:
                batch, seen = await loop.run_in_executor(thread, self._next_unfinished, rows, journal)
                if not seen:
                    return
                self.tally.done_before += seen - len(batch)
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
        finished = journal.finished_ids(ids)
        failed = journal.failed_ids(ids)
        again = self._job.retry_failed
        keep = [
            row
            for row in batch
            if row.id not in finished
            and (row.id not in failed or (again is not None and (not again or failed[row.id] in again)))
        ]
        return keep, len(batch)

    def _write_run(self) -> None:
        from . import __version__  # noqa: PLC0415  the map imports us

        run = {}
        with contextlib.suppress(UsageError):
            run = self.folder.read_run()
        config = self._job.config
        self.folder.write_run(
            {
                "captionmill_version": __version__,
                "created": run.get("created") or utc_now(),
                "last_started": utc_now() if self._runner is None else run.get("last_started"),
                "last_ended": None if self._runner is None else utc_now(),
                "source": str(self._job.source),
                "rows": self.survey.total,
                "manifest_fingerprint": self.survey.fingerprint,
                "endpoint": self._job.endpoint.name,
                "answer_settings": config.answer_settings(),
                "other_settings": config.model_dump(
                    mode="json", exclude=set(config.answer_settings()), exclude_none=True
                ),
            }
        )


def _refuse_foreign_folder(folder: RunFolder) -> None:
    names = [entry.name for entry in islice(folder.path.iterdir(), 20)]
    if set(names) - {".lock", "results", "run.json"}:
        raise UsageError(
            f"{folder.path}: not empty and not a run folder ({', '.join(sorted(names)[:3])} ...); choose another -o"
        )
