"""What a run has spent so far, over all its starts: where a budget begins."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.console import Console
from ..nouns.errors import UsageError
from ..nouns.rows import Spending
from ..rules.budget import Budget
from ..rules.prices import PriceBook
from ..store.folder import RunFolder
from ..store.journal import Journal
from . import dataset

if TYPE_CHECKING:
    from ..nouns.config import Price, RunConfig

_GROUP = ("model", "model_requested", "endpoint")
_COLUMNS = (*_GROUP, "prompt_tokens", "completion_tokens", "total_tokens", "estimated_tokens", "cost_usd")
# of `unanswered`: what an answer that came without usage was settled at
WITHOUT_USAGE = "without_usage"
OwnPrices = Mapping[str, "Price | None"]  # by the name of the endpoint


def open_budget(
    folder: RunFolder, config: RunConfig, prices: PriceBook, own: OwnPrices, console: Console
) -> Budget:
    """The budget of a start, with what earlier starts have spent.

    own: prices that the user gave for single endpoints. Raises UsageError where a budget in money cannot be kept, since some price is not known.
    """
    if config.budget_usd is not None:
        _check_prices(config, prices)
    spent = spent_before(folder, prices, own)
    if config.budget_usd is not None and spent.usd is None:
        raise UsageError(
            f"--budget-usd: {folder.path} holds answers for which no price is known; give them one in [prices]"
        )
    if not config.has_longest_answer:
        console.tell(
            f"without --max-tokens {config.most_answer_tokens:,} tokens of the budget are held back for each answer"
            " that is out"
        )
    return Budget(config.budget_usd, config.budget_tokens, config.budget_requests, spent, prices.currency)


def _check_prices(config: RunConfig, prices: PriceBook) -> None:
    models = [(entry.model or config.model, entry.price) for entry in config.endpoints()]
    unpriced = [model for model, own in models if prices.rates((model,), own) is None]
    if unpriced:
        raise UsageError(
            f"--budget-usd: no price is known for {', '.join(dict.fromkeys(unpriced))}, so the run could not tell when it"
            f' is spent. Give one in the TOML ([prices."{unpriced[0]}"] input = ..., output = ..., per million'
            " tokens), or hold the run by --budget-tokens"
        )


def spent_before(folder: RunFolder, prices: PriceBook, own: OwnPrices) -> Spending:
    """Answers at what they cost when they came, or at today's price where they had none; an answer that came
    without usage, and an attempt without an answer, at the most that it may have cost.

    usd: None where some of it has no price today either.
    """
    journal = Journal(folder.journal)
    try:
        account = journal.unanswered()
        spent = sum(account.values(), Spending(usd=Decimal(0)))
        is_priced = True
        for _, table in dataset.answered(folder, journal, _COLUMNS):
            if WITHOUT_USAGE in account:  # they are in the account, but for their number
                counted = table.filter(_has_usage(table))
                spent += Spending(requests=table.num_rows - counted.num_rows)
                table = counted  # noqa: PLW2901
            usd, is_whole = _money(table, prices, own)
            is_priced = is_priced and is_whole
            spent += Spending(table.num_rows, _tokens(table), usd)
    finally:
        journal.close()
    return spent if is_priced else Spending(spent.requests, spent.tokens, None)


def _tokens(table: pa.Table) -> int:
    """As the run counts them: never less than prompt and answer together, at any total."""
    both = pc.add(table["prompt_tokens"], table["completion_tokens"])
    counted = pc.if_else(_has_usage(table), pc.max_element_wise(both, table["total_tokens"]), None)
    return pc.sum(pc.coalesce(counted, table["estimated_tokens"])).as_py() or 0


def _has_usage(table: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_valid(table["prompt_tokens"]), pc.is_valid(table["completion_tokens"]))


def _money(table: pa.Table, prices: PriceBook, own: OwnPrices) -> tuple[Decimal, bool]:
    """Of one table, and whether all of it has a price."""
    usd, is_priced = pc.sum(table["cost_usd"]).as_py() or Decimal(0), True
    without = table.filter(pc.is_null(table["cost_usd"]))
    columns = {name: without[name] for name in _GROUP}
    columns |= {"prompt": without["prompt_tokens"], "answer": without["completion_tokens"]}
    has_usage = _has_usage(without)
    columns["unknown"] = pc.if_else(has_usage, None, without["estimated_tokens"])
    columns |= {name: pc.if_else(has_usage, columns[name], None) for name in ("prompt", "answer")}
    sums: list[tuple[str, str]] = [(name, "sum") for name in ("prompt", "answer", "unknown")]
    for group in pa.table(columns).group_by([*_GROUP]).aggregate([*sums, ("prompt", "count")]).to_pylist():
        rates = prices.rates((group["model"], group["model_requested"]), own.get(group["endpoint"]))
        if rates is None:
            is_priced = False
            continue
        usd += rates.of_many(group["prompt_sum"] or 0, group["answer_sum"] or 0, group["prompt_count"])
        usd += rates.most(0, group["unknown_sum"] or 0)
    return usd, is_priced
