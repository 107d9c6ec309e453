"""What a person sees of a run that is going on: a bar on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from tqdm import tqdm

from pipeline.mill import Mill

BAR_SECONDS = 0.25
LINE_SECONDS = 30.0


async def show(mill: Mill) -> None:
    """Until cancelled."""
    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(LINE_SECONDS)
            print(line(mill), file=sys.stderr, flush=True)
    with tqdm(total=mill.tally.total, unit="row", dynamic_ncols=True, smoothing=0.05) as bar:
        try:
            while True:
                _update(bar, mill)
                await asyncio.sleep(BAR_SECONDS)
        finally:
            _update(bar, mill)


def _update(bar: tqdm[Any], mill: Mill) -> None:
    tally = mill.tally
    if bar.initial != tally.done_before:  # rows of an earlier start are no speed of this one
        bar.initial = tally.done_before
    bar.n = tally.done_before + tally.answered + tally.failed
    bar.set_postfix_str(_facts(mill), refresh=True)


def line(mill: Mill) -> str:
    """The state in one line, for logs."""
    tally = mill.tally
    done = tally.done_before + tally.answered + tally.failed
    minutes = mill.seconds / 60
    rate = (tally.answered + tally.failed) / minutes if minutes else 0.0
    left = (tally.total - done) / rate if rate else None
    eta = "" if left is None else f", {left:,.0f} min left"
    clock = time.strftime("%H:%M:%S")
    return f"{clock} {done:,}/{tally.total:,} rows, {rate:,.0f} rows/min{eta}, {_facts(mill)}"


def _facts(mill: Mill) -> str:
    tally, limiter = mill.tally, mill.limiter
    facts = []
    used = limiter.used_last_minute()
    if used is not None and limiter.tokens is not None:
        facts.append(f"{used:,.0f}/{limiter.tokens.limit_per_minute:,.0f} tok/min")
    if tally.cost_usd is not None:
        facts.append(f"${tally.cost_usd:.4f}")
    facts.append(f"{mill.in_flight}/{mill.most_in_flight_now} out")
    if tally.retries:
        facts.append(f"{tally.retries} retries")
    if tally.failed:
        facts.append(f"{tally.failed} failed")
    if (paused := limiter.closed_seconds) > 0:
        facts.append(f"paused {paused:.0f} s")
    return ", ".join(facts)
