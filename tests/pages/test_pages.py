"""The report and its page: correct sums, text that stays text, no request to outside."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pandas as pd
import pytest
from bench import answer, write
from browser import DESKTOP, PHONE
from captionmill.accounts.report import read_report
from captionmill.nouns.rows import Choice, Failure, Outcome, Reply, Row, Usage
from captionmill.pages.report_page import write_report
from captionmill.store import parts
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry
from captionmill.store.recovery import open_journal
from commands import captionmill, draw_pictures

NASTY = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


def entries(count: int):
    """Answers of two models, one without price, every seventh row failed."""
    now = time.time()
    for n in range(count):
        row = Row(f"{n}.png", (f"{n}.png",), ("x",), "p")
        if n % 7 == 6:
            outcome = Outcome(row, now, now, 2, failure=Failure("timeout", NASTY))
            yield Entry(row.id, "timeout", parts.to_record(outcome, "m"))
            continue
        model = "gpt-4o" if n % 2 else "mystery"
        reply = Reply((Choice(0, f"{NASTY} {n}", "stop", "stop"),), Usage(100, 10, 110, 40, 5), model=model)
        cost = Decimal("0.000350000") if n % 2 else None
        outcome = Outcome(row, now - (200 if n < 10 else 0), now - (200 if n < 10 else 0), 1, reply=reply,
                          estimated_tokens=200, latency_seconds=1.5, cost_usd=cost)  # fmt: skip
        yield Entry(row.id, None, parts.to_record(outcome, model))


@pytest.fixture
def run(tmp_path):
    """30 rows: parts of 8, and a rest that still waits in the journal."""
    draw_pictures(tmp_path / "p", 30)
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    folder.write_run({"source": str(tmp_path / "p"), "rows": 33, "answer_settings": {}})

    async def write():
        checkpoint = Checkpoint(folder, open_journal(folder), 8)
        for entry in entries(30):
            await checkpoint.record(entry)
        await checkpoint.parts.idle()
        checkpoint.close()

    asyncio.run(write())
    folder.unlock()
    return folder


def test_a_report_counts_parts_and_what_waits(run):
    """On an interrupted run too: every answer once, whether it is in a part yet or not."""
    assert 0 < len(pd.read_parquet(run.results)) < 26
    report = read_report([run])
    (state,), total = report.runs, report.total
    assert (state.rows, total.answers, total.failed, state.left) == (33, 26, 4, 3)
    assert report.errors == {"timeout": 4}
    assert report.finishes == {"stop": 26}
    priced, unpriced = report.groups[("gpt-4o",)], report.groups[("mystery",)]
    assert priced.answers + unpriced.answers == 26
    assert priced.cost_usd == Decimal("0.00035") * priced.answers == total.cost_usd
    assert unpriced.cost_usd is None
    assert total.unpriced == unpriced.answers
    assert (total.prompt_tokens, total.cached_tokens) == (2600, 1040)
    assert report.answered_last_minute == 26 - 9
    assert report.tokens_last_minute == 17 * 110
    assert state.is_running is False


def test_the_report_page(run, page):
    """In a real browser at both widths, light and dark: no request leaves, nothing overflows, text stays text."""
    path = write_report(run, read_report([run], ["model", "folder"]))
    for size in (DESKTOP, PHONE):
        for is_dark in (False, True):
            page.show(path, size, is_dark)
            assert page.overflow_px <= 0, (size, is_dark)
    assert set(page.requests) - {address for address in page.requests if address.startswith("data:")} == {
        path.resolve().as_uri()
    }
    assert page.errors == []
    assert page.evaluate("document.title").endswith("report")
    assert NASTY in page.evaluate("document.body.innerText")
    assert page.evaluate("document.querySelectorAll('figure svg').length") >= 4
    assert page.evaluate("document.querySelectorAll('.rows img').length") == 12
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_rows_without_usage_are_among_the_most_expensive(tmp_path):
    """Their token counts are unknown, and the page says so."""
    folder = write(tmp_path / "run", [answer(0), answer(1, usage=Usage())])
    assert "no usage" in write_report(folder, read_report([folder])).read_text()


def test_jobs_on_another_folder(tmp_path):
    """status, report and gallery of a folder that is not a run: exit 2 and one line."""
    for job in ("status", "report", "gallery"):
        done = captionmill(job, tmp_path)
        assert done.returncode == 2
        assert "so this is no run folder" in done.stderr
        assert "Traceback" not in done.stderr
