"""HttpAnswer -> Reply. Pure. Missing, null or oddly typed fields never lose the rest of an answer.

A plain completion takes the short way: JSON, its choices. What is none is read again by `lenient`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..nouns.rows import Choice, HttpAnswer, Reply
from . import lenient
from .counts import read_usage, whole_number
from .envelopes import as_json, as_text, error_inside, loads
from .error_table import read_error
from .finish import normal_finish
from .thinking import is_thinking, without_thinking, words_of


def read(answer: HttpAnswer, endpoint_kind: str = "auto", keeps_thinking: bool = False) -> Reply:
    """The completion in an answer.

    endpoint_kind: direct, relay, or auto, as for `error_table.read_error`. keeps_thinking: as for `read_reply`. Raises the
    named error of an answer that holds no completion.
    """
    reply = read_reply(answer, keeps_thinking)
    if reply is None:
        raise read_error(answer, endpoint_kind)
    return reply


def read_reply(answer: HttpAnswer, keeps_thinking: bool = False) -> Reply | None:
    """The completion in an answer; None where there is none (then `error_table.read_error` says what it is).

    keeps_thinking: leave `<think>...</think>` in the text. An error status, a body without choices, an error beside or
    inside the choices, a finish_reason that says that the server broke off, and an answer that says nothing and cost
    nothing hold no completion.
    """
    if not 200 <= answer.status < 300:
        return None
    body = loads(answer.body)
    if not _has_choices(body):
        body = lenient.completion(answer.body, answer.headers)
        if not _has_choices(body):
            return None
    if error_inside(body) is not None:
        return None
    choices = body["choices"]
    reply = Reply(
        choices=tuple(_choice(i, c, len(choices), keeps_thinking) for i, c in enumerate(choices)),
        usage=read_usage(body),
        id=as_text(body.get("id")),
        model=as_text(body.get("model")),
        created=whole_number(body.get("created")),
        system_fingerprint=as_text(body.get("system_fingerprint")),
    )
    return None if reply.choices[0].finish == "error" or _is_hollow(reply) else reply


def _has_choices(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(choices := body.get("choices"), list) and bool(choices)


def _choice(position: int, choice: Any, count: int, keeps_thinking: bool) -> Choice:
    if not isinstance(choice, dict):
        return Choice(position, as_text(choice), None)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": message}
    index = whole_number(choice.get("index"))
    finish_reason, finish = _finish(choice)
    content, reasoning = _texts(choice, message, keeps_thinking)
    return Choice(
        index=index if index is not None and 0 <= index < count else position,
        content=content,
        finish_reason=finish_reason,
        finish=finish,
        refusal=as_text(message.get("refusal")),
        tool_calls=as_json(message.get("tool_calls") or message.get("function_call")),
        logprobs=as_json(choice.get("logprobs")),
        reasoning=reasoning,
    )


def _finish(choice: dict[str, Any]) -> tuple[str | None, str | None]:
    """The reason as sent, and its meaning. OpenRouter has the provider's own in native_finish_reason."""
    sent = as_text(choice.get("finish_reason"))
    if (finish := normal_finish(sent)) is not None:
        return sent, finish
    for name in ("finishReason", "native_finish_reason"):
        if (finish := normal_finish(other := as_text(choice.get(name)))) is not None:
            return other, finish
    return sent, None


def _texts(
    choice: dict[str, Any], message: dict[str, Any], keeps_thinking: bool
) -> tuple[str | None, str | None]:
    """The caption, and the thinking: from the fields of its own, the parts of the content and the text before it."""
    content = message.get("content")
    thoughts = [t for name in _REASONING if (t := words_of(message.get(name)))][:1]
    if isinstance(content, list):
        thoughts += [t for part in content if is_thinking(part) and (t := words_of(part))]
    text = _content(content)
    if not text or text.isspace():
        text = next((t for t in _elsewhere(choice) if t and not t.isspace()), text)
        if not thoughts and isinstance(delta := choice.get("delta"), dict):
            thoughts = [t for name in _REASONING if (t := words_of(delta.get(name)))][:1]
    if not keeps_thinking:
        text, thought = without_thinking(text)
        thoughts += [thought] if thought else []
    return text, "\n\n".join(thoughts) or None


# DeepSeek, Qwen and vLLM; OpenRouter and Cerebras; Ollama; OpenRouter's list of details; LiteLLM
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")


def _elsewhere(choice: dict[str, Any]) -> Iterator[str | None]:
    """Where else a caption was seen: in a delta (SillyTavern#2121), in the text of the older API (MacPaw/OpenAI#317)."""
    delta = choice.get("delta")
    yield _content(delta.get("content")) if isinstance(delta, dict) else as_text(delta)
    yield _content(choice.get("text"))
    yield _content(choice.get("content"))


def _content(content: Any) -> str | None:
    """A string, or a list of parts whose texts are joined; thinking is no part of it."""
    if isinstance(content, list):
        texts = (p if isinstance(p, str) else _part_text(p) for p in content if not is_thinking(p))
        return "".join(t for t in texts if t) or None
    return as_text(content)


def _part_text(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) else None
    return words_of(text) if isinstance(text, dict) else as_text(text)


def _is_hollow(reply: Reply) -> bool:
    """No content of any sort and no usage: nothing was generated, nothing was paid for.

    An empty answer whose prompt was counted was paid for; asking again would pay again.
    """
    said = any(c.content or c.tool_calls or c.refusal or c.reasoning for c in reply.choices)
    filtered = any(c.finish in ("content_filter", "length") for c in reply.choices)
    return not said and not filtered and not reply.usage.is_reported
