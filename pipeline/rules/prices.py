"""usage x price -> money. Decimal throughout; a model without a price costs None, never zero.

The user's own table first, then the list price of the day from genai-prices, which ships its history and
works offline. Its own calculation takes 0.1 ms, so the plain case (a few rates, no tier reached) is
multiplied here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..nouns.money import DOLLARS
from ..nouns.rows import Usage

if TYPE_CHECKING:  # `status` needs no settings, and starts without pydantic
    from ..nouns.config import Price, PriceTable

_MILLION = Decimal(1_000_000)
MOST_DOLLARS = 1_000_000  # for one answer; more is a garbled usage
_NINE_PLACES = Decimal("1e-9")
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Rates:
    """Money per million tokens.

    up_to_tokens: prompt size from which other rates hold; None: none do. list_price: genai_prices' own
    calculator, for what these rates do not cover. multiplier: of what that calculates.
    """

    prompt: Decimal
    cached: Decimal
    completion: Decimal
    reasoning: Decimal
    up_to_tokens: int | None = None
    list_price: Any = None
    multiplier: Decimal = _ONE

    def cost(self, usage: Usage) -> Decimal:
        """What an answer of this usage costs; tokens that are not reported count as none."""
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        cached = min(usage.cached_tokens or 0, prompt)
        if self.up_to_tokens is not None and prompt >= self.up_to_tokens:
            return self._of_a_tier(prompt, completion, cached)
        reasoning = min(usage.reasoning_tokens or 0, completion)
        return (
            (prompt - cached) * self.prompt
            + cached * self.cached
            + (completion - reasoning) * self.completion
            + reasoning * self.reasoning
        ) / _MILLION

    def _of_a_tier(self, prompt: int, completion: int, cached: int) -> Decimal:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415

        priced = PricedUsage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        return Decimal(self.list_price(priced)["total_price"]) * self.multiplier

    def of_many(self, prompt: float, completion: float, rows: int) -> Decimal:
        """What many answers come to, each about alike; a tier is one of an answer, not of their sum."""
        if not rows:
            return Decimal(0)
        each = Usage(round(prompt / rows), round(completion / rows))
        if self.up_to_tokens is not None and each.prompt_tokens and each.prompt_tokens >= self.up_to_tokens:
            return self.cost(each) * rows
        return (round(prompt) * self.prompt + round(completion) * self.completion) / _MILLION

    def most(self, prompt: int, completion: int) -> Decimal:
        """What so many tokens may cost, whichever of them turn out to be cached or reasoning."""
        if self.up_to_tokens is not None and prompt >= self.up_to_tokens:
            return self._of_a_tier(prompt, completion, prompt if self.cached > self.prompt else 0)
        rate, answer_rate = max(self.prompt, self.cached), max(self.completion, self.reasoning)
        return (prompt * rate + completion * answer_rate) / _MILLION


class PriceBook:
    """Prices by model name, looked up once each. Slow at the first call: see `load`.

    table: the user's own; None where there is none. day: of which list prices are taken; None for today.
    """

    def __init__(self, table: PriceTable | None = None, day: datetime | None = None) -> None:
        from ..nouns.config import PriceTable  # noqa: PLC0415

        self._table = table or PriceTable()
        self._day = day or datetime.now(UTC)
        self._rates: dict[str, Rates | None] = {}
        self._listed: dict[str, Rates | None] = {}
        self._other_days: dict[date, PriceBook] = {}

    @property
    def currency(self) -> str:
        """Of all prices: three letters, as USD."""
        return self._table.currency

    def on(self, day: datetime) -> PriceBook:
        """The same table with the list prices of another day."""
        key = day.date()
        if key not in self._other_days:
            self._other_days[key] = PriceBook(self._table, day)
        return self._other_days[key]

    def load(self, models: Iterable[str]) -> None:
        """Import the price table and look these up; 0.3 s, for a thread at the start."""
        for model in models:
            self.rates((model,))

    def rates(self, models: tuple[str | None, ...], own: Price | None = None) -> Rates | None:
        """The rates of the first of `models` that has some: in the user's table, else in the list of prices.

        own: the price that the user gave for one endpoint; wins over both. None where no price is known.
        """
        names = [model for model in models if model]
        if own is not None and own.input is not None:
            return _own_rates(own)
        key = "\0".join(names)
        if own is None and key in self._rates:
            return self._rates[key]
        rates = self._find(names, own)
        if own is None:
            self._rates[key] = rates
        return rates

    def cost(self, models: tuple[str | None, ...], usage: Usage, own: Price | None = None) -> Decimal | None:
        """Money for one answer. None where no model has a price, or the usage was not reported."""
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        rates = self.rates(models, own)
        if rates is None:
            return None
        cost = rates.cost(usage)
        return cost.quantize(_NINE_PLACES) if cost < MOST_DOLLARS else None

    def _find(self, names: list[str], own: Price | None) -> Rates | None:
        price = own or next((p for name in names if (p := self._entry(name)) is not None), None)
        if price is not None and price.input is not None:
            return _own_rates(price)
        multiplier = price.multiplier if price is not None else self._table.multiplier
        if multiplier is None:
            if self._table.currency != DOLLARS:  # a list price is in dollars
                return None
            multiplier = _ONE
        listed = next((r for name in names if (r := self._list_price(name)) is not None), None)
        return None if listed is None else _times(listed, multiplier)

    def _entry(self, model: str) -> Price | None:
        """By its name, by its name without a router's prefix, then by the first pattern that fits."""
        own = self._table.models
        bare = model.rpartition("/")[2]
        patterns = (
            price
            for name, price in own.items()
            if "*" in name and (fnmatchcase(model, name) or fnmatchcase(bare, name))
        )
        return own.get(model) or own.get(bare) or next(patterns, None)

    def _list_price(self, model: str) -> Rates | None:
        """Routers' names (openai/gpt-4o) are tried without their prefix too."""
        if model not in self._listed:
            found = _find_listed(model, self._day)
            if found is None and "/" in model:
                found = _find_listed(model.rpartition("/")[2], self._day)
            self._listed[model] = found
        return self._listed[model]


def _own_rates(price: Price) -> Rates:
    assert price.input is not None and price.output is not None  # noqa: S101  checked with the settings
    rates = Rates(
        prompt=price.input,
        cached=price.input if price.cached is None else price.cached,
        completion=price.output,
        reasoning=price.output if price.reasoning is None else price.reasoning,
    )
    return rates if price.multiplier is None else _times(rates, price.multiplier)


def _times(rates: Rates, multiplier: Decimal) -> Rates:
    if multiplier == _ONE:
        return rates
    return Rates(
        rates.prompt * multiplier,
        rates.cached * multiplier,
        rates.completion * multiplier,
        rates.reasoning * multiplier,
        rates.up_to_tokens,
        rates.list_price,
        rates.multiplier * multiplier,
    )


def _find_listed(model: str, day: datetime) -> Rates | None:
    try:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415  0.3 s; not on the start-up path
        from genai_prices import calc_price  # noqa: PLC0415

        one = PricedUsage(input_tokens=1, output_tokens=1)
        price = calc_price(one, model, genai_request_timestamp=day).model_price
    except (LookupError, OSError):  # OSError: out of file descriptors while the table is imported
        return None
    prompt, prompt_tier = _base(price.input_mtok)
    completion, completion_tier = _base(price.output_mtok)
    cached, cached_tier = _base(price.cache_read_mtok)
    if prompt is None or completion is None:
        return None
    tiers = [t for t in (prompt_tier, completion_tier, cached_tier) if t is not None]
    return Rates(
        prompt=prompt,
        cached=prompt if cached is None else cached,
        completion=completion,
        reasoning=completion,
        up_to_tokens=min(tiers, default=None),
        list_price=price.calc_price,
    )


def _base(price: Any) -> tuple[Decimal | None, int | None]:
    """A plain rate, or the lowest tier and where the next one starts."""
    if price is None or isinstance(price, Decimal):
        return price, None
    return price.base, min(t.start for t in price.tiers)
