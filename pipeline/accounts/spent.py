"""What a run has spent so far, over all its starts: where a budget begins."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from ..edges.folder import RunFolder
from ..edges.journal import Journal
from ..nouns.config import RunConfig
from ..nouns.errors import UsageError
from ..nouns.rows import Spending, Usage
from ..rules.budget import Budget
from ..rules.prices import PriceBook
from . import dataset

_GROUP = ("model", "model_requested")
_COUNTS = ("prompt_tokens", "completion_tokens", "estimated_tokens")
_COLUMNS = (*_GROUP, *_COUNTS, "total_tokens", "cost_usd")


def open_budget(
    folder: RunFolder, config: RunConfig, prices: PriceBook, tell: Callable[[str], None]
) -> Budget:
    """The budget of a start, with what earlier starts have spent.

    Raises UsageError where a budget in money cannot be kept, since some price is not known.
    """
    if config.budget_usd is not None:
        _check_prices(config, prices)
    spent = spent_before(folder, prices)
    if config.budget_usd is not None and spent.usd is None and spent.requests:
        raise UsageError(
            f"--budget-usd: {folder.path} holds answers for which no price is known; give them one in [prices]"
        )
    if not config.has_longest_answer:
        tell(
            f"without --max-tokens {config.most_answer_tokens:,} tokens of the budget are held back for each answer"
            " that is out"
        )
    return Budget(config.budget_usd, config.budget_tokens, config.budget_requests, spent, prices.currency)


def _check_prices(config: RunConfig, prices: PriceBook) -> None:
    models = [(entry.model or config.model, entry.price) for entry in config.endpoints()]
    unpriced = [model for model, own in models if prices.rates((model,), own) is None]
    if unpriced:
        raise UsageError(
            f"--budget-usd: no price is known for {', '.join(dict.fromkeys(unpriced))}, so nobody could say when it"
            f' is spent. Give one in the TOML ([prices."{unpriced[0]}"] input = ..., output = ..., per million'
            " tokens), or hold the run by --budget-tokens"
        )


def spent_before(folder: RunFolder, prices: PriceBook) -> Spending:
    """Answers at what they cost when they came, or at today's price where they had none; an answer that came
    without usage at what was reserved for it; attempts without an answer at the most that they may have cost.

    usd: None where some of it has no price today either.
    """
    journal = Journal(folder.journal)
    try:
        spent = sum(journal.unanswered().values(), Spending())
        is_priced = True
        for _, table in dataset.answered(folder, journal, _COLUMNS):
            usd, is_whole = _money(table, prices)
            is_priced = is_priced and is_whole
            tokens = pc.sum(pc.coalesce(table["total_tokens"], table["estimated_tokens"])).as_py() or 0
            spent += Spending(table.num_rows, tokens, usd)
    finally:
        journal.close()
    return spent if is_priced else Spending(spent.requests, spent.tokens, None)


def _money(table: pa.Table, prices: PriceBook) -> tuple[Decimal, bool]:
    """Of one table, and whether all of it has a price."""
    usd, is_priced = pc.sum(table["cost_usd"]).as_py() or Decimal(0), True
    without = table.filter(pc.is_null(table["cost_usd"]))
    groups = without.group_by([*_GROUP]).aggregate([(name, "sum") for name in _COUNTS])
    for group in groups.to_pylist():
        rates = prices.rates((group["model"], group["model_requested"]))
        if rates is None:
            is_priced = False
        elif group["prompt_tokens_sum"] is None:
            usd += rates.most(0, group["estimated_tokens_sum"] or 0)
        else:
            usd += rates.cost(Usage(group["prompt_tokens_sum"], group["completion_tokens_sum"]))
    return usd, is_priced
