"""Prints a plan, as text or JSON, for `plan` and `caption --dry-run`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from captionmill.accounts.plan import Options, Plan, Range, Variant, cost, make_plan, seconds_at_the_limits
from captionmill.accounts.spent import spent_before
from captionmill.nouns.config import RunConfig
from captionmill.nouns.money import money
from captionmill.nouns.rows import Spending
from captionmill.rules.prices import PriceBook
from captionmill.store.folder import RunFolder
from tqdm import tqdm

from .arguments import read_retry_failed, read_settings, read_source
from .output import TERMINAL
from .table import as_lines

_MOST_CHEAPER = 4


def show(
    arguments: Namespace, *, compare: Sequence[str] = (), sample: int | None = None, is_json: bool = False
) -> None:
    """Make the plan for a start with these arguments, and print it.

    compare: further models to estimate. sample: rows whose images are read; None for all. is_json: print JSON and
    no progress. Raises UsageError for everything that a start would refuse.
    """
    retry_failed = read_retry_failed(arguments)
    config = read_settings(arguments)
    source, run_path = read_source(arguments)
    options = Options(tuple(compare), sample, retry_failed, arguments.moved)
    with tqdm(unit="row", disable=is_json or not sys.stderr.isatty(), leave=False, dynamic_ncols=True) as bar:
        plan = make_plan(source, run_path, config, options, _View(bar, is_json))
    prices = PriceBook(config.prices)
    if is_json:
        print(json.dumps(_as_json(plan, config, prices), indent=2))
        return
    spent = Spending(usd=Decimal(0))
    if plan.is_resumed and config.has_budget:
        spent = spent_before(RunFolder(run_path), prices, {})
    print(as_text(plan, config, prices, spent))


class _View:
    """A console with a bar; a plan as JSON prints no lines beside it."""

    def __init__(self, bar: tqdm[Any], is_json: bool) -> None:
        self._bar, self._is_json = bar, is_json

    def tell(self, text: str) -> None:
        if not self._is_json:
            TERMINAL.tell(text)

    def advance(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)


# ------------------------------------------------------------------------------- text


def as_text(plan: Plan, config: RunConfig, prices: PriceBook, spent: Spending) -> str:
    """The plan as lines for a terminal. spent: what the run has spent before this start."""
    lines = [_rows(plan), *_unreadable(plan), "", *_tokens(plan), ""]
    base = plan.variants[0]
    lines.append(_cost_line(plan, cost(plan, base, prices), config, prices))
    lines += [*_budgets(plan, config, prices, spent), *_time(plan, config)]
    lines.append(f"upload          about {_size(plan.upload_bytes * plan.tokens_scale)}")
    others = _others(plan, prices)
    if len(others) > 1:
        lines += ["", *as_lines(others)]
    lines += ["", *(f"note            {note}" for note in plan.notes)] if plan.notes else []
    lines += ["", f"estimated from: {_how(plan)}"]
    return "\n".join(lines)


def _rows(plan: Plan) -> str:
    text = f"{plan.rows:,} rows: {plan.to_ask:,} to ask"
    if plan.finished:
        text += f", {plan.finished:,} answered before"
    if plan.unreadable:
        unreadable = round(sum(plan.unreadable.values()) * plan.scale)
        text += f", {unreadable:,} with an unreadable image"
    if plan.looked_at < plan.left:
        text += f" (estimated from {plan.looked_at:,} of {plan.left:,} rows)"
    return text


def _unreadable(plan: Plan) -> list[str]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in plan.unreadable.most_common())
    return [f"  {kinds}"] * bool(kinds) + [f"  {example}" for example in plan.examples]


def _tokens(plan: Plan) -> list[str]:
    base = plan.variants[0]
    prompt, answers = plan.prompt(), plan.answers
    pictures = base.picture_tokens * plan.tokens_scale * plan.known.ratio
    each = max(1, plan.to_ask)
    return as_lines(
        [
            ("tokens", "low", "likely", "high", "per row (likely)"),
            ("in", *_figures(prompt), f"{prompt.likely / each:,.0f}"),
            ("  of which images", "", f"{pictures:,.0f}", "", f"{pictures / each:,.0f}"),
            ("out", *_figures(answers), f"{answers.likely / each:,.0f}"),
            ("total", *_figures(prompt + answers), f"{(prompt.likely + answers.likely) / each:,.0f}"),
        ]
    )


def _figures(tokens: Range) -> tuple[str, str, str]:
    return f"{tokens.low:,.0f}", f"{tokens.likely:,.0f}", f"{tokens.high:,.0f}"


def _cost_line(
    plan: Plan, found: tuple[Decimal, Decimal, Decimal] | None, config: RunConfig, prices: PriceBook
) -> str:
    if not plan.is_known:
        return "cost            unknown: no image could be read"
    if found is None:
        return f"cost            no price is known for {config.model}; set one in [prices]"
    low, likely, high = (money(amount, prices.currency) for amount in found)
    return f"cost            {low} low, {likely} likely, {high} high"


def _budgets(plan: Plan, config: RunConfig, prices: PriceBook, spent: Spending) -> list[str]:
    """The budgets that would stop the run before its end, by the likely cost."""
    found = cost(plan, plan.variants[0], prices)
    tokens = plan.prompt().likely + plan.answers.likely
    usd = money(spent.usd or Decimal(0), prices.currency)
    bounds = (
        ("--budget-usd", config.budget_usd, (spent.usd or 0) + found[1] if found else None, usd),
        ("--budget-tokens", config.budget_tokens, spent.tokens + tokens, f"{spent.tokens:,}"),
        ("--budget-requests", config.budget_requests, spent.requests + plan.to_ask, f"{spent.requests:,}"),
    )
    return [
        f"budget          {name} {bound:,} would stop the run before its end; {so_far} spent so far"
        for name, bound, then, so_far in bounds
        if bound is not None and then is not None and then > bound
    ]


def _time(plan: Plan, config: RunConfig) -> list[str]:
    bounds = seconds_at_the_limits(plan, config)
    if not bounds:
        return ["time            give --tpm to see the time at your limit"]
    name, seconds = max(bounds.items(), key=lambda item: item[1])
    text = f"time            {_duration(seconds)} at {name}"
    up_front = max(seconds_at_the_limits(plan, config.model_copy(update={"charge": "reserved"})).values())
    if config.charge == "auto" and _duration(up_front) != _duration(seconds):
        text += f"; {_duration(up_front)} if the endpoint counts --max-tokens in advance"
    return [text]


def _others(plan: Plan, prices: PriceBook) -> list[tuple[str, ...]]:
    """A table of cheaper alternatives, then of the models from --compare."""
    base = plan.variants[0]
    base_cost, base_tokens = cost(plan, base, prices), plan.prompt(base).likely
    cheaper = [
        v for v in plan.variants[1:] if not v.is_asked_for and plan.prompt(v).likely < 0.99 * base_tokens
    ]
    cheaper.sort(key=lambda v: plan.prompt(v).likely)
    rows: list[tuple[str, ...]] = [("the same rows with", "tokens in", "likely cost", "vs. this")]
    for variant in [base, *cheaper[:_MOST_CHEAPER], *(v for v in plan.variants[1:] if v.is_asked_for)]:
        found, tokens = cost(plan, variant, prices), plan.prompt(variant).likely
        share = "" if variant is base else _share(found, base_cost, tokens, base_tokens)
        amount = "no price" if found is None else money(found[1], prices.currency)
        rows.append((variant.name, f"{tokens:,.0f}", amount, share))
    return rows


def _share(
    found: tuple[Decimal, Decimal, Decimal] | None,
    base: tuple[Decimal, Decimal, Decimal] | None,
    tokens: float,
    base_tokens: float,
) -> str:
    """The difference to the base in percent: of the cost, or of the tokens if there is no price."""
    if found is not None and base is not None and base[1]:
        return f"{100 * (found[1] / base[1] - 1):+.0f} %"
    return f"{100 * (tokens / base_tokens - 1):+.0f} % tokens" if base_tokens else ""


def _how(plan: Plan) -> str:
    known = plan.known
    if not known.answers:
        return "images by the formula of the model family, answers by --max-tokens; --calibrate 20 measures both on 20 rows"
    return (
        f"{known.answers:,} answers of this run: {known.ratio:.3f} reported tokens per token of the formula,"
        f" {known.answer.likely:,.0f} tokens per answer"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (rest, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


# ------------------------------------------------------------------------------- for programs


def _as_json(plan: Plan, config: RunConfig, prices: PriceBook) -> dict[str, Any]:
    return {
        "rows": plan.rows,
        "answered_before": plan.finished,
        "failed_before": plan.failed_before,
        "to_ask": plan.to_ask,
        "looked_at": plan.looked_at,
        "pictures": round(plan.pictures * plan.scale),
        "unreadable": plan.unreadable,
        "by_url": plan.remote,
        "text_tokens": round(plan.text_tokens * plan.tokens_scale * plan.known.ratio),
        "prompt_tokens": _range(plan.prompt()),
        "completion_tokens": _range(plan.answers),
        "currency": prices.currency,
        "cost": _amounts(cost(plan, plan.variants[0], prices)),
        "seconds_at_the_limits": seconds_at_the_limits(plan, config),
        "upload_bytes": round(plan.upload_bytes * plan.tokens_scale),
        "calibrated_by_answers": plan.known.answers,
        "variants": [_variant(plan, variant, prices) for variant in plan.variants],
        "notes": plan.notes,
    }


def _variant(plan: Plan, variant: Variant, prices: PriceBook) -> dict[str, Any]:
    return {
        "name": variant.name,
        "picture_tokens": round(variant.picture_tokens * plan.tokens_scale * plan.known.ratio),
        "prompt_tokens": round(plan.prompt(variant).likely),
        "cost": _amounts(cost(plan, variant, prices)),
    }


def _range(tokens: Range) -> dict[str, int]:
    return {"low": round(tokens.low), "likely": round(tokens.likely), "high": round(tokens.high)}


def _amounts(found: tuple[Decimal, Decimal, Decimal] | None) -> dict[str, str] | None:
    return (
        None
        if found is None
        else dict(zip(("low", "likely", "high"), (f"{a:f}" for a in found), strict=True))
    )
