"""The progress of a run: a bar on a terminal, otherwise a line every 30 seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from captionmill.nouns.money import money
from captionmill.wiring.live import EndpointState
from captionmill.wiring.session import Session

if TYPE_CHECKING:
    from tqdm import tqdm

BAR_SECONDS = 0.25
LINE_SECONDS = 30.0


async def show(session: Session) -> None:
    """Show the progress until cancelled."""
    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(LINE_SECONDS)
            print(line(session), file=sys.stderr, flush=True)
    from tqdm import tqdm

    with tqdm(total=session.tally.total, unit="row", dynamic_ncols=True, smoothing=0.05) as bar:
        try:
            while True:
                _update(bar, session)
                await asyncio.sleep(BAR_SECONDS)
        finally:
            _update(bar, session)


def _update(bar: tqdm[Any], session: Session) -> None:
    tally = session.tally
    if bar.initial != tally.done_before:  # rows of an earlier start do not count for the speed
        bar.initial = tally.done_before
    bar.n = tally.done_before + tally.answered + tally.failed
    bar.set_postfix_str(_facts(session), refresh=True)


def line(session: Session) -> str:
    """The progress in one line, for logs."""
    tally = session.tally
    done = tally.done_before + tally.answered + tally.failed
    minutes = session.seconds / 60
    rate = (tally.answered + tally.failed) / minutes if minutes else 0.0
    left = (tally.total - done) / rate if rate else None
    eta = "" if left is None else f", {left:,.0f} min left"
    clock = time.strftime("%H:%M:%S")
    return f"{clock} {done:,}/{tally.total:,} rows, {rate:,.0f} rows/min{eta}, {_facts(session)}"


def _facts(session: Session) -> str:
    tally, states = session.tally, session.endpoint_states()
    working = [s for s in states if s.disabled is None]
    facts = [_tokens(working), *money_facts(session)]
    facts.append(f"{session.in_flight}/{sum(s.most_in_flight for s in working)} in flight")
    if session.trouble is not None:
        facts.insert(0, f"CANNOT SAVE: {session.trouble}")
    if tally.retries:
        facts.append(f"{tally.retries} retries")
    if tally.failed:
        facts.append(f"{tally.failed} failed")
    if tally.empty:
        facts.append(f"{tally.empty} empty")
    if working and (seconds := min(s.paused_seconds for s in working)) > 0:
        facts.append(f"paused {seconds:.0f} s")
    if refusal := next((s.refusal for s in working if s.refusal), None):
        facts.append("".join(c if c.isprintable() else " " for c in refusal[:120]))
    facts += [s.limited_by for s in working if s.limited_by is not None][:1]
    if len(working) < len(states):
        facts.append(f"{len(states) - len(working)} of {len(states)} endpoints disabled")
    if any(s.usage_finding for s in states):
        facts.append("usage looks wrong")
    return ", ".join(filter(None, facts))


def money_facts(session: Session, places: int = 4) -> list[str]:
    """Cost of this start's answers, likely cost of the remaining rows, and what is left of each budget.

    With the budget also the money that all starts have spent, if that is more: it includes attempts without an
    answer. places: decimals of the amounts spent.
    """
    spent, rest, budget = session.tally.cost_usd, session.cost_of_the_rest, session.budget
    facts = [] if spent is None else [f"{money(spent, session.currency, places)} spent"]
    if rest:
        facts.append(f"~{money(rest, session.currency)} to come")
    if budget is None:
        return facts
    in_all = budget.spent.usd or Decimal(0)
    of_all = (
        f" ({money(in_all, session.currency, places)} spent over all starts)" if in_all > (spent or 0) else ""
    )
    if budget.usd_left is not None:
        facts.append(f"{money(budget.usd_left, session.currency)} of the budget left{of_all}")
    if budget.tokens is not None:
        facts.append(
            f"{budget.tokens - budget.spent.tokens - budget.held_back.tokens:,} tokens of the budget left"
        )
    if budget.requests is not None:
        facts.append(f"{budget.requests - budget.spent.requests:,} requests of the budget left")
    return facts


def _tokens(states: list[EndpointState]) -> str:
    """Tokens of the last minute and the limits, summed over the endpoints; empty if none has a limit."""
    used = sum(s.tokens_last_minute or 0 for s in states)
    limit = sum(s.tokens_per_minute or 0 for s in states)
    return f"{used:,.0f}/{limit:,.0f} tok/min" if limit else ""
