"""A body that is no plain chat completion, read as the completion that it holds. Pure; only tried where JSON fails.

A completion that arrived was billed, in any framing: a stream of server-sent events that were not asked for
(unsloth#6570), JSON with `data: [DONE]` or other text behind it (9router#3492), comments before it, bytes that are not
UTF-8, control characters in its strings, JSON in a JSON string, or wrapped in an object of the relay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # control characters in strings
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.I)
_WRAPPERS = ("data", "response", "result", "completion", "body", "output")
_DONE = "[DONE]"
_MOST_VALUES = 200_000  # of one body: a stream has one a token
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal", "text")


def completion(body: bytes, headers: Mapping[str, str]) -> Any:
    """The completion in a body as one JSON object, or the object that comes nearest to one (an error, say).

    headers: by lower-case names. Returns None where no JSON is in it. A stream that broke off before its end holds no
    completion; its last object is returned without choices.
    """
    text = decoded(body, headers)
    values = list(_values(text))
    if len(values) == 1:
        values = _unwrapped(values[0])
    found = [value for value in values if isinstance(value, dict)]
    whole = [value for value in found if isinstance(value.get("choices"), list)]
    if len(found) == len(whole) == 1 and not _is_stream(found[0]):
        return found[0]
    if not whole:
        return found[0] if found else None
    if _is_finished(whole[0]):  # what follows it may have the usage
        usage = next((value["usage"] for value in whole if value.get("usage")), None)
        return whole[0] | ({"usage": usage} if usage else {})
    if errors := [value for value in found if value.get("error") and not value.get("choices")]:
        return errors[0]
    return _joined(whole, is_done=_DONE in text)


def decoded(body: bytes, headers: Mapping[str, str]) -> str:
    """The body as text: by its byte order mark, by the charset of the header, else as UTF-8; what does not fit is
    replaced."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    named = _CHARSET.search(headers.get("content-type", ""))
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            return body.decode(named[1] if named else "utf-8", "replace")
        except LookupError:  # a charset that does not exist
            return body.decode("utf-8", "replace")


def _values(text: str) -> Iterator[Any]:
    """The JSON values of a body: of its events where it is a stream, else the first and those that follow directly."""
    if re.search(r"^\s*data:", text[:100_000], re.M) and not text.lstrip().startswith(("{", "[")):
        for event in _events(text):
            yield from _values_in(event, most=1)
        return
    yield from _values_in(re.sub(r"\A(?:\s*:[^\n]*\n)+", "", text), _MOST_VALUES)


def _events(text: str) -> Iterator[str]:
    """The data of each server-sent event. Source: the HTML standard, 9.2.6; a line may lack the blank one behind it."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        field, _, value = line.strip().partition(":")
        if field == "data":
            if lines and _is_whole("\n".join(lines)):
                yield "\n".join(lines)
                lines = []
            lines.append(value.removeprefix(" "))
        elif not line.strip() and lines:
            yield "\n".join(lines)
            lines = []


def _is_whole(text: str) -> bool:
    return next(_values_in(text, 1), None) is not None


def _values_in(text: str, most: int) -> Iterator[Any]:
    at = _start(text, 0)
    for _ in range(most):
        if at < 0:
            return
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value
        at = _start(text, at)


def _start(text: str, at: int) -> int:
    """Where the next object, list or string begins, with at most a few hundred characters before it; -1 for nowhere."""
    found = re.compile(r'[\[{]|(?<![^\s])"(?=\\?["{\[])').search(text, at, at + 500)
    return found.start() if found else -1


def _unwrapped(value: Any) -> list[Any]:
    """A JSON string that is JSON itself, a list, and the wrapper of a relay: what is inside."""
    if isinstance(value, str):
        value = next(_values_in(value, 1), value)
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and not isinstance(value.get("choices"), list):
        for name in _WRAPPERS:
            inner = value.get(name)
            if isinstance(inner, str):
                inner = next(_values_in(inner, 1), None)
            if isinstance(inner, dict) and isinstance(inner.get("choices"), list):
                return [inner]
    return [value]


def _is_finished(value: dict[str, Any]) -> bool:
    """Whether an object is a whole completion, no piece of a stream."""
    return any(isinstance(c, dict) and c.get("message") and c.get("finish_reason") for c in value["choices"])


def _is_stream(value: dict[str, Any]) -> bool:
    """Whether an object calls itself a piece of a stream."""
    return str(value.get("object") or "").endswith(".chunk")


# ------------------------------------------------------------------------------- a stream -> one completion


def _joined(events: list[dict[str, Any]], is_done: bool) -> dict[str, Any]:
    """One completion of the events of a stream: choices by their index, usage and the other fields as last given."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        whole |= {k: v for k, v in event.items() if v not in (None, "", [], {}) and k != "choices"}
        for position, choice in enumerate(event["choices"]):
            if isinstance(choice, dict):
                index = choice.get("index")
                index = index if isinstance(index, int) else position
                _add(choices.setdefault(index, {"index": index, "message": {}}), choice)
            if isinstance(choice, dict) and isinstance(choice.get("usage"), dict):
                whole["usage"] = choice["usage"]  # Moonshot
    is_whole = is_done or all(c.get("finish_reason") or c.get("is_message") for c in choices.values())
    if choices and is_whole:
        whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add(known: dict[str, Any], choice: dict[str, Any]) -> None:
    message = known["message"]
    known["is_message"] = known.get("is_message") or bool(choice.get("message"))
    for source in (choice.get("delta"), choice.get("message"), {"content": choice.get("text")}):
        if not isinstance(source, dict):
            continue
        is_delta = source is not choice.get("message")
        for name in _TEXTS:
            _add_text(message, name, source.get(name), is_delta)
        for call in source.get("tool_calls") or ():
            if isinstance(call, dict):
                _add_call(message.setdefault("tool_calls", []), call)
    for name, value in choice.items():
        if name not in ("delta", "message", "text", "index") and value is not None:
            known[name] = value


def _add_text(message: dict[str, Any], name: str, more: Any, is_delta: bool) -> None:
    """A delta continues the text; a whole message that begins with it replaces it."""
    if more is None or more == "":
        return
    known = message.get(name)
    if known is None or not isinstance(known, str) or not isinstance(more, str):
        message[name] = [*known, *more] if isinstance(known, list) and isinstance(more, list) else more
    else:
        message[name] = more if not is_delta and more.startswith(known) else known + more


def _add_call(calls: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """A delta of a tool call: its name comes first, then its arguments in pieces."""
    index = more.get("index", len(calls))
    known = next((call for call in calls if call.get("index") == index), None)
    if known is None:
        calls.append({**more, "index": index, "function": dict(more.get("function") or {})})
        return
    function = more.get("function")
    for name, value in function.items() if isinstance(function, dict) else ():
        if isinstance(value, str):
            known["function"][name] = (known["function"].get(name) or "") + value
