"""What an answer's finish_reason means, in any server's words. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

# What OpenAI, Claude through a relay (end_turn, max_tokens, tool_use), Gemini (SAFETY, RECITATION ...) and text generation
# servers (eos, eos_token) call an ending; provider-facts section 4 has where each was seen
_MEANINGS = {
    "stop": "stop eos eos_token end_turn end_of_turn stop_sequence stop_token end_of_text im_end complete completed done end"
    " finish finished success normal natural",
    "length": "length max_tokens max_length max_output_tokens max_completion_tokens max_new_tokens token_limit",
    "tool_calls": "tool_calls tool_call function_call tool_use",
    "content_filter": "content_filter refusal safety recitation blocklist prohibited_content spii image_safety sensitive"
    " guardrail_intervened",
    "error": "error abort aborted cancelled canceled network_error",
}
_NAMES = {name: meaning for meaning, names in _MEANINGS.items() for name in names.split()}
# parts of names that are not listed, in this order; a broken answer first: malformed_function_call is no call
_PARTS = (
    ("error", ("error", "abort", "cancel", "fail", "malformed", "interrupt", "timeout", "insufficient")),
    ("content_filter", ("filter", "safety", "sensitive", "refus", "block", "prohibit", "moderat", "guardrail", "policy",
                        "recitation", "censor", "risk")),
    ("length", ("length", "max_", "limit", "truncat", "context_window")),
    ("tool_calls", ("tool", "function")),
    ("stop", ("stop", "eos", "end_of", "_end")),
)  # fmt: skip
_NOTHING = frozenset({"", "null", "none", "nil", "undefined", "unspecified"})


@lru_cache(256)
def normal_finish(finish_reason: str | None) -> str | None:
    """stop, length, content_filter, tool_calls, error (the server broke the answer off) or other.

    finish_reason: as sent, in any spelling: `FinishReason.MAX_TOKENS`, `maxTokens`, `content_filter: sexual`. Returns
    None where the server gave none, also as "null".
    """
    name = _plain(finish_reason or "")
    if name in _NOTHING:
        return None
    if name in _NAMES:
        return _NAMES[name]
    return next((meaning for meaning, parts in _PARTS if any(part in name for part in parts)), "other")


def _plain(finish_reason: str) -> str:
    """In lower case with underscores, without the enumeration before it and the details behind it."""
    text = finish_reason.strip().strip("<|>\"'").partition(":")[0].rpartition(".")[2]
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)  # maxTokens
    return re.sub(r"[^a-z]+", "_", text.lower()).strip("_").removeprefix("finish_reason_")
