"""The answer of GET /models -> names, and the one that was probably meant. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ..nouns.rows import HttpAnswer
from .envelopes import loads


def read_models(answer: HttpAnswer) -> list[str]:
    """The names in the answer, sorted; empty where it holds none.

    Shapes: OpenAI's `{"data": [{"id"}]}`, Ollama's and Gemini's `{"models": [{"name"}]}`, and a plain list (Together).
    """
    body = loads(answer.body) if 200 <= answer.status < 300 else None
    lists = [body] if isinstance(body, list) else []
    if isinstance(body, dict):
        lists = [body[name] for name in ("data", "models", "result") if isinstance(body.get(name), list)]
    names = {name for entries in lists for entry in entries if (name := _name(entry))}
    return sorted(names)


def _name(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = next(
            (entry[name] for name in ("id", "name", "model") if isinstance(entry.get(name), str)), None
        )
    return entry if isinstance(entry, str) and entry.strip() and entry.isprintable() else None


def nearest(models: Sequence[str], asked: str) -> str | None:
    """The model whose name is most like the one that was asked for; None where none is.

    A router's prefix (openai/gpt-4o) and upper case do not count.
    """
    plain = {_plain(name): name for name in reversed(models)}
    near = difflib.get_close_matches(_plain(asked), plain, 1, cutoff=0.5)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return name.rpartition("/")[2].lower().replace("_", "-").replace(" ", "-")
