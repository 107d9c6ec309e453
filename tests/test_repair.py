"""A damaged run folder: `status --check` says what is wrong, `repair` keeps what is there, the rest is asked again."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import captionmill, draw_pictures
from test_walks import MODEL, results, stats

from jobs.__main__ import run_job
from pipeline.edges.folder import RunFolder
from pipeline.endpoint.server import EndpointSettings, serving

ROWS, ROWS_A_PART = 12, 4
ARGUMENTS = ("caption", "p", *MODEL, "--rows-per-part", ROWS_A_PART, "--concurrency", 2)


def cut(run: Path) -> int:
    part = run / "results/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    return ROWS_A_PART


def lose_part(run: Path) -> int:
    (run / "results/part-00002.parquet").unlink()
    return ROWS_A_PART


def lose_rows_of_a_part(run: Path) -> int:
    path = run / "results/part-00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    return ROWS_A_PART - 3


def lose_journal(run: Path) -> int:
    for path in run.glob("journal.sqlite*"):
        path.unlink()
    return 0


def empty_journal(run: Path) -> int:
    lose_journal(run)
    (run / "journal.sqlite").touch()
    return 0


def overwrite_journal(run: Path) -> int:
    data = bytearray((run / "journal.sqlite").read_bytes())
    data[4096:12288] = os.urandom(8192)
    (run / "journal.sqlite").write_bytes(data)
    return 0


def no_journal_at_all(run: Path) -> int:
    (run / "journal.sqlite").write_bytes(os.urandom(50_000))
    return 0


def lose_run_json(run: Path) -> int:
    (run / "run.json").unlink()
    return 0


def damage_run_json(run: Path) -> int:
    (run / "run.json").write_bytes(b"\xff\x00")
    return 0


def copy_a_part(run: Path) -> int:
    shutil.copy(run / "results/part-00000.parquet", run / "results/part-00007.parquet")
    return 0


def lose_everything_but_two_parts(run: Path) -> int:
    lose_journal(run)
    lose_run_json(run)
    cut(run)
    return ROWS_A_PART


DAMAGES = [
    cut, lose_part, lose_rows_of_a_part, lose_journal, empty_journal, overwrite_journal, no_journal_at_all,
    lose_run_json, damage_run_json, copy_a_part, lose_everything_but_two_parts,
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A folder with a finished run of 12 rows and one that failed, and the endpoint that it was made with."""
    folder = tmp_path_factory.mktemp("finished")
    draw_pictures(folder / "p", ROWS)
    (folder / "p/bad.jpg").write_bytes(b"\xff\xd8\xff")
    with serving(EndpointSettings(keeps_ledger=True)) as url:
        done = captionmill(*ARGUMENTS, "-o", "whole", base_url=url, cwd=folder)
        assert done.returncode == 1, done.stderr
        yield folder, url


@pytest.fixture
def run(finished, request, monkeypatch) -> Path:
    """A copy of it to damage, named as seen from the current folder."""
    folder, _ = finished
    name = re.sub(r"\W", "-", request.node.name)
    shutil.copytree(folder / "whole", folder / name)
    monkeypatch.chdir(folder)
    return Path(name)


def again(run: Path, url: str) -> int:
    """The same command: how many answers it paid for that were paid before."""
    before = stats(url)["answered_again"]
    done = captionmill(*ARGUMENTS, "-o", run, base_url=url)
    assert done.returncode == 1, done.stderr
    assert "1 rows have no answer" in done.stderr
    return stats(url)["answered_again"] - before


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_lost_is_asked_again_and_nothing_else(finished, run, damage, capsys):
    """Found by --check, refused by caption, mended by repair; then every row once, only the lost ones paid again."""
    _, url = finished
    assert run_job("status", ["--check", str(run)]) == 0
    before = results(run).set_index("id")["content"]
    lost = damage(run)
    assert run_job("status", ["--check", str(run)]) == 3
    assert f"captionmill repair {run}" in capsys.readouterr().out
    assert captionmill(*ARGUMENTS, "-o", run, base_url=url).returncode in (2, 3)

    assert run_job("repair", [str(run)]) == 0
    assert run_job("status", ["--check", str(run)]) == 0
    assert len(results(run)) == ROWS - lost
    assert again(run, url) == lost
    after = results(run).set_index("id")["content"]
    pd.testing.assert_series_equal(after.sort_index(), before.sort_index())


def test_answers_that_were_in_no_part_are_salvaged(finished, run):
    """As a kill -9 leaves it, and a page of the journal breaks besides: the answers come back."""
    _, url = finished
    table = pd.read_parquet(run / "results/part-00002.parquet")
    (run / "results/part-00002.parquet").unlink()
    journal = sqlite3.connect(run / "journal.sqlite")
    (first,) = journal.execute("SELECT first_seq FROM parts WHERE number = 2").fetchone()
    for n, row in enumerate(table.itertuples()):
        record = {
            "id": row.id,
            "image": [row.id],
            "prompt": row.prompt,
            "content": row.content,
            "status": "answered",
        }
        journal.execute("INSERT INTO waiting VALUES (?, ?)", (first + n, json.dumps(record)))
    journal.execute("DELETE FROM parts WHERE number = 2")
    (page,) = journal.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finished'").fetchone()
    journal.commit()
    journal.close()
    data = bytearray((run / "journal.sqlite").read_bytes())
    data[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    (run / "journal.sqlite").write_bytes(data)
    assert run_job("repair", [str(run)]) == 0
    assert again(run, url) == 0
    assert len(results(run)) == ROWS


def test_nothing_is_deleted(run, capsys):
    """What does not fit is moved aside, twice if need be; and a folder that is no run is left alone."""
    cut(run)
    run_job("repair", [str(run)])
    shutil.copy(run / "results/part-00000.parquet", run / "results/part-00001.parquet")
    run_job("repair", [str(run)])
    assert sorted(p.name for p in (run / "damaged").iterdir()) == [
        "part-00001.parquet",
        "part-00001.parquet.2",
    ]
    for job in (["repair"], ["status", "--check"]):
        assert run_job(job[0], [*job[1:], "p"]) == 2
        assert "no run folder" in capsys.readouterr().err
    assert len(list(Path("p").iterdir())) == ROWS + 1


def test_a_run_that_is_going_on_is_not_repaired(run):
    """Its writer holds the folder."""
    writer = RunFolder(run)
    writer.lock()
    try:
        assert run_job("repair", [str(run)]) == 3
    finally:
        writer.unlock()
