"""usage x price -> money. Decimal throughout; a model without a price costs None, never zero.

Prices come from genai-prices, which ships them with their history and works offline. Its own
calculation takes 0.1 ms, so the plain case (three rates, no tier reached) is multiplied here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..nouns.config import Price
from ..nouns.rows import Usage

_MILLION = Decimal(1_000_000)
MOST_DOLLARS = 1_000_000  # for one answer; more is a garbled usage
_NINE_PLACES = Decimal("1e-9")


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars per million tokens. up_to_tokens: prompt size from which other rates hold; None: none do."""

    prompt: Decimal
    cached: Decimal
    completion: Decimal
    up_to_tokens: int | None
    full_price: Any  # genai_prices' own calculator, for what the rates do not cover


class PriceBook:
    """Prices by model name, looked up once each. Slow at the first call: see `load`."""

    def __init__(self) -> None:
        self._rates: dict[str, Rates | None] = {}

    @staticmethod
    def own_rates(price: Price) -> Rates:
        """The rates that the user gave for an endpoint."""
        cached = price.input if price.cached is None else price.cached
        return Rates(price.input, cached, price.output, None, None)

    def load(self, models: Iterable[str]) -> None:
        """Import the price table and look these up; 0.3 s, for a thread at the start."""
        for model in models:
            self.rates(model)

    def cost(self, models: tuple[str | None, ...], usage: Usage, own: Rates | None = None) -> Decimal | None:
        """Dollars for one answer by the user's own rates, else by the first of `models` that has a price.

        None where no model has one, or the usage was not reported.
        """
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        rates = own or next((r for m in models if m and (r := self.rates(m))), None)
        if rates is None:
            return None
        cost = _multiply(rates, usage)
        return cost.quantize(_NINE_PLACES) if cost < MOST_DOLLARS else None

    def rates(self, model: str) -> Rates | None:
        """The rates of a model; routers' names (openai/gpt-4o) are tried without their prefix too."""
        if model not in self._rates:
            self._rates[model] = _find(model) or (_find(model.rpartition("/")[2]) if "/" in model else None)
        return self._rates[model]


def _find(model: str) -> Rates | None:
    try:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415  0.3 s; not on the start-up path
        from genai_prices import calc_price  # noqa: PLC0415

        price = calc_price(PricedUsage(input_tokens=1, output_tokens=1), model).model_price
    except (LookupError, OSError):  # OSError: out of file descriptors while the table is imported
        return None
    prompt, prompt_tier = _base(price.input_mtok)
    completion, completion_tier = _base(price.output_mtok)
    cached, cached_tier = _base(price.cache_read_mtok)
    if prompt is None or completion is None:
        return None
    tiers = [t for t in (prompt_tier, completion_tier, cached_tier) if t is not None]
    return Rates(
        prompt, prompt if cached is None else cached, completion, min(tiers, default=None), price.calc_price
    )


def _base(price: Any) -> tuple[Decimal | None, int | None]:
    """A plain rate, or the lowest tier and where the next one starts."""
    if price is None or isinstance(price, Decimal):
        return price, None
    return price.base, min(t.start for t in price.tiers)


def _multiply(rates: Rates, usage: Usage) -> Decimal:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached = min(usage.cached_tokens or 0, prompt)
    if rates.up_to_tokens is not None and prompt >= rates.up_to_tokens:
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415

        priced = PricedUsage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        return Decimal(rates.full_price(priced)["total_price"])
    return (
        (prompt - cached) * rates.prompt + cached * rates.cached + completion * rates.completion
    ) / _MILLION
