"""The token counts of an answer, under any of the names that servers use. Pure."""

from __future__ import annotations

from typing import Any

from ..nouns.rows import Usage

# Chat completions; Responses and Claude through a relay; Gemini; Ollama
_PROMPT = (
    "prompt_tokens",
    "input_tokens",
    "promptTokens",
    "inputTokens",
    "promptTokenCount",
    "prompt_token_count",
    "prompt_eval_count",
)
_COMPLETION = (
    "completion_tokens",
    "output_tokens",
    "completionTokens",
    "outputTokens",
    "candidatesTokenCount",
    "candidates_token_count",
    "eval_count",
)
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
# Claude counts what it reads from or writes to its cache beside input_tokens, not in it
_CLAUDE_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_INT64 = 2**63
_MOST_TOKENS = 2**53  # a float is exact up to here; rules/usage.py says which smaller numbers cannot be true


def read_usage(body: dict[str, Any]) -> Usage:
    """The usage of a completion; without counts where it is missing, or counts no prompt.

    body: the completion; its `usage`, Gemini's `usageMetadata`, or counts in the body itself (Ollama).
    """
    usage = body.get("usage") or body.get("usageMetadata") or body.get("usage_metadata")
    if not isinstance(usage, dict):
        usage = body if "prompt_eval_count" in body else None
    if usage is None:
        return Usage()
    prompt, completion = _first(usage, _PROMPT), _first(usage, _COMPLETION)
    if not prompt:  # every request has a prompt: a relay that reports 0 has not counted
        return Usage()
    cached = _first(_details(usage, _PROMPT_DETAILS), ("cached_tokens", "cache_read"))
    if not _count(usage.get("prompt_tokens")):
        prompt += sum(_count(usage.get(name)) or 0 for name in _CLAUDE_CACHE)
        cached = _count(usage.get(_CLAUDE_CACHE[0])) if cached is None else cached
    total = _first(usage, _TOTAL)
    if completion is None and total is not None and total >= prompt:
        completion = total - prompt
    if total is None and completion is not None:
        total = prompt + completion
    reasoning = _first(_details(usage, _COMPLETION_DETAILS), ("reasoning_tokens", "reasoning"))
    return Usage(prompt, completion, total, cached, reasoning)


def _details(usage: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return next((details for name in names if isinstance(details := usage.get(name), dict)), {})


def _first(usage: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these that counts something, else the first that is given: relays fill one of two with zeros."""
    counts = [count for name in names if (count := _count(usage.get(name))) is not None]
    return next(filter(None, counts), counts[0] if counts else None)


def whole_number(value: Any) -> int | None:
    """A field as a whole number of 64 bits, also where it is a text; None where it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not -_INT64 < value < _INT64:  # also inf and nan
        return None
    return int(value)


def _count(value: Any) -> int | None:
    number = whole_number(value)
    return number if number is not None and 0 <= number <= _MOST_TOKENS else None
