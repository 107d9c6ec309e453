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
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.jobs.__main__ import run_job
from captionmill.nouns.errors import RunError
from captionmill.nouns.rows import Choice, Outcome, Reply, Row, Usage
from captionmill.store import parts
from captionmill.store.check import check
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal, Part
from captionmill.store.salvage import salvage
from captionmill.wiring.repair import Repaired, repair
from commands import MODEL, captionmill, draw_pictures, results, stats
from scripted_chat import Console

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


def swap_parts(run: Path) -> int:
    first, second = run / "results/part-00000.parquet", run / "results/part-00001.parquet"
    first.rename(run / "x")
    second.rename(first)
    (run / "x").rename(second)
    return 0


def rename_part(run: Path) -> int:
    (run / "results/part-00001.parquet").rename(run / "results/part-00005.parquet")
    return 0


def break_a_column(run: Path) -> int:
    path = run / "results/part-00001.parquet"
    column = next(
        c for c in range(99) if pq.read_metadata(path).row_group(0).column(c).path_in_schema == "content"
    )
    meta = pq.read_metadata(path).row_group(0).column(column)
    data = bytearray(path.read_bytes())
    at = meta.dictionary_page_offset or meta.data_page_offset
    data[at : at + 30] = b"\xff" * 30
    path.write_bytes(data)
    return ROWS_A_PART


def write_a_part_of_an_older_version(run: Path) -> int:
    path = run / "results/part-00001.parquet"
    old = pq.read_table(path).drop_columns(["label", "image_count"])
    pq.write_table(old.replace_schema_metadata({"captionmill_schema_version": "0"}), path)
    return 0


def make_the_journal_an_older_version(run: Path) -> int:
    journal = sqlite3.connect(run / "journal.sqlite")
    journal.executescript(
        "DROP TABLE unanswered; ALTER TABLE finished DROP COLUMN content; PRAGMA user_version=0"
    )
    journal.close()
    return 0


def lose_everything_but_two_parts(run: Path) -> int:
    lose_journal(run)
    lose_run_json(run)
    cut(run)
    return ROWS_A_PART


DAMAGES = [
    cut, lose_part, lose_rows_of_a_part, lose_journal, empty_journal, overwrite_journal, no_journal_at_all,
    lose_run_json, damage_run_json, copy_a_part, swap_parts, rename_part, break_a_column, lose_everything_but_two_parts,
    write_a_part_of_an_older_version, make_the_journal_an_older_version,
]  # fmt: skip


USUAL = (cut, lose_part, lose_journal, overwrite_journal, lose_run_json, write_a_part_of_an_older_version)


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
    assert "1 row has no answer" in done.stderr
    return stats(url)["answered_again"] - before


@pytest.mark.parametrize(
    "damage", [d if d in USUAL else pytest.param(d, marks=pytest.mark.slow) for d in DAMAGES]
)
def test_what_is_lost_is_asked_again_and_nothing_else(finished, run, damage, capsys):
    """Found by --check, mended by repair; then every row once, only the lost ones paid again."""
    _, url = finished
    assert run_job("status", ["--check", str(run)]) == 0
    before = results(run).set_index("id")["content"]
    lost = damage(run)
    assert run_job("status", ["--check", str(run)]) == 3
    assert f"captionmill repair {run}" in capsys.readouterr().out
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


def test_an_older_part_is_refused_by_name(run, capsys):
    """By a start, a report and the gallery, in one line with what to do, and nothing is sent."""
    write_a_part_of_an_older_version(run)
    for command in (["report"], ["gallery"], [*map(str, ARGUMENTS), "-o"]):
        assert (
            run_job(
                command[0],
                [*command[1:], str(run), *(["--base-url", "http://127.0.0.1:9"] if len(command) > 1 else [])],
            )
            == 3
        )
        said = capsys.readouterr().err
        assert "part-00001.parquet: written by an older version, without label, image_count" in said
        assert f"captionmill repair {run}" in said


def test_what_is_lost_stays_spent(run):
    """Answers of a part that is gone were paid for: the account counts them at the average of the others."""
    lose_part(run)
    assert run_job("repair", [str(run)]) == 0
    journal = Journal(run / "journal.sqlite")
    lost = journal.unanswered()["lost"]
    journal.close()
    table = results(run)
    assert lost.requests == ROWS_A_PART
    assert lost.tokens == pytest.approx(table.total_tokens.mean() * ROWS_A_PART, rel=0.01)
    assert float(lost.usd) == pytest.approx(float(table.cost_usd.mean()) * ROWS_A_PART, rel=0.01)


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


def entry(number: int) -> Entry:
    """An answer as a run records it."""
    row = Row(f"r{number:03d}", (f"{number}.jpg",), (f"/{number}.jpg",), "p")
    reply = Reply((Choice(0, f"answer {number}", "stop", "stop"),), Usage(1, 1, 2))
    return Entry(row.id, None, parts.to_record(Outcome(row, 1.0, 2.0, 1, reply=reply), "m"), row.content_hash)


def write_part(journal: Journal, folder: RunFolder, number: int) -> None:
    """All that waits."""
    waiting = journal.waiting(10**6)
    rows = parts.write_table(folder.results / parts.part_name(number), [record for _, record in waiting])
    journal.note_part(Part(number, waiting[0][0], waiting[-1][0], rows))


@pytest.fixture
def made(tmp_path) -> RunFolder:
    """A run of ten answers in a part and ten that wait."""
    folder = RunFolder(tmp_path / "run")
    folder.results.mkdir(parents=True)
    folder.write_run({"source": "/p", "rows": 99, "answer_settings": {}})
    journal = Journal(folder.journal, create=True)
    journal.commit([entry(n) for n in range(10)])
    write_part(journal, folder, 0)
    journal.commit([entry(n) for n in range(10, 20)])
    journal.close()
    return folder


def test_a_part_that_is_taken_in_is_spanned_by_no_later_one(made):
    """Answers wait while a part from elsewhere is taken in; the next part holds them, and both are whole."""
    parts.write_table(made.results / parts.part_name(7), [entry(n).record for n in range(30, 40)])
    assert repair(made, Console()).kept == 30
    journal = Journal(made.journal, create=True)
    journal.commit([entry(n) for n in range(40, 50)])
    write_part(journal, made, 8)
    journal.close()
    assert check(made) == []
    assert len(results(made.path)) == 40
    assert repair(made, Console()) == Repaired(kept=40)


def test_a_part_that_the_journal_still_keeps_waiting_is_taken_in(made):
    """A journal from a backup: what it takes to wait stands in a part by now."""
    parts.write_table(made.results / parts.part_name(1), [entry(n).record for n in range(12, 30)])
    assert repair(made, Console()) == Repaired(kept=30)
    assert check(made) == []
    journal = Journal(made.journal)
    assert journal.counts().waiting == 2
    journal.close()


@pytest.mark.parametrize("step", ["_adopt_parts", "_take_in_records", "_move_aside"])
def test_a_repair_that_dies_is_begun_again(made, monkeypatch, step):
    """At each step of making a journal anew: the second try keeps what the first would have."""
    import captionmill.wiring.repair as module

    database = sqlite3.connect(made.journal)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finished'").fetchone()
    database.close()
    data = bytearray(made.journal.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    made.journal.write_bytes(data)
    real = getattr(module, step)

    def die(*arguments) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, die)
    with pytest.raises(KeyboardInterrupt):
        repair(made, Console())
    monkeypatch.undo()
    assert repair(made, Console()) == Repaired(kept=20)
    assert check(made) == []


def test_what_lies_between_two_damages_is_salvaged(tmp_path):
    """Records are read from both ends, and one by one between."""
    journal = Journal(tmp_path / "journal.sqlite", create=True)
    journal.commit([entry(n) for n in range(2000)])
    journal.close()
    data = bytearray((tmp_path / "journal.sqlite").read_bytes())
    leaves = [
        at for at in range(0, len(data), 4096) if data[at] == 0x0D and b"answer 1" in data[at : at + 4096]
    ]
    for at in (leaves[len(leaves) // 3], leaves[2 * len(leaves) // 3]):
        data[at : at + 4096] = bytes(4096)
    (tmp_path / "journal.sqlite").write_bytes(data)
    waiting = salvage(tmp_path / "journal.sqlite").waiting
    assert 1900 < len(waiting) < 2000


def test_no_access_is_no_damage(made, monkeypatch):
    """A part that may not be opened stays where it is."""
    real = parts.read_part

    def denied(path: Path):
        raise parts._unreadable(path, PermissionError(13, "Permission denied"))

    monkeypatch.setattr(parts, "read_part", denied)
    with pytest.raises(RunError, match="Permission denied") as caught:
        repair(made, Console())
    assert caught.value.kind == "no_access"
    monkeypatch.setattr(parts, "read_part", real)
    assert not (made.path / "damaged").exists()
    assert check(made) == []
