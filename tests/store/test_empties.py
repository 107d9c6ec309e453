"""Answers without a caption: they are known, and a better answer takes the place of one exactly once, also over a crash."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import bench
import pandas as pd
import pyarrow.parquet as pq
import pytest
from captionmill.accounts.report import read_report
from captionmill.accounts.spent import spent_before
from captionmill.nouns.rows import Outcome, Reply, Spending
from captionmill.rules.prices import PriceBook
from captionmill.store import empties, parts
from captionmill.store.check import check
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal
from captionmill.store.pending import PendingRows
from captionmill.store.recovery import open_journal

ROWS = 10
BLANK = {1, 4, 9}  # 9 is not in a part yet


def outcome(n: int, content: str | None) -> Outcome:
    done = bench.answer(n)
    assert done.reply is not None
    choice = replace(done.reply.choices[0], content=content, reasoning="hm")
    return replace(done, reply=replace(done.reply, choices=(choice,)))


def entry(done: Outcome) -> Entry:
    assert isinstance(done.reply, Reply)
    return Entry(done.row.id, None, parts.to_record(done, "gpt-4o"), 0, done.reply.is_empty)


def record(folder: RunFolder, *entries: Entry) -> None:
    """One start that records these and ends."""

    async def go() -> None:
        checkpoint = Checkpoint(folder, open_journal(folder), 4)
        try:
            for each in entries:
                await checkpoint.record(each)
            await checkpoint.finish()
        finally:
            checkpoint.close()

    folder.lock()
    try:
        asyncio.run(go())
    finally:
        folder.unlock()


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """Ten answers, three of them without a caption: parts of four, the last two rows still in the journal."""
    run = RunFolder(tmp_path / "run")
    run.lock()
    run.write_run({"source": str(tmp_path), "rows": ROWS, "answer_settings": {}})

    async def go() -> None:
        checkpoint = Checkpoint(run, open_journal(run), 4)
        for n in range(ROWS):
            await checkpoint.record(entry(outcome(n, " \n" if n in BLANK else "text")))
        await checkpoint.parts.idle()
        checkpoint.close()

    asyncio.run(go())
    run.unlock()
    return run


def contents(run: RunFolder) -> dict[str, str | None]:
    table = pd.read_parquet(run.results)
    assert table["id"].is_unique
    return dict(zip(table["id"], table["content"], strict=True))


def journal_of(run: RunFolder) -> Journal:
    return Journal(run.journal)


def account(run: RunFolder) -> Spending | None:
    journal = journal_of(run)
    try:
        return journal.unanswered().get(empties.KIND)
    finally:
        journal.close()


def pending(run: RunFolder, kinds: frozenset[str] | None) -> list[str]:
    journal = journal_of(run)
    rows = [bench.answer(n).row for n in range(ROWS)]
    try:
        return [row.id for batch in PendingRows(iter(rows), journal, kinds).batches() for row in batch]
    finally:
        journal.close()


def test_only_the_word_empty_asks_them_again(folder):
    """They are answered and paid for: a plain start and a plain --retry-failed leave them alone."""
    assert pending(folder, None) == pending(folder, frozenset()) == []
    assert pending(folder, frozenset({"empty"})) == ["1", "4", "9"]
    assert read_report([folder]).empty == 3


def test_a_better_answer_takes_the_place_of_an_empty_one_once(folder):
    """Each id stays once over all parts, in a part or not yet; what the empty one cost joins the account, so nothing is
    spent less."""
    before = spent_before(folder, PriceBook(), {})
    record(folder, *(entry(outcome(n, f"better {n}")) for n in BLANK))
    assert contents(folder) == {str(n): f"better {n}" if n in BLANK else "text" for n in range(ROWS)}
    assert pending(folder, frozenset({"empty"})) == []
    assert check(folder) == []
    after = spent_before(folder, PriceBook(), {})
    assert (after.requests, after.tokens) == (before.requests + 3, before.tokens + 3 * 828)
    assert account(folder) == Spending(3, 3 * 828, 3 * bench.answer(1).cost_usd)
    record(folder, *(entry(outcome(n, "third")) for n in BLANK))
    assert set(contents(folder).values()) == {"text", *(f"better {n}" for n in BLANK)}


def test_a_further_empty_answer_and_a_failure_change_nothing(folder):
    """The row keeps the answer that it has, and the further one is in the account."""
    failure = bench.failed(4)
    record(folder, entry(outcome(1, None)), Entry("4", "timeout", parts.to_record(failure, "gpt-4o")))
    assert pending(folder, frozenset({"empty"})) == ["1", "4", "9"]
    journal = journal_of(folder)
    assert journal.counts().failed == 0
    journal.close()
    assert account(folder) == Spending(1, 828, bench.answer(1).cost_usd)
    assert len(contents(folder)) == ROWS


@pytest.mark.parametrize("moment", ["before the part changes", "after it has changed"])
def test_a_crash_in_between_is_finished_by_the_next_start(folder, monkeypatch, moment):
    """The better answer is durable from the moment it is recorded; the account counts the empty one once."""
    real = parts.replace_rows

    def die(path: Path, records: dict[str, str]) -> None:
        if moment.startswith("after"):
            real(path, records)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "replace_rows", die)
    with pytest.raises(KeyboardInterrupt):
        record(folder, entry(outcome(1, "better")), entry(outcome(4, "better")))
    assert len(contents(folder)) >= 8  # no id twice
    monkeypatch.setattr(parts, "replace_rows", real)
    record(folder)
    found = contents(folder)
    assert (found["1"], found["4"], len(found)) == ("better", "better", ROWS)
    assert account(folder) == Spending(2, 2 * 828, 2 * bench.answer(1).cost_usd)


def make_version_1(run: RunFolder) -> None:
    """As the version before would have left it: no column `reasoning`, no tables about empty answers."""
    for path in run.results.glob("*.parquet"):
        table = pq.read_table(path).drop_columns(["reasoning"])
        pq.write_table(table, path)
    journal = sqlite3.connect(run.journal)
    journal.executescript("DROP TABLE empty; DROP TABLE unscanned; DROP TABLE better; PRAGMA user_version=1")
    journal.close()


def test_a_run_of_version_1_is_read_as_it_is(folder):
    """A report needs no start before it, and changes nothing."""
    make_version_1(folder)
    report = read_report([folder])
    assert (report.total.answers, report.runs[0].empty) == (ROWS, None)
    assert check(folder) == []
    assert "reasoning" not in pq.read_schema(folder.results / "part-00000.parquet").names


def test_a_run_of_version_1_goes_on(folder):
    """A start adds the column to its parts and finds its empty answers, wherever they are; no row is asked again."""
    make_version_1(folder)
    record(folder)
    assert all("reasoning" in pq.read_schema(p).names for p in folder.results.glob("*.parquet"))
    assert len(contents(folder)) == ROWS
    assert pending(folder, None) == []
    assert pending(folder, frozenset({"empty"})) == ["1", "4", "9"]
    record(folder, entry(outcome(4, "better")))
    assert contents(folder)["4"] == "better"
    assert check(folder) == []
    assert Decimal(account(folder).usd) == bench.answer(1).cost_usd
