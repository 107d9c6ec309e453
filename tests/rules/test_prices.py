"""usage x price -> money: the user's table, then the list price of the day, then none."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from captionmill.nouns.config import Price, PriceTable, RunConfig
from captionmill.nouns.money import money
from captionmill.nouns.rows import Usage
from captionmill.rules.prices import PriceBook
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

REFERENCE = Usage(268, 116, 384)  # the usage on the API page


def book(**prices) -> PriceBook:
    return PriceBook(PriceTable.model_validate(prices))


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gpt-4-turbo-2024-04-09", "0.00616"),
        ("claude-3-5-sonnet-20240620", "0.002544"),
        ("gpt-4o", "0.00183"),
        ("openai/gpt-4o", "0.00183"),
    ],
)
def test_the_reference_usage_has_its_price(model, dollars):
    """268 in and 116 out; routers' prefixes are understood."""
    assert PriceBook().cost((model,), REFERENCE) == Decimal(dollars)


def test_an_unknown_model_costs_none_not_zero():
    """No price is None; so is an answer without usage."""
    assert PriceBook().cost(("no-such-model-at-all", None), REFERENCE) is None
    assert PriceBook().cost(("gpt-4o",), Usage()) is None


def test_the_requested_model_serves_where_the_answered_one_has_no_price():
    """A relay may answer under a name of its own."""
    assert PriceBook().cost(("relay-special", "gpt-4o"), REFERENCE) == Decimal("0.00183")


@given(
    st.sampled_from(["gpt-4o", "gpt-4-turbo", "claude-3-5-sonnet-20240620", "gemini-2.5-pro", "gpt-5"]),
    st.integers(0, 400_000),
    st.integers(0, 20_000),
    st.floats(0, 1),
)
def test_our_multiplication_is_the_price_tables(model, prompt, completion, cached_share):
    """Rates multiplied here give what genai-prices itself calculates, cached tokens and tiers included."""
    cached = int(prompt * cached_share)
    theirs = calc_price(
        PricedUsage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached), model
    ).total_price
    ours = PriceBook().cost((model,), Usage(prompt, completion, None, cached))
    assert ours == theirs.quantize(Decimal("1e-9"))


def test_list_prices_are_those_of_the_day():
    """What changed its price costs what it cost then: o3 became cheaper in June 2025."""
    before, after = (datetime(2025, 6, day, tzinfo=UTC) for day in (1, 20))
    usage = PricedUsage(input_tokens=1000, output_tokens=1000)
    theirs = [calc_price(usage, "o3", genai_request_timestamp=d).total_price for d in (before, after)]
    assert theirs[0] > theirs[1]
    assert [PriceBook(None, d).cost(("o3",), Usage(1000, 1000)) for d in (before, after)] == theirs


def test_the_users_table_wins():
    """Over the list price, by the asked model's name where the answered one does not stand in it; cached and reasoning apart."""
    own = book(**{"gpt-4o": {"input": 10, "output": 100, "cached": 1, "reasoning": 1000}})
    assert own.cost(("gpt-4o",), Usage(100, 10, 110, 40, 5)) == Decimal("0.00614")  # 600 + 40 + 500 + 5000
    assert own.cost(("gpt-4o-2024-08-06", "gpt-4o"), Usage(100, 0)) == Decimal("0.001")
    assert own.cost(("openai/gpt-4o",), Usage(100, 0)) == Decimal("0.001")
    assert own.cost(("gpt-4-turbo",), REFERENCE) == PriceBook().cost(("gpt-4-turbo",), REFERENCE)


def test_a_part_is_never_more_than_its_whole():
    """A server that reports more reasoning than answer, or more cached than prompt, is priced for what there was."""
    own = book(m={"input": 10, "output": 100, "cached": 1, "reasoning": 1000})
    assert own.cost(("m",), Usage(100, 10, 110, 0, 50)) == Decimal("0.011")  # 100 at 10, 10 at 1,000
    assert own.cost(("m",), Usage(100, 10, 110, 500, 0)) == Decimal("0.0011")  # 100 at 1, 10 at 100


def test_a_pattern_is_for_all_it_fits():
    """`*` stands for any characters; a name of its own goes before it."""
    own = book(**{"qwen*": {"input": 1, "output": 1}, "qwen-vl-max": {"input": 2, "output": 2}})
    assert own.cost(("qwen-vl-plus",), Usage(1_000_000, 0)) == 1
    assert own.cost(("qwen-vl-max",), Usage(1_000_000, 0)) == 2
    assert own.cost(("router/qwen-vl-plus",), Usage(1_000_000, 0)) == 1


def test_a_relays_ratio_is_of_the_list_price():
    """For one model, or for all that do not stand in the table; also above a tier."""
    ratio = book(multiplier="0.5", **{"gpt-4-turbo": {"multiplier": 2}, "own": {"input": 1, "output": 1}})
    assert ratio.cost(("gpt-4o",), REFERENCE) == Decimal("0.00183") / 2
    assert ratio.cost(("gpt-4-turbo-2024-04-09", "gpt-4-turbo"), REFERENCE) == Decimal("0.00616") * 2
    assert ratio.cost(("own",), Usage(1_000_000, 0)) == 1
    large = Usage(300_000, 1000)
    assert ratio.cost(("gemini-2.5-pro",), large) * 2 == PriceBook().cost(("gemini-2.5-pro",), large)


def test_dollars_are_no_other_currency():
    """In a table of another currency a list price counts only by a ratio that the user gave."""
    assert book(currency="CNY").cost(("gpt-4o",), REFERENCE) is None
    assert book(currency="CNY", multiplier=7).cost(("gpt-4o",), REFERENCE) == Decimal("0.00183") * 7


def test_an_endpoints_own_price_wins():
    """Over table and list; a multiplier there is of the list price."""
    table = book(**{"gpt-4o": {"input": 1, "output": 1}})
    assert table.cost(("gpt-4o",), Usage(1_000_000, 0), Price(input=5, output=5)) == 5
    assert table.cost(("gpt-4o",), Usage(1_000_000, 0), Price(multiplier=2)) == 5


@pytest.mark.parametrize(
    "wrong",
    [{"m": {"input": 1}}, {"m": {}}, {"m": {"cached": 1}}, {"m": 5}, {"m": {"input": -1, "output": 1}}, {"m": {"inputs": 1}}],
)  # fmt: skip
def test_half_a_price_is_refused(wrong):
    """Both rates or a multiplier; nothing negative, no unknown name."""
    with pytest.raises(ValidationError):
        RunConfig.model_validate({"model": "m", "prices": wrong})


@given(st.integers(0, 10**6), st.integers(0, 10**5), st.floats(0, 1), st.floats(0, 1))
def test_the_most_is_never_passed(prompt, completion, cached_share, reasoning_share):
    """However many of the tokens turn out to be cached or reasoning, an answer costs no more than `most`."""
    usage = Usage(prompt, completion, None, int(prompt * cached_share), int(completion * reasoning_share))
    for prices in (
        {},
        {"gpt-4o": {"input": 1, "output": 2, "cached": 3, "reasoning": 4}},
        {"gpt-4o": {"input": 4, "output": 3, "cached": 2, "reasoning": 1}},
    ):
        rates = book(**prices).rates(("gpt-4o",))
        assert rates.cost(usage) <= rates.most(prompt, completion)


def test_how_money_is_written():
    """Dollars with their sign, other currencies by their label, little is not nothing, none as a word."""
    assert money(Decimal("1234.5")) == "$1,234.5000"
    assert money(Decimal("-0.5"), "CNY", 2) == "-CNY 0.50"
    assert money(Decimal("0.0000001")) == "$0.000000100"
    assert money(Decimal(0)) == "$0.0000"
    assert money(None) == "no price"
