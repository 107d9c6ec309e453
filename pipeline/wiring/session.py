"""A whole run: open and check everything, take the rows through the runner, leave one clean dataset.

`Session.open` is synchronous and sends nothing: errors of source, settings and folder show here. `run` sends;
`stop` may be called at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from ..labels.task import label_task
from ..nouns.address import Address
from ..nouns.config import RunConfig
from ..nouns.console import Console
from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Tally
from ..rules.budget import Budget
from ..rules.prices import PriceBook
from ..sources.manifest import Manifest, Survey
from ..store import empties
from ..store.checkpoint import Checkpoint
from ..store.compatibility import read_earlier_starts
from ..store.folder import RunFolder
from ..store.journal import Journal
from ..store.recovery import open_journal
from ..store.run_file import RunFacts, RunFile
from . import deadline, live
from .dispatcher import Dispatcher
from .endpoint import Endpoint
from .feed import Feed
from .live import EndpointState, LoopLag
from .recorder import CheckpointRecorder
from .runner import Runner
from .supplies import Supplies


@dataclass(frozen=True, slots=True)
class Job:
    """What to run.

    addresses: address and key for each of `config.endpoints()`, in the same order. retry_failed: kinds of
    failed rows to try again; empty for all, None for none. is_moved: the source of a run that is resumed
    has another path now. most_rows: of those that are not finished, only so many; None for all.
    """

    source: Path
    run_path: Path
    config: RunConfig
    addresses: tuple[Address, ...]
    retry_failed: frozenset[str] | None = None
    is_moved: bool = False
    most_rows: int | None = None


class Session:
    """One start of a run. Make it with `open`, use `run` once, then `close`. `tally` may be read at any time.

    run_file: of a locked folder. deadline: as `--deadline` has it; None for none.
    """

    def __init__(
        self,
        run_file: RunFile,
        checkpoint: Checkpoint,
        feed: Feed,
        supplies: Supplies,
        runner: Runner,
        deadline: str | None,
    ) -> None:
        self._run_file = run_file
        self._checkpoint = checkpoint
        self._feed = feed
        self._supplies = supplies
        self._runner = runner
        self.currency = supplies.prices.currency  # of all money of this run
        self._deadline = deadline
        self._started_at = time.monotonic()  # seconds
        self.is_interrupted = False  # set by the first `stop`
        self.given_up = 0  # requests in flight when the second `stop` ended them

    @classmethod
    def open(cls, job: Job, console: Console) -> Session:
        """Check source and settings, lock the folder, clear away what a crash left. Sends nothing.

        console: gets lines that the user should see at once, now and while it runs. Raises UsageError, RunError.
        """
        folder = RunFolder(job.run_path)
        _check_folder(job, folder, console)
        config = job.config
        folder.label_columns = () if (task := label_task(config)) is None else task.columns
        manifest = Manifest(
            job.source, config.prompt, config.limit, config.allow_outside, config.allow_remote, config.strict
        )
        console.tell(f"reading {job.source}")
        survey = manifest.survey()
        if not folder.exists:  # in a run that goes on, finished images may have been put away
            manifest.check_images()
        with contextlib.ExitStack() as undo:
            is_new = not folder.path.exists()
            folder.lock()
            if is_new:  # a start that is refused leaves nothing behind
                undo.callback(folder.remove_unused)
            undo.callback(folder.unlock)
            journal = open_journal(folder)
            undo.callback(journal.close)
            _check_kinds(job.retry_failed or frozenset(), _kinds_to_retry(journal), console)
            session = _assemble(job, folder, manifest, survey, journal, console)
            session._run_file.begin()
            undo.pop_all()
        return session

    def close(self) -> None:
        """Finish what was begun on disk and let another process write. Safe to call twice."""
        self._checkpoint.close()
        self.folder.unlock()

    # ---- running

    async def run(self) -> None:
        """Caption what is not finished. Raises RunError where the run stopped early; all else is saved."""
        lag = LoopLag()
        watching = asyncio.gather(
            lag.watch(), live.publish_state(self.folder, self.endpoints, lag), self._checkpoint.keep_account()
        )
        try:
            async with self._supplies.opened():
                with _until_deadline(self._deadline, self._runner):
                    await self._runner.run(self._feed.batches())
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            live.log_lag(lag)
            await self._finish()
        if (error := self._runner.stopped_by) is not None:
            raise self._checkpoint.naming_all(error)

    async def _finish(self) -> None:
        """Everything into parts. Where this fails too, the error that stopped the run says more about the cause."""
        try:
            await self._checkpoint.finish()
            self._run_file.structured |= live.known_ways(self.endpoints)
            self._run_file.end(self.rows_left)
        except RunError:
            if self._runner.stopped_by is None:
                raise

    def stop(self) -> None:
        """First call: send nothing more and save what is in flight. Second call: stop at once."""
        if self.is_interrupted:
            self.given_up = self.in_flight
            self._runner.stop_at_once()
        else:
            self.is_interrupted = True
            self._runner.stop()

    # ---- what it has come to

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return self._run_file.folder

    @property
    def survey(self) -> Survey:
        """What the first reading of the source found."""
        return self._feed.survey

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The live endpoints, in the order of the settings."""
        return self._supplies.endpoints

    @property
    def endpoints_before(self) -> list[str] | None:
        """Names of the endpoints of the last start; None for a new run."""
        return self._run_file.endpoints_before

    @property
    def budget(self) -> Budget | None:
        """What this run may spend; None for no bound."""
        return self._runner.budget

    @property
    def tally(self) -> Tally:
        """Counts of this start."""
        return self._runner.tally

    @property
    def rows_left(self) -> int:
        """Rows that have neither an answer nor a failure."""
        tally = self.tally
        return tally.total - tally.done_before - tally.answered - tally.failed

    @property
    def cost_of_the_rest(self) -> Decimal | None:
        """What the rows that are left may cost, going by the answers of this start; None before the first."""
        tally = self.tally
        priced = tally.answered - tally.unpriced
        return tally.cost_usd / priced * self.rows_left if tally.cost_usd is not None and priced else None

    @property
    def trouble(self) -> RunError | None:
        """Why answers cannot be saved now, while that is tried again; None where they can."""
        return self._checkpoint.trouble

    @property
    def in_flight(self) -> int:
        """Requests that are in flight."""
        return self._runner.in_flight

    @property
    def seconds(self) -> float:
        """Since the session was opened."""
        return time.monotonic() - self._started_at

    def endpoint_states(self) -> list[EndpointState]:
        """Each endpoint at this moment. Only while the loop runs."""
        now = asyncio.get_running_loop().time()
        return [EndpointState.of(endpoint, now) for endpoint in self.endpoints]


def _check_folder(job: Job, folder: RunFolder, console: Console) -> None:
    """Raises UsageError, RunError where the run folder may not take these answers."""
    earlier = read_earlier_starts(folder)
    if earlier.has_lost_settings:
        console.tell("run.json was lost; assuming the existing answers used the current source and settings")
    earlier.check_may_take(None if job.is_moved else job.source.resolve(), job.config)


def _kinds_to_retry(journal: Journal) -> dict[str, int]:
    """What `--retry-failed` may name: the kinds of failed rows, and answers without a caption."""
    empty = empties.count(journal.database)
    return journal.failed_kinds() | ({empties.KIND: empty} if empty else {})


def _check_kinds(wanted: frozenset[str], failed: Mapping[str, int], console: Console) -> None:
    """Raises UsageError where `--retry-failed` names only kinds that no row of this run failed with.

    wanted: empty where it names none. failed: kind -> rows.
    """
    unknown = sorted(wanted - failed.keys())
    here = ", ".join(f"{kind} ({count})" for kind, count in failed.items()) or "none"
    text = f"--retry-failed {','.join(unknown)}: no failed rows of that kind; kinds in this run: {here}"
    if unknown and len(unknown) == len(wanted):
        raise UsageError(text)
    if unknown:
        console.tell(text)


def _assemble(
    job: Job,
    folder: RunFolder,
    manifest: Manifest,
    survey: Survey,
    journal: Journal,
    console: Console,
) -> Session:
    """Put the parts of a start together. journal: of the locked folder. Raises UsageError where no budget can be kept."""
    config, chance, prices = job.config, random.Random(), PriceBook(job.config.prices)
    supplies = Supplies(config, job.addresses, prices, chance, console, folder.decode_notes)
    budget = None
    if config.has_budget:
        from ..accounts.spent import open_budget  # noqa: PLC0415  its tables take 0.04 s to import

        own = {a.name: entry.price for a, entry in zip(job.addresses, config.endpoints(), strict=True)}
        budget = open_budget(folder, config, prices, own, console)
    checkpoint = Checkpoint(folder, journal, config.rows_per_part, in_flight=budget, console=console)
    run_file = RunFile(folder, _facts(job, survey, prices.currency))
    tally = Tally(total=survey.total)
    for endpoint in supplies.endpoints:
        if endpoint.labelling is not None:
            endpoint.labelling.start_with(run_file.structured.get(f"{endpoint.name} {endpoint.model}"))
    is_all_done = run_file.has_no_row_left and job.retry_failed is None
    feed = Feed(manifest, survey, folder.journal, job.retry_failed, job.most_rows, is_all_done, tally)
    recorder = CheckpointRecorder(checkpoint, config.model, job.addresses, console)
    dispatcher = Dispatcher(supplies.endpoints, budget)
    runner = Runner(supplies.pool, recorder, dispatcher, config, tally, chance)
    return Session(run_file, checkpoint, feed, supplies, runner, config.deadline)


def _facts(job: Job, survey: Survey, currency: str) -> RunFacts:
    from .. import __version__  # noqa: PLC0415  the package may name us in its __init__

    return RunFacts(
        program_version=__version__,
        source=str(job.source.resolve()),
        rows=survey.total,
        fingerprint=survey.fingerprint,
        endpoints=[address.name for address in job.addresses],
        currency=currency,
        answer_settings=job.config.answer_settings(),
        other_settings=job.config.other_settings(),
    )


@contextlib.contextmanager
def _until_deadline(text: str | None, runner: Runner) -> Iterator[None]:
    """Stop the runner at the deadline. text: None for none. Only while the loop runs."""
    if text is None:
        yield
        return
    watch = asyncio.create_task(deadline.watch_deadline(text, runner))
    try:
        yield
    finally:
        watch.cancel()
