"""An answer -> the values that it may mean, the most certain first. Pure.

Order: strict JSON (think blocks and fences taken off); the JSON values in the text, the last one first; last a repair of
broken JSON. An answer that was cut off (finish length) is read as strict JSON only: a repair would make a label out of
half a word. A repair needs the closing bracket at its end, since some relays give stop for a cut answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..nouns.labels import Parse
from ..nouns.rows import Choice

MOST_CHARACTERS = 200_000  # of an answer that are looked through for JSON
_MOST_VALUES = 100
_THINK = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.S | re.I)
_THINK_END = re.compile(r"^.*</think(?:ing)?>", re.S | re.I)  # a template opened the block before the answer
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n?(.*?)```", re.S)
_START = re.compile(r"[{\[]")


class Candidate(NamedTuple):
    """A value that an answer may mean, and how it was found."""

    value: Any
    parse: Parse


def texts_of(choice: Choice) -> list[str]:
    """Where an answer may stand: tool arguments, content, and the thinking (vLLM puts JSON there with null content)."""
    found = [_arguments(choice.tool_calls), choice.content]
    if not (choice.content or "").strip():
        found.append(choice.reasoning)
    return [text for text in map(_bare, found) if text]


def _arguments(tool_calls: str | None) -> str | None:
    """The arguments of the first call; also of the older function_call."""
    try:
        calls = json.loads(tool_calls or "null")
        call = calls[0] if isinstance(calls, list) else calls
        arguments = (call.get("function") or call).get("arguments")
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return None
    return arguments if isinstance(arguments, str) or arguments is None else json.dumps(arguments)


def _bare(text: str | None) -> str:
    if not text:
        return ""
    return _THINK_END.sub("", _THINK.sub("", text)).strip()


def candidates(text: str, is_cut: bool) -> Iterator[Candidate]:
    """The JSON values that a text may mean. text: as `texts_of` gives it. is_cut: its end is missing."""
    fences = _FENCE.findall(text)
    is_one_fence = len(fences) == 1 and text.startswith("```") and text.endswith("```")
    whole = _loads(fences[0].strip() if is_one_fence else text)
    if whole is not None:
        yield Candidate(whole, "clean")
        return
    if is_cut:
        return
    for value in reversed([*_values(text[-MOST_CHARACTERS:])]):
        yield Candidate(value, "extracted")
    yield from _repaired(text)


def _loads(text: str) -> Any:
    """None where the text is no JSON, NaN and Infinity included."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(_constant: str) -> None:
    raise ValueError("no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _values(text: str) -> Iterator[Any]:
    """The whole objects and lists in a text, in their order; those within another one are part of it."""
    at, tries = 0, 0
    while (found := _START.search(text, at)) and tries < _MOST_VALUES:
        tries += 1
        try:
            value, at = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            at = found.start() + 1
        else:
            yield value


def _repaired(text: str) -> Iterator[Candidate]:
    """The value of broken JSON: quotes, commas, comments. Only where it was closed at its end."""
    fences = _FENCE.findall(text)
    text = (fences[-1] if fences else text).strip()
    if len(text) > MOST_CHARACTERS or not text.startswith(("{", "[")) or not text.endswith(("}", "]")):
        return
    import json_repair  # noqa: PLC0415  few answers need it

    try:
        value = json_repair.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict | list):
        yield Candidate(value, "repaired")
