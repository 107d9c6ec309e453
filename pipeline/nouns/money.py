"""How an amount of money is written."""

from __future__ import annotations

from decimal import Decimal

DOLLARS = "USD"


def money(amount: Decimal | None, currency: str = DOLLARS, places: int = 4) -> str:
    """An amount for people: $1.2345, CNY 1.2345; no price for None."""
    if amount is None:
        return "no price"
    if amount and abs(amount) < Decimal(1).scaleb(-places):  # it is not nothing
        places = 9
    figure = f"{abs(amount):,.{places}f}"
    sign = "-" if amount < 0 else ""
    return f"{sign}${figure}" if currency == DOLLARS else f"{sign}{currency} {figure}"
