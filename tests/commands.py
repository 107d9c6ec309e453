"""Runs the real command in a process of its own, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
KEY = "sk-marker-5d1c9e7a"


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
