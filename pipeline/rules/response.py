"""HttpAnswer -> Reply. Pure. Missing, null or oddly typed fields never lose the rest of an answer."""

from __future__ import annotations

from typing import Any

from ..nouns.rows import Choice, HttpAnswer, Reply, Usage
from .envelopes import as_json, as_text, error_inside, loads
from .error_table import read_error


def read(answer: HttpAnswer, endpoint_kind: str = "auto") -> Reply:
    """The completion in an answer.

    endpoint_kind: direct, relay, or auto, as for `error_table.read_error`. Raises the named error of an answer that holds
    no completion.
    """
    reply = read_reply(answer)
    if reply is None:
        raise read_error(answer, endpoint_kind)
    return reply


def read_reply(answer: HttpAnswer) -> Reply | None:
    """The completion in an answer; None where there is none (then `error_table.read_error` says what it is).

    An error status, a body that is not JSON, no choices, an error beside or inside the choices, and an answer that says
    nothing and cost nothing hold no completion.
    """
    body = loads(answer.body) if answer.status == 200 else None
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(choices, list) or not choices:
        return None
    if error_inside(body) is not None:
        return None
    reply = Reply(
        choices=tuple(_choice(i, c, choices) for i, c in enumerate(choices)),
        usage=_usage(body.get("usage")),
        id=as_text(body.get("id")),
        model=as_text(body.get("model")),
        created=_whole(body.get("created")),
        system_fingerprint=as_text(body.get("system_fingerprint")),
    )
    return None if _is_hollow(reply) else reply


# what OpenAI, Claude through a relay (end_turn, max_tokens, tool_use) and Gemini (SAFETY, RECITATION ...) call an ending
_FINISH = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
}


def normal_finish(finish_reason: str | None) -> str | None:
    """stop, length, content_filter, tool_calls or other. None where the server gave none.

    finish_reason: as sent, in either case.
    """
    return _FINISH.get(finish_reason.lower(), "other") if finish_reason else None


def _choice(position: int, choice: Any, choices: list[Any]) -> Choice:
    if not isinstance(choice, dict):
        return Choice(position, as_text(choice), None)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": message}
    index = _whole(choice.get("index"))
    return Choice(
        index=index if index is not None and 0 <= index < len(choices) else position,
        content=_content(message.get("content")),
        finish_reason=(finish_reason := as_text(choice.get("finish_reason"))),
        finish=normal_finish(finish_reason),
        refusal=as_text(message.get("refusal")),
        tool_calls=as_json(message.get("tool_calls") or message.get("function_call")),
        logprobs=as_json(choice.get("logprobs")),
    )


def _content(content: Any) -> str | None:
    """A string, or a list of parts whose texts are joined."""
    if isinstance(content, list):
        texts = [
            p if isinstance(p, str) else as_text(p.get("text")) for p in content if isinstance(p, str | dict)
        ]
        return "".join(t for t in texts if t) or None
    return as_text(content)


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not prompt:  # every request has a prompt: a relay that reports 0 has not counted
        return Usage()
    total = _count(usage.get("total_tokens"))
    if completion is None and total is not None and total >= prompt:
        completion = total - prompt
    if total is None and completion is not None:
        total = prompt + completion
    prompt_details, completion_details = (
        d if isinstance(d := usage.get(k), dict) else {}
        for k in ("prompt_tokens_details", "completion_tokens_details")
    )
    return Usage(
        prompt,
        completion,
        total,
        _count(prompt_details.get("cached_tokens")),
        _count(completion_details.get("reasoning_tokens")),
    )


def _is_hollow(reply: Reply) -> bool:
    """No content of any sort and no usage: nothing was generated, nothing was paid for.

    An empty answer whose prompt was counted was paid for; asking again would pay again.
    """
    said = any(c.content or c.tool_calls or c.refusal for c in reply.choices)
    filtered = any(c.finish in ("content_filter", "length") for c in reply.choices)
    return not said and not filtered and not reply.usage.is_reported


_INT64 = 2**63
MOST_TOKENS = 10**9  # of one answer; a larger number is not a count


def _whole(value: Any) -> int | None:
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
    number = _whole(value)
    return number if number is not None and 0 <= number <= MOST_TOKENS else None
