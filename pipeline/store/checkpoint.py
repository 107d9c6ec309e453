"""Journal first, Parquet from it: the order of writes that makes a crash harmless.

    record(outcome)   -> one transaction with all that came in meanwhile (group commit);
                         returns when it is durable, so a row that counts as done is done
    every M answers   -> a part (part_writer), then one transaction: note the part, drop its records
    the next start    -> removes temporary files and notes the one part that may have got its final
                         name without the note: its records still wait in the journal (recovery)

Two threads: one owns the journal's connection, one makes parts, so that a commit never waits for a
part. The event loop waits for neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..nouns.errors import RunError
from ..nouns.rows import Spending
from .folder import RunFolder
from .journal import Entry, Journal
from .journal_writer import JournalWriter
from .part_writer import PartWriter

ACCOUNT_SECONDS = 2.0  # between two writes of the account while no row is recorded
GRACE_SECONDS = 60.0  # in which a user may make room on a full disk or give back a permission
RETRY_SECONDS = 1.0  # between two tries to commit in that time


class InFlightAccount(Protocol):
    """Knows the requests in flight at this moment; a `Budget` does."""

    @property
    def held_back(self) -> Spending:
        """The requests in flight, at the most that they may cost."""


class Checkpoint:
    """The durable side of one start of a run. `close` it at the end.

    journal: from `open_journal`; belongs to the checkpoint from here on. rows_per_part: answers that make a part.
    in_flight: None without a budget: the requests in flight are then not written down. grace_seconds: how long a
    commit is tried again on a full disk. tell: gets a line when that begins; None for nobody.
    """

    def __init__(
        self,
        folder: RunFolder,
        journal: Journal,
        rows_per_part: int,
        in_flight: InFlightAccount | None = None,
        grace_seconds: float = GRACE_SECONDS,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._writer = JournalWriter(journal)
        self._results = folder.results
        self.parts = PartWriter(folder, self._writer, rows_per_part)
        self._in_flight = in_flight
        self._grace_seconds = grace_seconds
        self._tell = tell
        # why nothing can be saved now; set and cleared by `_commit_with_grace`
        self.trouble: RunError | None = None
        # the grace is over: a commit is tried once, so that the rows in flight do not wait for another minute
        self._has_given_up = False
        self.lost: list[str] = []  # ids of finished rows that could not be saved
        # rows that are not durable yet, each with what its `record` awaits; emptied by `_commit_groups`
        self._queue: list[tuple[Entry, asyncio.Future[None]]] = []
        # attempts without an answer that are not in the journal yet, by kind; emptied by each commit
        self._unanswered: dict[str, Spending] = {}
        # runs while `_queue` is not empty; started by `record`, resets itself
        self._committing: asyncio.Task[None] | None = None

    async def record(self, entry: Entry) -> None:
        """Return when the row is durable. Raises RunError where it could not be made so."""
        committed = asyncio.get_running_loop().create_future()
        self._queue.append((entry, committed))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_groups())
        await committed

    async def unfinish(self, ids: list[str]) -> None:
        """Forget that these rows failed: the next start asks them. Raises RunError."""
        await self._writer.unfinish(ids)

    def unanswered(self, kind: str, spending: Spending) -> None:
        """Note an attempt that brought no answer; durable with the next row, or at the end."""
        self._unanswered[kind] = self._unanswered.get(kind, Spending()) + spending

    async def keep_account(self) -> None:
        """Write down every two seconds what is in flight, also before the first answer. Until cancelled."""
        while True:
            await asyncio.sleep(ACCOUNT_SECONDS)
            if self._committing is None:
                await self._write_account()

    async def _write_account(self) -> None:
        """The account alone, without rows. These are figures: a full disk is no reason to stop for them."""
        if self._unanswered or self._in_flight is not None:
            try:
                await self._commit([])
            except RunError:
                return

    async def _commit(self, group: list[Entry]) -> None:
        """One transaction: rows and account. Raises RunError; what it took of the account is then put back."""
        unanswered, self._unanswered = self._unanswered, {}
        in_flight = None if self._in_flight is None else self._in_flight.held_back
        try:
            await self._writer.commit(group, unanswered, in_flight)
        except RunError:
            for kind, spending in unanswered.items():
                self.unanswered(kind, spending)
            raise

    async def _commit_groups(self) -> None:
        """One transaction after the other; each takes all rows that came while the last one was written."""
        while self._queue:
            waiting, self._queue = self._queue, []
            group = [entry for entry, _ in waiting]
            try:
                await self._commit_with_grace(group)
            except RunError as error:
                # what queued meanwhile meets the same disk
                waiting, self._queue = [*waiting, *self._queue], []
                _fail(waiting, self._lost(error, [entry.id for entry, _ in waiting]))
            except BaseException as error:
                # a bug or a cancellation: no commit follows, so the rows that queued meanwhile must hear of it too
                self._committing = None
                _fail([*waiting, *self._queue], _unexpected(error))
                self._queue = []
                raise
            else:
                for _, committed in waiting:
                    if not committed.done():
                        committed.set_result(None)
                self.parts.add(sum(entry.failure_kind is None for entry in group))
        self._committing = None

    async def _commit_with_grace(self, group: list[Entry]) -> None:
        """One transaction, tried again for a while on a full disk.

        Nothing new is sent meanwhile, since every worker waits for its row, and the answers in memory are paid for.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + (0 if self._has_given_up else self._grace_seconds)
        try:
            while True:
                try:
                    await self._commit(group)
                except RunError as error:
                    if not error.facts.may_clear or loop.time() >= give_up_at:
                        self._has_given_up = True
                        raise
                    self._waits(error)
                else:
                    self._has_given_up = False
                    return
                await asyncio.sleep(min(RETRY_SECONDS, self._grace_seconds))
        finally:
            self.trouble = None

    def _waits(self, error: RunError) -> None:
        if self.trouble is None and self._tell is not None:
            self._tell(f"{error}; nothing new is sent, trying again for {self._grace_seconds:g} s")
        self.trouble = error

    def _lost(self, error: RunError, ids: list[str]) -> RunError:
        """The error of rows that were answered and could not be saved: it names all of them, also earlier ones."""
        self.lost += ids
        rows = "1 finished row" if len(self.lost) == 1 else f"{len(self.lost):,} finished rows"
        return RunError(f"{error}; {rows} could not be saved: {', '.join(self.lost)}", kind=error.kind)

    def naming_all(self, error: RunError) -> RunError:
        """The error that stopped the run, with every row that was lost by then: some come after the first one."""
        if not self.lost or error.facts.concerns != "disk":
            return error
        text = str(error).partition("; ")[0]
        ids, self.lost = self.lost, []
        return self._lost(RunError(text, kind=error.kind), ids)

    async def finish(self) -> None:
        """Put all waiting answers into parts and the failed rows into failures.parquet. Raises RunError."""
        if self._committing is not None:
            await self._committing
        await self.parts.idle()
        await self._write_account()
        await self.parts.write(at_least_rows=1)
        await self._writer.put_into_parts(self._results)
        await self.parts.write_failures()

    def close(self) -> None:
        """Finish what was begun on disk. Safe to call twice."""
        self.parts.close()
        self._writer.close()


def _fail(waiting: list[tuple[Entry, asyncio.Future[None]]], error: RunError) -> None:
    for _, committed in waiting:
        if not committed.done():  # a cancelled worker waits no longer
            committed.set_exception(error)


def _unexpected(error: BaseException) -> RunError:
    return RunError(f"{type(error).__name__} while saving: {error}", kind="unexpected")
