"""A long run with faults: what it holds does not grow with what it has done.

SOAK_ROWS=200000 python -m pytest -s -m slow tests/torture/test_soak.py
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from captionmill.builtin.server import EndpointSettings, serving
from commands import MODEL, draw_pictures, results, start, stats

ROWS = int(os.environ.get("SOAK_ROWS", "20000"))
FAULTS = {"500": 0.01, "429": 0.002, "reset": 0.005, "truncate": 0.002}


def held(pid: int) -> tuple[float, int, int]:
    """Resident megabytes, open files, threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_sockets_and_threads_do_not_grow(tmp_path):
    """The last quarter of the run holds what the second did, within 5 %."""
    draw_pictures(tmp_path / "p", 200)
    (tmp_path / "m.csv").write_text("id,image\n" + "".join(f"{n},p/{n % 200}.png\n" for n in range(ROWS)))
    seen: list[tuple[int, float, int, int]] = []
    with serving(EndpointSettings(faults=FAULTS, seed=3)) as url:
        running = start(
            "caption", "m.csv", *MODEL, "-o", "run", "--concurrency", 32, base_url=url, cwd=tmp_path
        )
        while running.poll() is None:
            answers = stats(url)["answers"]
            try:
                seen.append((answers, *held(running.pid)))
            except (OSError, KeyError):  # it has just ended
                break
            time.sleep(0.2)  # another process
        output, _ = running.communicate()
        answers = stats(url)["answers"]
    assert running.returncode == 0, output
    assert len(results(tmp_path / "run")) == ROWS
    assert answers <= 1.01 * ROWS  # those that were cut on the way were asked for again
    for tenth in range(10):
        at = next((s for s in seen if s[0] >= ROWS * tenth / 10), seen[-1])
        print(f"{at[0]:>9,} answers: {at[1]:.0f} MB, {at[2]} files, {at[3]} threads")
    second = [s for s in seen if ROWS / 4 <= s[0] < ROWS / 2]
    last = [s for s in seen if s[0] >= ROWS * 3 / 4]
    assert len(second) > 5 and len(last) > 5
    for name, column, tolerance in (("MB", 1, 1.05), ("files", 2, 1.25), ("threads", 3, 1.25)):
        before, after = (sorted(s[column] for s in quarter)[len(quarter) // 2] for quarter in (second, last))
        print(f"{name}: {before:.0f} in the second quarter, {after:.0f} in the last")
        assert after <= tolerance * before + (0 if name == "MB" else 4), name
