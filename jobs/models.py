"""captionmill models [WORD] [--base-url URL] [--api-key-env NAME] [--json]

List the models of an endpoint (GET /v1/models), with the price per million tokens and the image rule that captionmill
would use for each. It is free. WORD shows only the names that contain it.

  captionmill models gpt-4o
  captionmill models --base-url http://localhost:11434
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionmill.nouns.errors import AnswerError, RunError, UsageError

from . import exit_codes
from .parser import Parser
from .signals import raise_interrupts
from .table import as_lines

if TYPE_CHECKING:
    from captionmill.rules.prices import PriceBook


def main(argv: list[str]) -> int:
    """Print the list. Raises UsageError for wrong settings, RunError where the endpoint does not give one."""
    parser = Parser("captionmill models", __doc__)
    parser.add_argument("word", nargs="?", default="", help="only names that contain this word")
    parser.add_argument("--base-url", metavar="URL", help="address of the endpoint [OPENAI_BASE_URL]")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="NAME of the variable with its key [OPENAI_API_KEY]"
    )
    parser.add_argument("--proxy", metavar="URL", help="address of an HTTP proxy, or env [none]")
    parser.add_argument("--config", type=Path, metavar="TOML", help="a file with [prices]")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    arguments = parser.parse(argv)
    given = {n: v for n in ("base_url", "api_key_env", "proxy") if (v := getattr(arguments, n)) is not None}
    from captionmill.rules.prices import PriceBook

    from .arguments import read_prices

    prices = PriceBook(read_prices(arguments.config))
    names = [n for n in _fetch(given) if arguments.word.lower() in n.lower()]
    lines = [_facts(name, prices) for name in names]
    if arguments.json:
        print(json.dumps({"currency": prices.currency, "models": lines}, indent=2))
    else:
        print("\n".join(_table(lines, prices.currency)) if lines else "no model of that name is listed")
    return exit_codes.ANSWERED


def _fetch(settings: dict[str, str]) -> list[str]:
    """The names at the endpoint. settings: of the connection. Raises UsageError, RunError."""
    import asyncio

    from captionmill.nouns.config import RunConfig
    from captionmill.wiring.addresses import read_addresses
    from captionmill.wiring.model_names import fetch_models
    from pydantic import ValidationError

    try:
        config = RunConfig.model_validate({"model": "any"} | settings)
    except ValidationError as error:
        raise UsageError("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None
    (address,) = read_addresses(config)
    raise_interrupts()
    try:
        names = asyncio.run(fetch_models(address, config.proxy))
    except AnswerError as error:
        raise RunError(f"{address.models_url.partition('?')[0]}: {error}", kind=error.kind) from error
    if not names:
        raise UsageError(f"{address.models_url.partition('?')[0]}: lists no models")
    return names


def _facts(name: str, prices: PriceBook) -> dict[str, Any]:
    """What captionmill knows of a model. Prices per million tokens; None where none is known."""
    from captionmill.vision.models import vision_model

    rates, known = prices.rates((name,)), vision_model(name)
    return {
        "model": name,
        "input": None if rates is None else str(rates.prompt),
        "output": None if rates is None else str(rates.completion),
        "image_rule": f"{known.provider} {type(known.family).__name__.lower()}",
    }


def _table(lines: list[dict[str, Any]], currency: str) -> list[str]:
    rows = [("model", "image rule", f"in, {currency} per million", "out")]
    rows += [
        (f["model"], f["image_rule"], f["input"] or "no price", f["output"] or "no price") for f in lines
    ]
    return as_lines(rows, left=2)


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("models", sys.argv[1:]))
