"""The real command against a real server with all faults on, killed at random moments, judged by the server's ledger.

python -m pytest -m slow tests/torture          TORTURE_KILLS=500 TORTURE_SEED=7 for a longer one
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from commands import MODEL, captionmill, draw_pictures, results, start, stats

KILLS = int(os.environ.get("TORTURE_KILLS", "60"))
SEED = int(os.environ.get("TORTURE_SEED", "20261123"))
CONCURRENCY = 16
ROWS_A_LIFE = 60
FAULTS = {"500": 0.03, "503": 0.02, "429": 0.01, "reset": 0.02, "truncate": 0.01, "empty": 0.01}


def read_with_duckdb(run: Path) -> int:
    """Rows of the dataset as another engine counts them; each id once."""
    files = str(run / "results/*.parquet")
    with duckdb.connect() as database:
        rows, ids = database.execute(
            "SELECT count(*), count(DISTINCT id) FROM read_parquet(?)", [files]
        ).fetchone()
    assert rows == ids
    return rows


@contextlib.contextmanager
def reading_all_the_time(run: Path) -> Iterator[list[int]]:
    """Two readers beside the run, from before its first part to after its last; what they saw, or their error."""
    is_over, seen, errors = threading.Event(), [0], []

    def read() -> None:
        while not is_over.wait(0.05):
            if not (run / "results/schema.parquet").exists():
                continue
            try:
                seen.append(len(results(run)))
                seen.append(read_with_duckdb(run))
            except Exception as error:  # noqa: BLE001  raised below, in the test's own thread
                errors.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
    assert errors == []


def end_somehow(running: subprocess.Popen[str], chance: random.Random) -> str:
    """A death of one of the kinds that happen."""
    kind = chance.choice(["process", "process", "group", "stopped first", "asked first", "asked twice"])
    if kind == "stopped first":
        running.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.05, 0.3))  # another process: it must really stand still
    if kind in ("asked first", "asked twice"):
        running.send_signal(signal.SIGTERM)
        time.sleep(chance.uniform(0.0, 0.2))
    if kind == "asked twice":
        running.send_signal(signal.SIGINT)
        time.sleep(chance.uniform(0.0, 0.05))
    if kind == "group":
        os.killpg(running.pid, signal.SIGKILL)
    else:
        running.kill()
    running.communicate()
    return kind


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    """Every row exactly once, no torn file at any moment, paid twice at most what was in flight at the kills."""
    rows = KILLS * ROWS_A_LIFE
    draw_pictures(tmp_path / "p", rows)
    run, chance = tmp_path / "run", random.Random(SEED)
    arguments = ("caption", "p", *MODEL, "-o", "run", "--concurrency", CONCURRENCY, "--rows-per-part", 200)
    settings = EndpointSettings(latency_seconds=0.15, faults=FAULTS, seed=SEED, keeps_ledger=True)
    with serving(settings) as url, reading_all_the_time(run) as seen:
        for _ in range(KILLS):
            running = start(*arguments, base_url=url, cwd=tmp_path)
            time.sleep(chance.uniform(0.0, 2.0))  # any moment: start-up, work, a part, the end
            end_somehow(running, chance)
            if (run / "results/schema.parquet").exists():
                results(run)
                read_with_duckdb(run)
        # stray 429s can hold a run to a low pace for minutes, until they are known for strays
        patience = {"base_url": url, "cwd": tmp_path, "timeout_seconds": 900}
        done = captionmill(*arguments, **patience)
        assert done.returncode in (0, 1), done.stderr
        for _ in range(3):  # what a fault failed for good is asked again
            if done.returncode:
                done = captionmill(*arguments, "--retry-failed", **patience)
        account = stats(url)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(results(run)) == read_with_duckdb(run) == rows
    assert seen == sorted(seen), "rows that were there have gone"
    assert len(pd.read_parquet(run / "failures.parquet")) == 0
    assert account["distinct_requests_answered"] == rows
    assert account["answered_again"] <= KILLS * CONCURRENCY
    print(f"{KILLS} kills, {rows} rows, {account['answered_again']} paid twice")
