"""A model's thinking that stands in its answer -> apart from the caption. Pure.

Servers without a parser for a model's reasoning leave it in the text, before the answer: `<think>...</think>` of
DeepSeek and Qwen, often without the opening mark, which the chat template wrote (photoprism#5784); `[THINK]` of Magistral;
`<|channel|>analysis` of gpt-oss; `◁think▷` of Kimi.
"""

from __future__ import annotations

import re
from typing import Any

_NAME = r"(?:seed:|antml:)?(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|begin_of_thought|end_of_thought)"
_OPEN = re.compile(rf"\s*(?:<\|?{_NAME}\|?>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>)", re.I)
# not in quotation marks: a picture may show the word
_CLOSE = re.compile(
    rf"""(?<!["'`“‘«])(?:</{_NAME}>|<\|/{_NAME}\|>|<\|end_of_thought\|>|\[/THINK\]|◁/think▷)"""
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>",
    re.I,
)
_ANY_OPEN = re.compile(rf"<\|?{_NAME}\|?>|\[THINK\]|◁think▷", re.I)
_END = re.compile(r"(?:<\|return\|>|<\|end\|>)\s*$")
_MARKS = "<[◁"


def without_thinking(content: str | None) -> tuple[str | None, str | None]:
    """The answer and the thinking before it; (content, None) where there is none.

    The answer is None where all of the text is thinking: it was cut off before the answer began.
    """
    if content is None or not any(mark in content for mark in _MARKS):
        return content, None
    thoughts: list[str] = []
    rest = content
    while opening := _OPEN.match(rest):
        closing = _CLOSE.search(rest, opening.end())
        thoughts.append(rest[opening.end() : closing.start() if closing else None])
        rest = rest[closing.end() :] if closing else ""
    if not thoughts and (closing := _CLOSE.search(rest)) and not _ANY_OPEN.search(rest, 0, closing.start()):
        thoughts.append(rest[: closing.start()])
        rest = rest[closing.end() :]
    if not thoughts:
        return content, None
    return _END.sub("", rest).strip() or None, "\n\n".join(t.strip() for t in thoughts if t.strip()) or None


_THINKING_TYPES = ("reasoning", "thinking", "thought", "redacted_thinking", "summary")


def is_thinking(part: Any) -> bool:
    """Whether a part of a list of contents is thinking, by its type (OpenAI, Claude, Mistral) or mark (Gemini)."""
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return part.get("thought") is True or (isinstance(kind, str) and kind.lower().startswith(_THINKING_TYPES))


def words_of(value: Any) -> str:
    """The text in a field that is text, a list of parts or a part, however deep; empty where there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(words_of, value))
    if isinstance(value, dict):
        names = ("text", "thinking", "reasoning", "reasoning_content", "summary", "content", "value")
        return next((text for name in names if (text := words_of(value.get(name)))), "")
    return ""
