"""What runs came to: groups, percentiles, money that bought nothing, usage that cannot be true, for people and programs."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from bench import DAY, answer, failed, write
from captionmill.accounts.histogram import Histogram
from captionmill.accounts.report import read_report, read_rows
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import PriceTable
from captionmill.nouns.errors import UsageError
from captionmill.nouns.rows import Spending, Usage
from captionmill.rules.prices import PriceBook
from captionmill.store import parts
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal, Part
from commands import MODEL, captionmill, draw_pictures, peak_megabytes, results
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return write(tmp_path / "run", [*(answer(n) for n in range(10)), failed(10), failed(11, "bad_image")])


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("folder", {("a/x",): 5, ("b/x",): 5, (".",): 0}),
        ("day", {("2026-11-20",): 6, ("2026-11-21",): 4}),
        ("extra.who", {("Ada",): 5, ("伯",): 5, (None,): 0}),
        ("extra.n", {("0",): 4, ("1",): 3, ("2",): 3, (None,): 0}),
        ("extra.nothing", {(None,): 10}),
        ("endpoint", {("e/v1",): 10, (None,): 0}),
        ("prompt", {("p" * 52,): 10, ("p",): 0}),
        ("error_kind", {(None,): 10, ("timeout",): 0, ("bad_image",): 0}),
        ("finish_reason,status", {("stop", "answered"): 10, (None, "failed"): 0}),
        ("model,folder", {("gpt-4o", "a/x"): 5, ("gpt-4o", "b/x"): 5, ("gpt-4o", "."): 0}),
    ],
)
def test_rows_are_grouped_by(run, by, groups):
    """Every group has its answers, and all of them together are the whole; failed rows are in theirs."""
    report = read_report([run], by.split(","))
    found = {key: line.answers for key, line in report.groups.items()}
    assert found == groups
    assert sum(line.rows for line in report.groups.values()) == report.total.rows == 12
    assert sum(line.cost_usd or 0 for line in report.groups.values()) == report.total.cost_usd
    assert sum(line.attempts for line in report.groups.values()) == report.total.attempts == 15 + 6


def test_the_sums_are_those_of_the_dataset(run):
    """Money to the last digit, tokens, averages an answer and a row, minutes, the most expensive row first."""
    report = read_report([run])
    one = PriceBook().cost(("gpt-4o",), Usage(778, 50, 828, 8, 4))
    assert report.total.cost_usd == 10 * one
    assert report.total.cost_per_answer == one
    assert report.total.cost_per_row == 10 * one / 12
    assert (report.total.cached_tokens, report.total.reasoning_tokens) == (80, 40)
    assert sum(minute.tokens for minute in report.minutes.values()) == 8280
    assert sum(minute.cost_usd for minute in report.minutes.values()) == 10 * one
    assert report.errors == {"timeout": 1, "bad_image": 1}
    assert report.examples["timeout"] == [("10", "10: no <b>answer</b>")]
    assert report.anomalies.formula_tokens == report.anomalies.reported_tokens == 7780
    assert report.findings == []


def test_the_most_expensive_rows_are_found_where_they_stand(tmp_path):
    """In a part or still in the journal, each with its own columns."""
    folder = write(tmp_path / "run", [answer(n, prompt_tokens=100 + (n * 37) % 11) for n in range(11)])
    report = read_report([folder])
    found = read_rows(report.most_expensive, ("id", "prompt_tokens"))
    assert [row["prompt_tokens"] for row in found] == sorted((100 + n for n in range(11)), reverse=True)
    assert sorted(int(row["id"]) for row in found) == list(range(11))


def test_the_most_expensive_rows_stay_the_same_rows(tmp_path):
    """One that still waited in the journal is shown as it was, though a part is written meanwhile."""
    folder = write(tmp_path / "run", [answer(n, prompt_tokens=100 + n) for n in range(3)])
    report = read_report([folder])
    journal = Journal(folder.journal)
    records = [record for _, record in journal.waiting(9)]
    parts.write_table(folder.results / parts.part_name(0), records)
    journal.note_part(Part(0, 1, 3, 3))
    journal.commit([Entry("9", None, parts.to_record(answer(9), "gpt-4o"))])
    journal.close()
    assert [row["id"] for row in read_rows(report.most_expensive, ("id",))] == ["2", "1", "0"]


def test_several_runs_are_one_report(tmp_path, run):
    """Sums over all; runs in two currencies are refused by name."""
    other = write(
        tmp_path / "other", [answer(n) for n in range(3)], {"timeout": Spending(2, 900, Decimal("0.5"))}
    )
    report = read_report([run, other], ["folder"])
    assert report.total.answers == 13
    assert [state.path for state in report.runs] == [str(run.path), str(other.path)]
    assert report.lost == Spending(2, 900, Decimal("0.5"))
    yuan = write(tmp_path / "yuan", [answer(0)], currency="CNY")
    with pytest.raises(UsageError, match=r"yuan counts in CNY, .*run in USD"):
        read_report([run, yuan])


def test_other_prices(run):
    """All money anew: by a table of the user's, or by the list; the dataset is left as it is."""
    table = PriceBook(
        PriceTable.model_validate({"currency": "CNY", "gpt-4o": {"input": 1, "output": 2, "cached": 0}})
    )
    report = read_report([run], prices=table)
    assert report.total.cost_usd == 10 * (Decimal(770) + 100) / 10**6
    assert report.currency == "CNY"
    assert read_report([run], prices=PriceBook()).total.cost_usd == read_report([run]).total.cost_usd


def test_other_prices_are_those_of_each_day(tmp_path):
    """o3 became cheaper in June 2025: an answer of before costs what it cost then. Lost attempts have no price then."""
    before = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    outcomes = [replace(answer(0, model="o3"), finished_at=at) for at in (before, DAY)]
    outcomes[1] = replace(outcomes[1], row=replace(outcomes[1].row, id="1"))
    folder = write(tmp_path / "run", outcomes, {"timeout": Spending(1, 100, Decimal(1))})
    report = read_report([folder], ["day"], PriceBook())
    old, new = (report.groups[(day,)].cost_usd for day in ("2025-06-01", "2026-11-20"))
    assert old > new
    assert report.lost == Spending(1, 100, None)


@pytest.mark.parametrize(
    ("outcomes", "says"),
    [
        ([answer(n, prompt_tokens=40_000) for n in range(3)], "counted, and billed, as text"),
        ([answer(n, prompt_tokens=20) for n in range(3)], "may not have been shown the pictures"),
        ([answer(n, usage=Usage()) for n in range(3)], "3 answers came without usage"),
        (
            [
                answer(n, prompt_tokens=268, model="claude-3-opus-20240229", size=(200 + 30 * n, 400))
                for n in range(25)
            ],
            "255 tokens are reported for every picture, though they count",
        ),
    ],
)
def test_usage_that_cannot_be_true_is_said(tmp_path, outcomes, says):
    """Base64 billed as text, pictures that no model saw, no usage, invented usage."""
    (finding,) = read_report([write(tmp_path / "run", outcomes)]).findings
    assert says in finding


def test_money_that_bought_nothing(tmp_path):
    """Answers that were cut off, and attempts without an answer, with the most that they may have cost."""
    unanswered = {
        "timeout": Spending(3, 2700, Decimal("0.0075")),
        "rate_limited": Spending(40),
        "length": Spending(1),
    }
    folder = write(tmp_path / "run", [answer(0), answer(1, finish="length")], unanswered)
    done = captionmill("report", folder.path)
    assert "1 answers ended at max_tokens; they cost $0.002" in done.stdout
    assert "43 attempts (40 rate_limited, 3 timeout); they may be billed, at most $0.007500" in done.stdout
    assert "asked again     1 answers" in done.stdout
    status = captionmill("status", folder.path)
    assert "no answer           43 attempts" in status.stdout
    assert (
        json.loads(captionmill("status", folder.path, "--json").stdout)["attempts_without_answer"]["timeout"]
        == 3
    )


# ------------------------------------------------------------------------------- spreads


@given(
    st.lists(st.floats(0, 1e9) | st.integers(0, 3000).map(float), min_size=1, max_size=300), st.floats(0, 100)
)
def test_percentiles_are_within_two_per_cent(values, percent):
    """Of any values, taken in by any portions; averages and extremes are exact."""
    spread = Histogram()
    for start in range(0, len(values), 7):
        spread.add(np.array(values[start : start + 7]))
    true = float(np.percentile(values, percent, method="inverted_cdf"))
    assert spread.percentile(percent) == pytest.approx(true, rel=0.02, abs=2e-9)
    assert spread.mean == pytest.approx(np.mean(values))
    assert (spread.minimum, spread.maximum) == (min(values), max(values))
    assert sum(count for _, _, count in spread.bars(24)) == len(values)


def test_what_is_no_number_is_left_out():
    """Null is no value, and nothing at all has neither percentile nor bars."""
    spread = Histogram()
    spread.add(np.array([np.nan]))
    assert (spread.count, spread.percentile(50), spread.mean, spread.bars(5)) == (0, 0.0, 0.0, [])


# ------------------------------------------------------------------------------- the command


def test_for_programs(tmp_path):
    """CSV and JSON say what the dataset says; money as decimal text."""
    draw_pictures(tmp_path / "p", 6)
    with serving(EndpointSettings()) as url:
        assert captionmill("caption", "p", *MODEL, "-o", "run", base_url=url, cwd=tmp_path).returncode == 0
    table = results(tmp_path / "run")
    rows = list(
        csv.DictReader(
            io.StringIO(captionmill("report", "run", "--csv", "--by", "finish", cwd=tmp_path).stdout)
        )
    )
    assert [(r["finish"], r["answers"], Decimal(r["cost"])) for r in rows] == [
        ("stop", "6", table.cost_usd.sum())
    ]
    report = json.loads(captionmill("report", "run", "--json", cwd=tmp_path).stdout)
    assert Decimal(report["total"]["cost"]) == table.cost_usd.sum()
    assert report["total"]["prompt_tokens"] == table.prompt_tokens.sum()
    assert report["an_answer"]["prompt_tokens"]["average"] == pytest.approx(table.prompt_tokens.mean())
    assert report["groups"][0]["model"] == "gpt-4o"
    for arguments, says in (
        (("run", "--by", "colour"), "--by colour: one of model, folder"),
        (("run", "--config", "x.toml"), "--config goes with --reprice"),
        (("run", "nowhere"), "nowhere: no run.json in it"),
        (("run", "run/../run"), "a run folder is named twice"),
    ):
        done = captionmill("report", *arguments, cwd=tmp_path)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_long_run_is_summed_up_in_bounded_memory(tmp_path):
    """A million rows in two hundred parts: every one counted, in a quarter of a gigabyte."""
    folder = write(tmp_path / "run", [answer(n) for n in range(5000)])
    table = parts.to_table([parts.to_record(answer(n), "gpt-4o") for n in range(5000)])
    first = folder.results / parts.part_name(0)
    for part in parts.on_disk(folder.results).values():
        part.unlink()
    parts.write_table(first, (parts.to_record(answer(n), "gpt-4o") for n in range(5000)))
    journal = Journal(folder.journal)
    with journal.database.changing():
        journal.database.run("DELETE FROM parts")
        journal.database.run("DELETE FROM waiting")
    for number in range(200):
        if number:
            os.link(first, folder.results / parts.part_name(number))
        journal.note_part(Part(number, 5000 * number + 1, 5000 * (number + 1), 5000))
    journal.close()
    peak, output = peak_megabytes("report", folder.path, "--by", "folder,extra.who", "--json")
    assert json.loads(output)["total"]["answers"] == 200 * table.num_rows == 1_000_000
    assert peak < 256
