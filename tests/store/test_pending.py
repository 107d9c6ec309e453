"""Which rows a start would ask: the same for the run and for the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from captionmill.nouns.rows import Row
from captionmill.store.journal import Entry, Journal
from captionmill.store.pending import EXAMPLES, PendingRows

ROWS = [Row(f"{n}", (f"{n}.jpg",), (f"/{n}.jpg",), "p") for n in range(600)]


@pytest.fixture
def journal(tmp_path):
    """Rows 0 to 299 are answered, 300 to 309 failed: every second one timed out."""
    journal = Journal(tmp_path / "journal.sqlite", create=True)
    journal.commit([Entry(row.id, None, "{}", row.content_hash) for row in ROWS[:300]])
    kinds = ("timeout", "image_broken")
    journal.commit([Entry(row.id, kinds[n % 2], "{}") for n, row in enumerate(ROWS[300:310])])
    yield journal
    journal.close()


def passed(pending: PendingRows) -> list[Row]:
    return [row for batch in pending.batches() for row in batch]


@pytest.mark.parametrize(
    ("retry_failed", "again"),
    [(None, 0), (frozenset(), 10), (frozenset({"timeout"}), 5), (frozenset({"x"}), 0)],
)
def test_finished_and_failed_rows_are_left_out(journal, retry_failed, again):
    """In order, each pending row once; failed rows only of the kinds that are tried again; all are counted."""
    pending = PendingRows(iter(ROWS), journal, retry_failed)
    rows = passed(pending)
    assert rows == [row for row in ROWS[300:] if row in rows]
    assert rows[again:] == ROWS[310:]
    assert (pending.finished, pending.failed, pending.changed) == (300, 10 - again, 0)


def test_a_changed_row_keeps_its_answer_and_is_counted(journal):
    """A row that asks something else under a finished id is not asked; the first few are named."""
    changed = [replace(row, prompt="another") for row in ROWS[290:310]]
    pending = PendingRows(iter(changed), journal, None)
    assert passed(pending) == []
    assert (pending.finished, pending.failed, pending.changed) == (10, 10, 10)
    assert pending.changed_examples == [row.id for row in changed[:EXAMPLES]]


def test_all_rows_of_a_new_run_are_pending():
    """Without a journal nothing is looked up."""
    assert passed(PendingRows(iter(ROWS), None, None)) == ROWS


def test_a_finished_row_that_also_failed_counts_as_finished(journal):
    """A manifest that changed during a run may leave both; the row is counted once."""
    journal.commit([Entry(ROWS[0].id, "timeout", "{}")])
    pending = PendingRows(iter(ROWS), journal, None)
    passed(pending)
    assert (pending.finished, pending.failed) == (300, 10)
