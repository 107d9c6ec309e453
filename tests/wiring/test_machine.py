"""A machine that fails under a run: permissions, disks, descriptors, clocks, signals. The real command, the real failure.

Each time: what is wrong, with the path, and what to do; exit 3 where it can go on; nothing lost, nothing torn,
nothing paid for twice beyond what was in flight. What needs root, mounts or a tool is skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.errors import RunError
from captionmill.store.folder import RunFolder
from commands import MODEL, captionmill, command, draw_pictures, environment, results, stats, wait_for_answers

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs /proc, setpriv and mounts as Linux has them"
)
SLOW_ANSWERS = EndpointSettings(latency_seconds=0.2, keeps_ledger=True)
ROWS = 40


def line(*more: object) -> list[str]:
    return command("caption", "p", *MODEL, "-o", "run", "--concurrency", 4, "--rows-per-part", 10, *more)


def begin(arguments: list[str], url: str, folder: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        env=environment(url, **more),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(running: subprocess.Popen[str], code: int) -> str:
    _, said = running.communicate(timeout=60)
    assert running.returncode == code, said
    assert "Traceback" not in said
    return said


def goes_on(folder: Path, url: str, rows: int = ROWS, paid_twice: int = 0, run: str = "run") -> None:
    """The same command does the rest; in the end each row is there once."""
    end(begin([*line(), "-o", run], url, folder), 0)
    assert len(results(folder / run)) == rows
    assert results(folder / run)["id"].is_unique
    assert stats(url)["answered_again"] <= paid_twice


# ------------------------------------------------------------------------------- permissions


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")
def test_a_finished_run_can_be_read_where_nothing_may_be_written(tmp_path):
    """From an archive: status, check and figures; what would write a page says why it cannot."""
    draw_pictures(tmp_path / "p", 3)
    archive = tmp_path / "archive"
    archive.mkdir()
    with serving(EndpointSettings()) as url:
        end(begin(line(), url, tmp_path), 0)
    if subprocess.run(["mount", "-t", "tmpfs", "none", archive], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        shutil.copytree(tmp_path / "run", archive / "run")
        subprocess.run(["mount", "-o", "remount,ro", archive], check=True)
        for arguments in (["status"], ["status", "--check"], ["report", "--csv"]):
            read = captionmill(arguments[0], archive / "run", *arguments[1:])
            assert read.returncode == 0, read.stderr
        written = captionmill("report", archive / "run")
        assert written.returncode == 3
        assert "report.html: cannot be written (Read-only file system)" in written.stderr
    finally:
        subprocess.run(["umount", "-l", archive], check=False)


def as_anybody(arguments: list[str]) -> list[str]:
    """Root minds no permission bits; without these capabilities it does."""
    if os.geteuid() != 0:
        return arguments
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *arguments]


def allow(run: Path, mode: int) -> None:
    for folder in (run, run / "results"):
        folder.chmod(mode)


@pytest.mark.slow
def test_permission_lost_in_the_middle_and_a_folder_that_may_not_be_written(tmp_path):
    """Answers go into the journal that is open; exit 3 with file, reason and advice, then and at the next start."""
    draw_pictures(tmp_path / "p", ROWS)
    with serving(SLOW_ANSWERS) as url:
        running = begin(as_anybody(line()), url, tmp_path)
        wait_for_answers(url, 14)
        allow(tmp_path / "run", 0o500)
        said = end(running, 3)
        assert "run/results/part-0000" in said
        assert "cannot be written (Permission denied)\n  give this user the right to write into run\n" in said
        again = end(begin(as_anybody(line()), url, tmp_path), 3)
        assert "run/run.json: cannot be written (Permission denied)\n  give this user the right" in again
        allow(tmp_path / "run", 0o700)
        goes_on(tmp_path, url)
    (tmp_path / "closed").mkdir(0o500)
    new = end(begin(as_anybody([*line(), "-o", "closed/run"]), url, tmp_path), 2)
    assert "closed/run: cannot be used as a run folder (Permission denied)" in new


# ------------------------------------------------------------------------------- full disks


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A small file system of its own, mounted there."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no mounts here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def grow(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_part_is_written(tmp_path):
    """The journal keeps the answers; exit 3, no half part is left; with room the parts are written, nothing is sent."""
    draw_pictures(tmp_path / "p", ROWS)
    parts = tmp_path / "run/results"
    with serving(SLOW_ANSWERS) as url, disk(parts, "20k"):
        said = end(begin(line(), url, tmp_path), 3)
        assert (
            "run/results/part-00000.parquet: cannot be written (No space left on device)\n  make room" in said
        )
        assert [p.name for p in parts.iterdir()] == ["schema.parquet"]
        assert captionmill("status", "--check", "run", cwd=tmp_path).returncode == 0
        grow(parts, "4m")
        goes_on(tmp_path, url)
        assert stats(url)["answers"] == ROWS


def test_a_disk_that_is_full_when_run_json_is_written(tmp_path):
    """The old one stays whole, no half of the new one is left, and the message names the file."""
    with disk(tmp_path / "disk", "64k"):
        run = RunFolder(tmp_path / "disk/run")
        run.lock()
        run.write_run({"source": "/p", "rows": 1, "answer_settings": {}})
        before = run.run_json.read_bytes()
        with pytest.raises(
            RunError, match=r"run\.json: cannot be written \(No space left on device\)"
        ) as caught:
            run.write_run({"source": "/p", "rows": 1, "answer_settings": {"prompt": "x" * 100_000}})
        assert caught.value.kind == "disk"
        assert run.run_json.read_bytes() == before
        assert json.loads(before)["rows"] == 1
        assert not list(run.path.glob("*.tmp"))
        run.unlock()


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start(tmp_path):
    """Exit 3 before anything is sent; with room the run goes on."""
    draw_pictures(tmp_path / "p", ROWS)
    with serving(EndpointSettings(keeps_ledger=True)) as url, disk(tmp_path / "disk", "4m"):
        end(begin([*line("--limit", 10), "-o", "disk/run"], url, tmp_path), 0)
        with contextlib.suppress(OSError), (tmp_path / "disk/filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        said = end(begin([*line(), "-o", "disk/run"], url, tmp_path), 3)
        assert "disk/run/" in said
        assert "make room on the disk" in said
        assert stats(url)["answers"] == 10
        (tmp_path / "disk/filler").unlink()
        goes_on(tmp_path, url, run="disk/run")


# ------------------------------------------------------------------------------- descriptors


@pytest.mark.slow
def test_out_of_open_files_in_the_middle(tmp_path):
    """No row fails for it: exit 3 with what to do, and the same command goes on."""
    draw_pictures(tmp_path / "p", ROWS)
    with serving(SLOW_ANSWERS) as url:
        running = begin(line(), url, tmp_path)
        wait_for_answers(url, 8)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (5, 5))
        said = end(running, 3)
        assert "(Too many open files)" in said
        assert "raise the limit (ulimit -n)" in said
        assert "failed:" not in said
        goes_on(tmp_path, url, paid_twice=4)


# ------------------------------------------------------------------------------- clocks


@pytest.mark.slow
def test_a_process_that_stands_still_goes_on(tmp_path):
    """Stopped for some seconds and woken, as by Ctrl-Z or a suspend: nothing is lost, nothing paid for twice."""
    draw_pictures(tmp_path / "p", ROWS)
    with serving(SLOW_ANSWERS) as url:
        running = begin(line(), url, tmp_path)
        wait_for_answers(url, 12)
        running.send_signal(signal.SIGSTOP)
        time.sleep(2.0)  # another process, which must really stand still
        running.send_signal(signal.SIGCONT)
        end(running, 0)
        goes_on(tmp_path, url)


FAKETIME = next((str(p) for p in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), "")


@pytest.mark.slow
@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime (a package of that name)")
def test_a_wall_clock_that_jumps(tmp_path):
    """Three days on, then a month back: no pause, timeout or limit minds, and the summary tells the true seconds."""
    draw_pictures(tmp_path / "p", ROWS)
    wall = tmp_path / "wall"
    wall.write_text("+0s")
    fake = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(wall), "FAKETIME_NO_CACHE": "1"}
    with serving(SLOW_ANSWERS) as url:
        arguments = line("--tpm", 600_000, "--timeout", 20)
        running = begin(arguments, url, tmp_path, FAKETIME_DONT_FAKE_MONOTONIC="1", **fake)
        wait_for_answers(url, 8)
        wall.write_text("+3d")
        wait_for_answers(url, 20)
        wall.write_text("-30d")
        said = end(running, 0)
        seconds = float(said.split(" rows in ")[1].split(" s ")[0].replace(",", ""))
        assert 1 < seconds < 60
        goes_on(tmp_path, url)
        assert stats(url)["answers"] == ROWS
    table = results(tmp_path / "run")
    assert (table["finished_at"].max() - table["started_at"].min()).days >= 32, "the clock did not jump"
    assert (table["latency_s"] < 20).all()


# ------------------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start(tmp_path, number):
    """From Python's first lines of ours on: exit 130, one line, no traceback, and the same command goes on."""
    draw_pictures(tmp_path / "p", 400)
    with serving(SLOW_ANSWERS) as url:
        for twentieth in range(3, 20):
            running = begin(line(), url, tmp_path)
            time.sleep(twentieth / 20)  # another process: the moment is what is tested
            running.send_signal(number)
            assert "interrupted" in end(running, 130)
        goes_on(tmp_path, url, rows=400)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2, 3])
def test_signals_while_the_last_part_is_written(tmp_path, signals):
    """Sent once, twice, three times after the last answer: the dataset is whole, or the next start makes it so."""
    draw_pictures(tmp_path / "p", 400)
    with serving(EndpointSettings(keeps_ledger=True)) as url:
        for attempt in range(8):
            run = f"run{attempt}"
            arguments = command("caption", "p", *MODEL, "-o", run, "--concurrency", 64)
            running = begin(arguments, url, tmp_path)
            wait_for_answers(url, 400 * (attempt + 1))
            time.sleep(attempt * 0.01)
            for _ in range(signals):
                running.send_signal(signal.SIGTERM)
                time.sleep(0.005)
            _, said = running.communicate(timeout=30)
            assert running.returncode in (0, 130, -signal.SIGTERM), said
            assert "Traceback" not in said
            if running.returncode == 0:
                assert len(results(tmp_path / run)) == 400
            end(begin(arguments, url, tmp_path), 0)
            assert len(results(tmp_path / run)) == 400
