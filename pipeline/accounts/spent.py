"""What a run has spent so far, over all its starts: where a budget begins."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from ..edges.folder import RunFolder
from ..edges.journal import Journal
from ..nouns.rows import Spending, Usage
from ..rules.prices import PriceBook
from . import dataset

_GROUP = ("model", "model_requested")
_COUNTS = ("prompt_tokens", "completion_tokens", "estimated_tokens")
_COLUMNS = (*_GROUP, *_COUNTS, "total_tokens", "cost_usd")


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
