"""Runs the real command in a process of its own, as a user would, and reads what it left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from captionmill.store.folder import RunFolder
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
KEY = "sk-marker-5d1c9e7a"
MODEL = ("--model", "gpt-4o")


def environment(base_url: str | None = None, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
    url = {"OPENAI_BASE_URL": base_url} if base_url else {}
    return clean | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY} | url | more


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "captionmill", *map(str, arguments)]


def captionmill(
    *arguments: object,
    base_url: str | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 120,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run to the end; exit code and output are for the test to judge."""
    return subprocess.run(
        command(*arguments),
        env=environment(base_url, **more),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def start(*arguments: object, base_url: str | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        env=environment(base_url),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def draw_pictures(folder: Path, count: int) -> Path:
    """Small pictures, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = Image.new("RGB", (64, 48), (number % 256, number // 256, 90))
        ImageDraw.Draw(image).text((4, 4), str(number), fill="white")
        image.save(folder / f"{number}.png")
    return folder


def peak_megabytes(*arguments: object) -> tuple[float, str]:
    """The most memory that a command held, and what it printed; it must end well.

    Linux's own figure: getrusage would count what this process held when it was forked.
    """
    script = (
        "import sys; from captionmill.jobs.__main__ import main; code = main(sys.argv[1:]); "
        "peak = next(l for l in open('/proc/self/status') if l.startswith('VmHWM')); print(peak, file=sys.stderr); sys.exit(code)"
    )
    line = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-2]) / 1024, done.stdout


def results(run: Path) -> pd.DataFrame:
    """The dataset of a run; no id is there twice."""
    table = pd.read_parquet(run / "results")
    assert table["id"].is_unique
    return table


def stats(base_url: str) -> dict:
    """What the built-in endpoint says that it did."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats", timeout=10) as response:
        return json.load(response)


def wait_for_answers(base_url: str, count: int, seconds: float = 60) -> None:
    """Until the server has answered so many requests."""
    deadline = time.monotonic() + seconds
    while stats(base_url)["answers"] < count:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)  # another process: there is no clock of ours to move


def wait_for_live(run: Path, is_so: Callable[[dict], bool], seconds: float = 60) -> None:
    """Until the run has written, of its only endpoint, that it is so."""
    deadline = time.monotonic() + seconds
    while not (state := RunFolder(run).read_live()) or not is_so(state["endpoints"][0]):
        assert time.monotonic() < deadline, "the run does not say so"
        time.sleep(0.02)  # another process, as above
