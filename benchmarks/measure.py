"""One client, run to its end: seconds, CPU of the process and its threads, memory, the loop's lag."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LAG = re.compile(r"event loop at most (\d+) ms late")


@dataclass(frozen=True, slots=True)
class Cost:
    """wall, cpu: seconds. memory: largest resident set in MB. lag: of the event loop, in ms; -1: not said."""

    wall: float
    cpu: float
    memory: float
    lag: int


def run_floor(base_url: str, manifest: Path, concurrency: int, folder: Path, **env: str) -> Cost:
    """The minimal client. Raises SystemExit where it fails."""
    out = folder / "floor.jsonl"
    command = [sys.executable, "-m", "benchmarks.floor", base_url, manifest, str(concurrency), out]
    return _run([str(part) for part in command], folder / "floor.log", env, out)


def run_ours(base_url: str, manifest: Path, folder: Path, *flags: str, **env: str) -> Cost:
    """captionmill with these flags, on a fresh run folder. Raises SystemExit where it fails."""
    run, log = folder / "run", folder / "debug.log"
    log.unlink(missing_ok=True)
    subprocess.run(["rm", "-rf", run], check=True)
    command = [sys.executable, "-m", "captionmill", "caption", manifest, "-o", run, "--base-url", base_url,
               "--model", "gpt-4o", "--max-tokens", "100", "--debug-log", log, *flags]  # fmt: skip
    return _run([str(part) for part in command], folder / "ours.log", env, log)


def _run(command: list[str], output: Path, env: dict[str, str], log: Path) -> Cost:
    started = time.monotonic()
    with output.open("wb") as file:
        client = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"OPENAI_API_KEY": "benchmark"} | env
        )
        _, status, usage = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - started
    if client.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)}\nended with {client.returncode}:\n{output.read_text()[-2000:]}"
        )
    texts = [path.read_text(errors="replace") for path in (output, log) if path.suffix == ".log"]
    lags = [int(lag) for text in texts for lag in _LAG.findall(text)]
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, usage.ru_maxrss / 1024, lags[-1] if lags else -1)
