"""The journal's schema goes forward only, and no reader changes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from captionmill.nouns.errors import RunError
from captionmill.nouns.rows import Spending
from captionmill.store import migrations, unanswered
from captionmill.store.database import Database
from captionmill.store.journal import Counts, Entry, Journal

ANSWER = Entry("a", None, '{"id":"a"}', 7)


@pytest.fixture
def path(tmp_path) -> Path:
    """A journal of today's version with one answer and one failed row."""
    journal = Journal(tmp_path / "journal.sqlite", create=True)
    journal.commit([ANSWER, Entry("b", "timeout", '{"id":"b"}')])
    journal.close()
    return tmp_path / "journal.sqlite"


def add_a_column(database: Database) -> None:
    database.run("ALTER TABLE finished ADD COLUMN label TEXT")


def die(database: Database) -> None:
    add_a_column(database)
    raise KeyboardInterrupt


def test_a_new_step_keeps_the_rows(path):
    """A journal of the version before gets the step, its answers stay, and a second start changes nothing."""
    database = Database(path, create=True)
    for _ in range(2):
        migrations.migrate(database, [*migrations.STEPS, add_a_column])
        assert migrations.read_version(database) == len(migrations.STEPS) + 1
        assert database.query("SELECT id, content, label FROM finished") == [("a", 7, None)]
    database.close()


def test_a_step_that_dies_is_as_if_it_had_not_begun(path):
    """The version before is left, whole, and the next start takes the step again."""
    database = Database(path, create=True)
    with pytest.raises(KeyboardInterrupt):
        migrations.migrate(database, [*migrations.STEPS, die])
    database.close()
    journal = Journal(path, create=True)
    assert journal.counts() == Counts(answered=1, failed=1, waiting=1)
    with pytest.raises(RunError):
        journal.database.query("SELECT label FROM finished")
    journal.close()


def test_an_early_journal_is_read_as_it_is_and_brought_up_to_date_by_a_start(path):
    """Journals of the first days have no account of lost attempts: readers see an empty one, a start makes it."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE unanswered")
    connection.close()
    before = path.read_bytes()
    reader = Journal(path)
    assert reader.unanswered() == {}
    reader.close()
    assert path.read_bytes() == before
    writer = Journal(path, create=True)
    writer.commit([], {"timeout": Spending(1, 20)})
    assert writer.unanswered() == {"timeout": Spending(1, 20)}
    writer.close()


@pytest.mark.parametrize(("version", "kind"), [(0, "journal"), (99, "version")])
def test_a_version_that_cannot_be_read_is_named(path, version, kind):
    """A newer journal is no damage: `repair` must not replace it."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(RunError, match=f"version {version}") as caught:
        Journal(path)
    assert caught.value.kind == kind


def test_an_id_that_is_finished_keeps_its_first_answer(path):
    """Exactly once, also where a manifest gives the same id again during a run."""
    journal = Journal(path, create=True)
    journal.commit([Entry("a", None, '{"id":"a","content":"second"}', 8)])
    assert journal.finished(["a"]) == {"a": 7}
    assert [record for _, record in journal.waiting(-1)] == [ANSWER.record]
    journal.close()


def test_a_group_is_recorded_whole_or_not_at_all(path):
    """A commit that fails half-way leaves neither rows nor account behind."""
    journal = Journal(path, create=True)
    broken = Spending(1, 5, "no decimal")
    with pytest.raises(TypeError):
        journal.commit([Entry("c", None, "{}")], {"timeout": broken})
    assert (journal.finished(["c"]), journal.unanswered()) == ({}, {})
    journal.commit([Entry("c", None, "{}")])
    assert set(journal.finished(["a", "c"])) == {"a", "c"}
    journal.close()


def test_what_a_killed_start_had_in_flight_is_settled_once(path):
    """It may be billed: counted as killed, added to what earlier kills left, and no longer in flight."""
    journal = Journal(path, create=True)
    for _ in range(2):
        journal.commit([], in_flight=Spending(2, 300))
        unanswered.settle_killed(journal.database)
    unanswered.settle_killed(journal.database)
    assert journal.unanswered() == {unanswered.KILLED: Spending(4, 600)}
    journal.close()
