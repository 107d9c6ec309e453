"""What is true on disk, whatever happened: real SQLite, real Parquet, real deaths."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import crashing_writer
import pandas as pd
import pyarrow.parquet as pq
import pytest
from captionmill.nouns.address import Address
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RunError, UsageError
from captionmill.nouns.rows import Choice, Failure, Outcome, Picture, Reply, Row, Spending, Usage
from captionmill.store import parts
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal
from captionmill.store.recovery import open_journal
from captionmill.wiring.session import Job, Session
from commands import draw_pictures
from scripted_chat import Console

ROWS = 14
WRITER = Path(crashing_writer.__file__)


def write_rows(run: Path, first: int, last: int, die_at: int = 0) -> tuple[int, list[str]]:
    """Run the crashing writer; its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, str(WRITER), str(run), str(first), str(last), str(die_at)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(WRITER.parent.parent)},
        check=False,
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode, done.stdout.split()


def state(run: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The dataset as a reader sees it (no id twice), and the failed ids."""
    table = pd.read_parquet(run / "results")
    assert table["id"].is_unique
    failures = pd.read_parquet(run / "failures.parquet")
    return sorted(zip(table["id"], table["content"], strict=True)), sorted(failures["id"])


EXPECTED = (
    [(f"r{n:03d}", f"answer {n}") for n in range(ROWS) if n % 5 != 3],
    [f"r{n:03d}" for n in range(ROWS) if n % 5 == 3],
)


def finish_after_crash(run: Path, promised: list[str]) -> None:
    """What a resumed run does: everything promised is there, the rest is written, nothing twice."""
    folder = RunFolder(run)
    folder.lock()
    checkpoint = Checkpoint(folder, open_journal(folder), crashing_writer.ROWS_PER_PART)
    journal = Journal(folder.journal)
    ids = [f"r{n:03d}" for n in range(ROWS)]
    known = {*journal.finished(ids), *journal.failed(ids)}
    journal.close()
    assert set(promised) <= known, "a row that was durable is lost"
    checkpoint.close()
    folder.unlock()
    for number in range(ROWS):
        if f"r{number:03d}" not in known:
            assert write_rows(run, number, number + 1)[0] == 0
    assert write_rows(run, 0, 0)[0] == 0
    assert state(run) == EXPECTED
    leftovers = [p.name for p in (run / "results").iterdir() if not p.name.startswith("part-")]
    assert leftovers == ["schema.parquet"]


def steps_of_a_whole_run(run: Path) -> int:
    code, printed = write_rows(run, 0, ROWS)
    assert code == 0
    assert state(run) == EXPECTED
    return int(printed[-1])


def crash_everywhere(tmp_path: Path, points: range) -> None:
    def one(die_at: int) -> int:
        run = tmp_path / f"run{die_at}"
        code, promised = write_rows(run, 0, ROWS, die_at)
        promised = [p for p in promised if p.startswith("r")]
        if (run / "results").exists():
            seen = pd.read_parquet(run / "results") if any((run / "results").glob("part-*")) else None
            assert seen is None or seen["id"].is_unique, "a reader saw a row twice"
        finish_after_crash(run, promised)
        return code

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        codes = list(threads.map(one, points))
    assert codes.count(9) > 0.8 * len(codes), "hardly any process died, so nothing was tested"


def test_any_crash_then_resume_equals_the_uncrashed_run(tmp_path):
    """Killed at 5 of the steps, spread evenly: nothing promised is lost, nothing is there twice."""
    steps = steps_of_a_whole_run(tmp_path / "whole")
    crash_everywhere(tmp_path, range(steps // 10, steps, steps // 5))


@pytest.mark.slow
def test_a_crash_at_hundreds_of_steps(tmp_path):
    """The same, killed at 150 steps."""
    steps = steps_of_a_whole_run(tmp_path / "whole")
    crash_everywhere(tmp_path, range(1, steps, max(1, steps // 150)))


# ------------------------------------------------------------------------------- group commit


def answer(number: int) -> Entry:
    row = Row(f"r{number:05d}", (f"{number}.jpg",), ("x",), "p")
    reply = Reply((Choice(0, f"answer {number}", "stop", "stop"),), Usage(1, 1, 2))
    return Entry(row.id, None, parts.to_record(Outcome(row, 1.0, 2.0, 1, reply=reply), "m"))


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.lock()
    yield run
    run.unlock()


def test_many_rows_share_a_commit(folder, monkeypatch):
    """A thousand concurrent records take far fewer transactions, and each returns after its own."""
    groups = []
    commit = Journal.commit
    monkeypatch.setattr(
        Journal, "commit", lambda self, g, *more: (groups.append(len(g)), commit(self, g, *more))
    )

    async def run():
        checkpoint = Checkpoint(folder, open_journal(folder), 5000)
        await asyncio.gather(*(checkpoint.record(answer(n)) for n in range(1000)))
        await checkpoint.finish()
        checkpoint.close()

    asyncio.run(run())
    assert sum(groups) == 1000
    assert len(groups) < 20
    assert len(pd.read_parquet(folder.results)) == 1000


def test_a_reader_sees_whole_parts_only(folder):
    """At every moment of a run the results are readable, without duplicates, and only grow."""

    async def run():
        checkpoint = Checkpoint(folder, open_journal(folder), 50)
        seen = 0
        for start in range(0, 1000, 25):
            await asyncio.gather(*(checkpoint.record(answer(n)) for n in range(start, start + 25)))
            if any(folder.results.glob("*.parquet")):
                table = pd.read_parquet(folder.results)
                assert table["id"].is_unique
                assert len(table) >= seen
                seen = len(table)
        await checkpoint.finish()
        checkpoint.close()
        return seen

    assert asyncio.run(run()) > 0
    assert len(pd.read_parquet(folder.results)) == 1000


def test_a_failed_row_that_is_answered_later_is_no_failure(folder):
    """failures.parquet holds rows that have no answer now."""
    row = Row("r00001", ("1.jpg",), ("x",), "p")
    failed = Outcome(row, 1.0, 2.0, 1, failure=Failure("timeout", "late"))

    async def run():
        checkpoint = Checkpoint(folder, open_journal(folder), 10)
        await checkpoint.record(Entry(row.id, "timeout", parts.to_record(failed, "m")))
        await checkpoint.finish()
        before = list(pd.read_parquet(folder.failures)["id"])
        await checkpoint.record(answer(1))
        await checkpoint.finish()
        checkpoint.close()
        return before

    assert asyncio.run(run()) == ["r00001"]
    assert len(pd.read_parquet(folder.failures)) == 0
    assert list(pd.read_parquet(folder.results)["id"]) == ["r00001"]


def test_an_id_that_is_answered_twice_keeps_its_first_answer(folder):
    """A manifest that changes during a run may bring an id again: one row, the first answer, in a part or not yet."""

    def again(number: int) -> Entry:
        entry = answer(number)
        return replace(entry, record=entry.record.replace("answer 1", "another"), content=7)

    async def run():
        checkpoint = Checkpoint(folder, open_journal(folder), 10)
        for entry in (answer(1), again(1), answer(2)):  # the first of them waits still
            await checkpoint.record(entry)
        await checkpoint.finish()
        for entry in (again(1), answer(3)):  # it is in a part
            await checkpoint.record(entry)
        await checkpoint.finish()
        checkpoint.close()

    asyncio.run(run())
    table = pd.read_parquet(folder.results).sort_values("id")
    assert list(table["id"]) == ["r00001", "r00002", "r00003"]
    assert list(table["content"]) == ["answer 1", "answer 2", "answer 3"]
    journal = Journal(folder.journal)
    assert journal.finished(["r00001"]) == {"r00001": 0}  # with the hash of what was asked first
    journal.close()


def test_a_part_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """fsync, rename, fsync of the folder, in this order: after a power cut no name stands for half a file."""
    path, synced, fsync = tmp_path / "part-00000.parquet", [], os.fsync

    def watching(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", watching)
    assert parts.write_table(path, [answer(1).record]) == 1
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_full_disk_is_a_run_error_with_the_path(folder, monkeypatch):
    """What cannot be made durable is said, with the file."""

    async def run():
        journal = open_journal(folder)
        checkpoint = Checkpoint(folder, journal, 10, grace_seconds=0.2)
        # the journal may not grow any more: what SQLite sees of a full disk
        ((pages,),) = journal.database.query("PRAGMA page_count")
        journal.database.query(f"PRAGMA max_page_count={pages}")
        try:
            await asyncio.gather(*(checkpoint.record(answer(n)) for n in range(500)))
        finally:
            checkpoint.close()

    with pytest.raises(
        RunError,
        match=r"journal\.sqlite: cannot be written \(database or disk is full\); \d+ finished rows could not be saved: r00000",
    ):
        asyncio.run(run())


class InFlight:
    """What a budget knows of the requests in flight."""

    held_back = Spending(2, 300)


def test_the_account_survives_a_disk_that_is_full_for_a_while(folder, monkeypatch):
    """Lost attempts whose commit failed, and those that came meanwhile, are in the journal once room is made."""
    real, failures = Journal.commit, iter([RunError("full", kind="disk")])

    def commit(self, *arguments) -> None:
        for error in failures:
            checkpoint.unanswered("timeout", Spending(1, 5))  # while the commit is under way
            raise error
        real(self, *arguments)

    monkeypatch.setattr(Journal, "commit", commit)
    journal = open_journal(folder)
    checkpoint = Checkpoint(folder, journal, 10, InFlight(), grace_seconds=0.3)

    async def run() -> dict[str, Spending]:
        checkpoint.unanswered("timeout", Spending(1, 20))
        await checkpoint.record(answer(1))
        return journal.unanswered()

    found = asyncio.run(run())
    checkpoint.close()
    assert found == {"timeout": Spending(2, 25), "in_flight": InFlight.held_back}


def test_a_row_is_never_recorded_in_silence_after_a_bug(folder, monkeypatch):
    """An error that is no RunError reaches every row that waits, also those that came while it happened."""

    def commit(self, entries, *more) -> None:
        loop.call_soon_threadsafe(late.set)
        raise ZeroDivisionError

    monkeypatch.setattr(Journal, "commit", commit)
    checkpoint = Checkpoint(folder, open_journal(folder), 10)

    async def after() -> None:
        await late.wait()
        await checkpoint.record(answer(2))

    async def run() -> list[BaseException | None]:
        loop.set_exception_handler(lambda *_: None)  # the bug itself is also told by the loop
        return await asyncio.gather(checkpoint.record(answer(1)), after(), return_exceptions=True)

    with asyncio.Runner() as runner:
        loop, late = runner.get_loop(), asyncio.Event()
        errors = runner.run(run())
    checkpoint.close()
    assert [type(error) for error in errors] == [RunError, RunError]
    assert all(error.kind == "unexpected" for error in errors)


# ------------------------------------------------------------------------------- a damaged folder


def filled(folder: RunFolder, rows: int = 20) -> None:
    async def run():
        checkpoint = Checkpoint(folder, open_journal(folder), 10)
        await asyncio.gather(*(checkpoint.record(answer(n)) for n in range(rows)))
        await checkpoint.finish()
        checkpoint.close()

    asyncio.run(run())


def test_a_missing_journal_beside_parts_is_refused(folder):
    """Going on would forget, and pay again, all that is in the parts."""
    filled(folder)
    folder.journal.unlink()
    with pytest.raises(RunError, match=r"journal\.sqlite: missing"):
        open_journal(folder)
    assert len(pd.read_parquet(folder.results)) == 20


def test_a_missing_part_is_refused(folder):
    """The journal knows of it; its rows would be lost in silence."""
    filled(folder)
    (folder.results / "part-00000.parquet").unlink()
    with pytest.raises(RunError, match=r"part-00000\.parquet missing"):
        open_journal(folder)


def test_a_part_of_another_run_is_refused(folder):
    """A part that the journal does not know is never deleted."""
    filled(folder)
    stray = folder.results / "part-00007.parquet"
    stray.write_bytes((folder.results / "part-00000.parquet").read_bytes())
    with pytest.raises(RunError, match="does not know this part"):
        open_journal(folder)
    assert stray.exists()


def test_a_journal_that_is_none(folder):
    """A file of another sort under the journal's name is named, not overwritten."""
    folder.journal.write_bytes(b"not a database at all, and longer than a header" * 100)
    with pytest.raises(RunError, match=r"journal\.sqlite: cannot be used"):
        open_journal(folder)


def test_a_newer_journal_is_refused(folder):
    """A version this program does not know is left alone."""
    filled(folder)
    with sqlite3.connect(folder.journal) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(RunError, match="journal version 99"):
        open_journal(folder)


# ------------------------------------------------------------------------------- the folder


def test_one_writer(folder):
    """A second process is refused at once, with the first one's number; after its death it may."""
    script = (
        "import sys; from pathlib import Path; from captionmill.store.folder import RunFolder;"
        "from captionmill.nouns.errors import RunError\n"
        "try: RunFolder(Path(sys.argv[1])).lock()\n"
        "except RunError as error: sys.exit(str(error))\n"
    )

    def second() -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(WRITER.parent.parent)}
        command = [sys.executable, "-c", script, str(folder.path)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    refused = second()
    assert refused.returncode == 1
    assert f"process {os.getpid()} on" in refused.stderr
    assert folder.is_running()
    folder.unlock()
    assert second().returncode == 0
    assert not folder.is_running()


def test_a_damaged_run_json(folder):
    """Half a file is said to be damaged; none means that this is no run."""
    folder.run_json.write_text('{"schema_ver')
    with pytest.raises(RunError, match="damaged"):
        folder.read_run()
    folder.run_json.unlink()
    with pytest.raises(UsageError, match="no run folder"):
        folder.read_run()


def test_what_a_first_start_leaves_that_died_at_once_blocks_no_other(tmp_path):
    """A journal without tables, or only SQLite's side files: nothing was answered, the next start begins."""
    source = draw_pictures(tmp_path / "p", 1)
    job = Job(source, tmp_path / "run", RunConfig(model="m"), (Address("http://127.0.0.1:9/v1", None),))
    for name, content in (("journal.sqlite", b""), ("journal.sqlite-journal", b"x"), (".run.json.tmp", b"{")):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run/results").mkdir(parents=True)
        (tmp_path / "run" / name).write_bytes(content)
        Session.open(job, Console()).close()
        assert RunFolder(tmp_path / "run").read_run()["rows"] == 1


# ------------------------------------------------------------------------------- the schema


def test_every_column_round_trips(tmp_path):
    """All values of an outcome arrive in Parquet with their types: read back with pandas."""
    usage = Usage(268, 116, 384, 100, 50)
    choices = (
        Choice(0, "ein Bild 🙂 \ud83d", "max_tokens", "length", "no", '[{"id": "c"}]', '{"content": []}'),
        Choice(1, None, None),
    )
    outcome = Outcome(
        row=Row("1", ("a.jpg", "b.jpg"), ("/a.jpg", "/b.jpg"), "p\ud800", '{"k": "ü"}'),
        started_at=1_700_000_000.123,
        finished_at=1_700_000_001.5,
        attempts=3,
        reply=Reply(choices, usage, "chatcmpl-1", "gpt-4o-2024", 1_714_079_126, "fp"),
        pictures=(Picture(b"QUJD", "image/jpeg", 640, 480, 3, "ab" * 32),) * 2,
        estimated_tokens=500,
        latency_seconds=1.25,
        endpoint="h/v1",
        cost_usd=Decimal("0.006160000"),
    )
    path = tmp_path / "part.parquet"
    assert parts.write_table(path, [parts.to_record(outcome, "gpt-4o")]) == 1
    schema = pq.read_schema(path)
    assert schema.names == parts.SCHEMA.names
    assert schema.metadata[b"captionmill_schema_version"] == b"2"
    row = pd.read_parquet(path).iloc[0]
    assert list(row["image"]) == ["a.jpg", "b.jpg"]
    assert row["content"] == "ein Bild 🙂 \\ud83d"
    assert row["prompt"] == "p\\ud800"
    assert (row["finish_reason"], row["finish"], row["refusal"]) == ("max_tokens", "length", "no")
    assert row["choices"][1] == {
        "index": 1,
        "content": None,
        "finish_reason": None,
        "tool_calls": None,
        "logprobs": None,
    }
    assert (row["prompt_tokens"], row["cached_tokens"], row["reasoning_tokens"]) == (268, 100, 50)
    assert str(row["cost_usd"]) == "0.006160000"
    assert row["created"] == pd.Timestamp(1_714_079_126, unit="s", tz="UTC")
    assert row["started_at"] == pd.Timestamp(1_700_000_000_123, unit="ms", tz="UTC")
    assert (row["latency_s"], row["attempts"], row["image_count"], row["sent_width"]) == (1.25, 3, 2, 640)
    assert (row["status"], row["usage_source"], row["model"], row["model_requested"]) == (
        "answered", "reported", "gpt-4o-2024", "gpt-4o",
    )  # fmt: skip


def test_messages_are_bounded():
    """A server's endless error text keeps its first 2,000 characters."""
    outcome = Outcome(Row("1", ("a",), ("a",), "p"), 1, 2, 1, failure=Failure("x", "y" * 9999, 400))
    assert len(parts.to_table([parts.to_record(outcome, "m")])["error_message"][0].as_py()) == 2000
