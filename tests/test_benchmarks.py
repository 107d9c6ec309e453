"""The benchmarks run and say what they measured."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from commands import ROOT, environment


@pytest.mark.slow
def test_the_benchmarks_run():
    """Each scenario prints its table with figures of both clients; an endpoint that lost a row would end it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rows", "60", "--repeat", "1"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for title in ("overhead: 60 rows", "latency: 60 rows", "limit: 60 rows"):
        assert title in done.stdout
    rows = re.findall(r"^\| (minimal client|captionmill) +\| +([\d.]+) \| +([\d,]+) \|", done.stdout, re.M)
    assert len(rows) >= 4
    assert all(float(wall) > 0 for _, wall, _ in rows)
    shares = re.findall(r"^\| .*\| +([\d.]+) % \|", done.stdout, re.M)
    assert len(shares) == 5
