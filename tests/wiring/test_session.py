"""One start of a run: complete when it is made, undone when it cannot begin."""

from __future__ import annotations

import asyncio
import json

import pytest
from bench import answer, failed
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.address import Address, chat_completions_url
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import UsageError
from captionmill.nouns.rows import Spending
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Counts, Journal
from captionmill.wiring import feed
from captionmill.wiring.recorder import CheckpointRecorder
from captionmill.wiring.session import Job, Session
from commands import draw_pictures, stats
from scripted_chat import Console

KEY = "sk-0123456789abcdef"


def job(tmp_path, url: str, rows: int = 3, **more) -> Job:
    config = {"model": "gpt-4o", "max_tokens": 60} | more.pop("config", {})
    address = Address(chat_completions_url(url), KEY)
    source = draw_pictures(tmp_path / "p", rows)
    return Job(source, tmp_path / "run", RunConfig(**config), (address,), **more)


def start(job: Job, stops: int = 0) -> Session:
    """Run it to its end. stops: how often it is stopped before it runs."""
    session = Session.open(job, Console())
    for _ in range(stops):
        session.stop()
    try:
        asyncio.run(session.run())
    finally:
        session.close()
    return session


@pytest.mark.parametrize("stops", [1, 2])
def test_a_stop_before_the_run_sends_nothing(tmp_path, stops):
    """A signal may come before the loop runs: the run ends at once, and the next start does all rows."""
    with serving(EndpointSettings()) as url:
        session = start(job(tmp_path, url), stops)
        assert (session.is_interrupted, session.rows_left, session.given_up) == (True, 3, 0)
        assert stats(url)["answers"] == 0
        assert start(job(tmp_path, url)).tally.answered == 3


def test_a_start_that_cannot_begin_leaves_the_folder_to_others(tmp_path):
    """Refused after the folder was locked (no price for a budget): the lock and the journal are let go."""
    refused = job(tmp_path, "http://127.0.0.1:9", config={"model": "mystery", "budget_usd": 1})
    with pytest.raises(UsageError, match="mystery"):
        Session.open(refused, Console())
    assert not RunFolder(tmp_path / "run").is_running()
    Session.open(job(tmp_path, "http://127.0.0.1:9"), Console()).close()


def test_run_json_over_two_starts(tmp_path):
    """Created once; begun without an end and without a number of rows left; ended with both."""
    with serving(EndpointSettings()) as url:
        folder = RunFolder(tmp_path / "run")
        session = Session.open(job(tmp_path, url, most_rows=1), Console())
        begun = folder.read_run()
        assert (begun["rows"], begun["rows_left"], begun["last_ended"]) == (3, None, None)
        assert session.endpoints_before is None
        asyncio.run(session.run())
        session.close()
        ended = folder.read_run()
        assert (ended["rows_left"], ended["last_started"]) == (2, begun["last_started"])
        assert ended["last_ended"] >= begun["last_started"]
        folder.write_run(ended | {"created": "2001-01-01T00:00:00Z"})
        second = start(job(tmp_path, url))
    assert second.endpoints_before == ended["endpoints"]
    assert folder.read_run()["created"] == "2001-01-01T00:00:00Z"
    assert folder.read_run()["rows_left"] == 0


def test_a_finished_run_is_not_looked_up_again(tmp_path, monkeypatch):
    """With no row left and the same source a start looks up no row; a longer source or a retry does."""
    with serving(EndpointSettings()) as url:
        start(job(tmp_path, url))
        with monkeypatch.context() as patch:
            patch.setattr(feed, "PendingRows", None)
            again = start(job(tmp_path, url))
        assert (again.tally.done_before, again.tally.answered, again.rows_left) == (3, 0, 0)
        assert start(job(tmp_path, url, rows=5)).tally.answered == 2
        with pytest.raises(UsageError, match="timeout"):
            start(job(tmp_path, url, rows=5, retry_failed=frozenset({"timeout"})))
        assert start(job(tmp_path, url, rows=5, retry_failed=frozenset())).tally.done_before == 5


class Memory:
    """A checkpoint that keeps what it is given."""

    def __init__(self) -> None:
        self.entries, self.lost = [], []

    async def record(self, entry) -> None:
        self.entries.append(entry)

    def unanswered(self, kind, spending) -> None:
        self.lost.append((kind, spending))


def test_the_recorder_keeps_outcomes_without_keys(tmp_path):
    """An answer has no kind, a failure has one; every endpoint's key is removed; losses and lines are passed on."""
    memory, told = Memory(), []
    other = Address("http://b.test/v1", "sk-another-long-key")
    recorder = CheckpointRecorder(memory, "m", [Address("http://a.test/v1", KEY), other], Console(told))

    async def record() -> None:
        await recorder.record(answer(1))
        await recorder.record(failed(2, kind=f"{KEY} {other.key}"))

    asyncio.run(record())
    recorder.unanswered("timeout", Spending(1, 10))
    recorder.tell("a line")
    first, second = memory.entries
    assert (first.id, first.failure_kind, first.content) == ("1", None, answer(1).row.content_hash)
    assert json.loads(second.record)["error_kind"] == "[key] [key]"
    assert (memory.lost, told) == ([("timeout", Spending(1, 10))], ["a line"])


def test_nothing_of_the_journal_stays_open(tmp_path):
    """After a run its log is empty, so a reader needs no right to write."""
    with serving(EndpointSettings()) as url:
        start(job(tmp_path, url))
    assert not list((tmp_path / "run").glob("journal.sqlite-*"))
    journal = Journal(tmp_path / "run/journal.sqlite")
    assert journal.counts() == Counts(3, 0, 0)
    journal.close()
