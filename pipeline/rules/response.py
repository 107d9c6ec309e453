"""HttpAnswer -> Reply. Pure. Missing, null or oddly typed fields never lose the rest of an answer."""

from __future__ import annotations

import json
from typing import Any

from ..nouns.rows import Choice, HttpAnswer, Reply, Usage


def read_reply(answer: HttpAnswer) -> Reply | None:
    """The completion in an answer; None where there is none (then `faults.read_error` says what it is).

    An error status, no JSON, no choices, and an answer that says nothing and cost nothing are none.
    """
    body = _loads(answer.body) if answer.status == 200 else None
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(choices, list) or not choices:
        return None
    if body.get("error") or (isinstance(choices[0], dict) and choices[0].get("error")):
        return None
    reply = Reply(
        choices=tuple(_choice(i, c, choices) for i, c in enumerate(choices)),
        usage=_usage(body.get("usage")),
        id=_text(body.get("id")),
        model=_text(body.get("model")),
        created=_whole(body.get("created")),
        system_fingerprint=_text(body.get("system_fingerprint")),
    )
    return None if _is_hollow(reply) else reply


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
    """stop, length, content_filter, tool_calls or other; None where the server gave none."""
    return _FINISH.get(finish_reason.lower(), "other") if finish_reason else None


def _choice(position: int, choice: Any, choices: list[Any]) -> Choice:
    if not isinstance(choice, dict):
        return Choice(position, _text(choice), None)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": message}
    index = _whole(choice.get("index"))
    return Choice(
        index=index if index is not None and 0 <= index < len(choices) else position,
        content=_content(message.get("content")),
        finish_reason=(finish_reason := _text(choice.get("finish_reason"))),
        finish=normal_finish(finish_reason),
        refusal=_text(message.get("refusal")),
        tool_calls=_as_json(message.get("tool_calls") or message.get("function_call")),
        logprobs=_as_json(choice.get("logprobs")),
    )


def _content(content: Any) -> str | None:
    """A string, or a list of parts whose texts are joined."""
    if isinstance(content, list):
        texts = [
            p if isinstance(p, str) else _text(p.get("text")) for p in content if isinstance(p, str | dict)
        ]
        return "".join(t for t in texts if t) or None
    return _text(content)


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not prompt:  # every request has a prompt: a relay that says 0 has not counted
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


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _as_json(value) if isinstance(value, dict | list) else str(value)


_INT64 = 2**63
MOST_TOKENS = 10**9  # of one answer; more is no count


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


def _as_json(value: Any) -> str | None:
    return None if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
