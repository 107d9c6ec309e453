"""Runs against servers that refuse, over real sockets: seconds, refusals, CPU. Loopback only.

Only the built-in endpoint so far.
"""

from __future__ import annotations

from pathlib import Path

from .endpoints import builtin, stats
from .measure import run_ours

LINE = "| {:<44} | {:>8} | {:>8} | {:>6} | {:>6} |"
# title, rows, flags of `captionmill serve`, seconds that the server itself needs at least
RUNS = (
    ("20 requests a minute, silent", 50, ("--rpm", "20", "--silent", "--latency", "1"), 90.0),
    ("120 requests a minute, silent", 200, ("--rpm", "120", "--silent", "--latency", "1"), 40.0),
    ("1 % stray 429s", 500, ("--fault", "429=0.01", "--latency", "1"), 4.0),
    ("20 % stray 429s", 200, ("--fault", "429=0.2", "--latency", "0.05"), 1.0),
)


def run(folder: Path, manifest_of: dict[int, Path]) -> None:
    """Print the table. manifest_of: a manifest for each number of rows in RUNS."""
    print("**refusals: the built-in endpoint**\n")
    print(LINE.format("server", "seconds", "bound", "429s", "CPU s"))
    print(LINE.format("---", "---:", "---:", "---:", "---:"))
    for title, rows, flags, bound in RUNS:
        with builtin(*flags) as url:
            cost = run_ours(url, manifest_of[rows], folder)
            refused = stats(url)["by_status"].get("429", 0)
        print(LINE.format(title, f"{cost.wall:.1f}", f"{bound:.0f}", refused, f"{cost.cpu:.1f}"), flush=True)
