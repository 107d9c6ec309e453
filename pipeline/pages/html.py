"""What all pages share: templates that escape texts, one style sheet, and how figures are written."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from pathlib import Path

import jinja2

from ..nouns.money import DOLLARS, money

_TEMPLATES = Path(__file__).parent / "templates"


def template(name: str, currency: str = DOLLARS) -> jinja2.Template:
    """The template of a page. Its filters: `n` writes a count, `money` an amount. Texts are escaped, never markup.

    name: of the file in templates/. currency: of all amounts.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True
    )
    environment.filters["n"] = "{:,}".format
    environment.filters["money"] = partial(_money, currency)
    return environment.get_template(name)


def _money(currency: str, amount: Decimal | None, places: int = 4) -> str:
    return money(amount, currency, places)


def css() -> str:
    """The style sheet, for inclusion in the page itself."""
    return (_TEMPLATES / "base.css").read_text(encoding="utf-8")
