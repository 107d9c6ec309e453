"""--deadline: the run ends by the clock on the wall, with everything saved."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
import virtual_time
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.wiring import deadline
from captionmill.wiring.deadline import ends_at
from commands import MODEL, captionmill, draw_pictures, results, stats

NOW = datetime(2026, 11, 23, 22, 30)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("8h", datetime(2026, 11, 24, 6, 30)),
        ("1h30m", datetime(2026, 11, 24, 0, 0)),
        ("90s", datetime(2026, 11, 23, 22, 31, 30)),
        ("23:00", datetime(2026, 11, 23, 23, 0)),
        ("7:00", datetime(2026, 11, 24, 7, 0)),
        ("22:30", datetime(2026, 11, 24, 22, 30)),
    ],
)
def test_what_a_deadline_means(text, end):
    """A length from the start, or the next time of day."""
    assert ends_at(text, NOW) == end


class Stopped:
    """A runner that keeps why it was stopped."""

    def __init__(self) -> None:
        self.errors = []

    def stop(self, error=None) -> None:
        self.errors.append(error)


def test_it_goes_by_the_wall_also_over_a_sleep(monkeypatch):
    """The machine sleeps four hours while the loop's clock stands still: the run ends soon after it wakes."""

    async def run() -> float:
        loop, stopped = asyncio.get_running_loop(), Stopped()
        asleep = [0.0]
        clock = lambda: NOW + timedelta(seconds=loop.time() + asleep[0])  # noqa: E731
        loop.call_later(600, lambda: asleep.__setitem__(0, 4 * 3600.0))
        started = loop.time()
        monkeypatch.setattr(deadline, "now", clock)
        await deadline.watch_deadline("4h", stopped)
        assert [error.kind for error in stopped.errors] == ["deadline"]
        return loop.time() - started

    assert 600 <= virtual_time.run(run()) <= 620


def test_a_run_stops_at_it_and_goes_on(tmp_path):
    """Exit 3, no answer lost or paid twice; without it the rest is done."""
    draw_pictures(tmp_path / "p", 40)
    with serving(EndpointSettings(latency_seconds=0.2)) as url:
        arguments = ("caption", "p", *MODEL, "-o", "run", "--concurrency", 4)
        done = captionmill(*arguments, "--deadline", "1s", base_url=url, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "stopped: the deadline (1s) is reached" in done.stderr
        assert 0 < len(results(tmp_path / "run")) == stats(url)["answers"] < 40
        assert captionmill(*arguments, base_url=url, cwd=tmp_path).returncode == 0
        assert stats(url)["answers"] == 40


@pytest.mark.parametrize("text", ["soon", "", "0h", "25:00", "8"])
def test_what_is_no_deadline(tmp_path, text):
    done = captionmill(
        "caption", ".", *MODEL, "--deadline", text, base_url="http://127.0.0.1:9", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "--deadline: a length like 8h" in done.stderr
