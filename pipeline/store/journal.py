"""What is finished, and in which part: one SQLite file. Synchronous; `checkpoint` calls it from a thread.

An answer enters `finished` and `waiting` in one transaction before any Parquet part exists. When a
part that holds the oldest waiting records has its final name, one more transaction notes the part
and drops those records. A part is a range of sequence numbers, so which ids it holds stays known.
Failed rows keep their record here, since they may be tried again.

The tables are in `migrations`; what only `repair` needs is in `mending`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import RunError
from ..nouns.rows import Spending
from . import empties, migrations, unanswered
from .database import Database


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished row. failure_kind: None for an answer. record: its columns as JSON.

    content: hash of what was asked, so that a row that changed under its id is noticed. is_empty: an answer without a
    caption, which a better one may replace later.
    """

    id: str
    failure_kind: str | None
    record: str
    content: int = 0
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the dataset that has its final name. first_seq, last_seq: the answers in it, by their number."""

    number: int
    first_seq: int
    last_seq: int
    rows: int


class Counts(NamedTuple):
    """Rows answered; rows that failed and have no answer now; of the answered, those that are in no part yet."""

    answered: int
    failed: int
    waiting: int


class Journal:
    """The open journal of one run.

    create: True for the one writer, which makes the file and brings its schema up to date; False for readers
    (`status`, `report`, the part writer), which open what is there.
    Raises RunError where the file is no journal, or of a newer version than this program.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        self.database = Database(path, create)
        try:
            if create:
                migrations.migrate(self.database)
            migrations.check_version(self.database)
            # number of the next answer; `commit` alone counts it up
            self._next_seq = self._last_seq() + 1
        except RunError:
            self.close()
            raise

    def _last_seq(self) -> int:
        ((last,),) = self.database.query(
            "SELECT max(coalesce((SELECT max(seq) FROM waiting), 0),"
            " coalesce((SELECT max(last_seq) FROM parts), 0))"
        )
        return int(last)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self.database.close()

    # ---- writing

    def commit(
        self,
        entries: Iterable[Entry],
        lost: Mapping[str, Spending] | None = None,
        in_flight: Spending | None = None,
    ) -> None:
        """Make a group of finished rows durable: all of them or none. Raises RunError (disk full ...).

        lost: attempts since the last commit that brought no answer, by kind. in_flight: the requests in flight
        now, at the most that they may cost; None without a budget, which alone keeps this account.
        """
        change = self.database.change
        with self.database.changing():
            answers, failures = _split(empties.take(self.database, entries))
            numbered = list(enumerate(answers, self._next_seq))
            # an id that is finished already (a manifest that changed during the run) keeps its first answer
            change(
                "INSERT OR IGNORE INTO finished VALUES (?, ?, ?)", [(e.id, n, e.content) for n, e in numbered]
            )
            change(
                "INSERT INTO waiting SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM finished WHERE id = ?3 AND seq = ?1)",
                [(n, e.record, e.id) for n, e in numbered],
            )
            change(
                "INSERT OR REPLACE INTO failed VALUES (?, ?, ?)",
                [(e.id, e.failure_kind, e.record) for e in failures],
            )
            change("DELETE FROM failed WHERE id = ?", [(e.id,) for e in answers])
            empties.note(self.database, numbered)
            if lost:
                unanswered.add(self.database, lost)
            if in_flight is not None:
                unanswered.set_in_flight(self.database, in_flight)
        self._next_seq += len(answers)

    def note_part(self, part: Part) -> None:
        """Drop the waiting records of a part that has its final name."""
        with self.database.changing():
            self.database.change(
                "INSERT INTO parts VALUES (?, ?, ?, ?)",
                [(part.number, part.first_seq, part.last_seq, part.rows)],
            )
            self.database.change(
                "DELETE FROM waiting WHERE seq BETWEEN ? AND ?", [(part.first_seq, part.last_seq)]
            )

    # ---- reading

    def finished(self, ids: Sequence[str]) -> dict[str, int]:
        """Which of these rows have an answer: id -> hash of what was asked."""
        return self._lookup("SELECT id, content FROM finished", ids)

    def failed(self, ids: Sequence[str]) -> dict[str, str]:
        """Which of these rows failed, and how: id -> kind."""
        return self._lookup("SELECT id, kind FROM failed", ids)

    def _lookup(self, select: str, ids: Sequence[str]) -> dict[str, Any]:
        in_these = "WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.database.query(f"{select} {in_these}", json.dumps(list(ids))))

    def counts(self) -> Counts:
        """How many rows are where. Reads whole tables."""
        tables = ("finished", "failed", "waiting")
        return Counts(*(self.database.query(f"SELECT count(*) FROM {t}")[0][0] for t in tables))  # noqa: S608

    def waiting(self, limit: int, most_characters: int = 2**62) -> list[tuple[int, str]]:
        """The oldest answers that are in no part, as (sequence number, record).

        limit: at most so many; -1 for all. most_characters: of the records together, but at least one is returned.
        """
        found: list[tuple[int, str]] = []
        characters = 0
        for seq, size in self.database.query(
            "SELECT seq, length(record) FROM waiting ORDER BY seq LIMIT ?", limit
        ):
            characters += size
            if found and characters > most_characters:
                break
            found += self.database.query("SELECT seq, record FROM waiting WHERE seq = ?", seq)
        return found

    def failed_records(self) -> Iterator[str]:
        """Records of the rows that have no answer, by id; read while they are consumed."""
        return (record for (record,) in self.database.stream("SELECT record FROM failed ORDER BY id"))

    def failed_kinds(self) -> dict[str, int]:
        """How many rows failed with each kind, the most frequent first."""
        return dict(self.database.query("SELECT kind, count(*) FROM failed GROUP BY kind ORDER BY 2 DESC"))

    def unanswered(self) -> dict[str, Spending]:
        """Attempts of all starts that brought no answer, by kind."""
        return unanswered.read(self.database)

    def parts(self) -> list[Part]:
        """The parts that have their final name, by number."""
        return [Part(*row) for row in self.database.query("SELECT * FROM parts ORDER BY number")]

    def snapshot(self) -> tuple[list[Part], list[str]]:
        """Parts and the records not yet in one, as of one moment."""
        with self.one_moment():
            return self.parts(), [record for _, record in self.waiting(-1)]

    def one_moment(self) -> contextlib.AbstractContextManager[None]:
        """Everything that is read inside is as of one moment, even if a writer commits meanwhile."""
        return self.database.one_moment()


def _split(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Answers and failures, each in their order."""
    answers: list[Entry] = []
    failures: list[Entry] = []
    for entry in entries:
        (answers if entry.failure_kind is None else failures).append(entry)
    return answers, failures
