"""A chat request -> a chat completion, or the 400 that a provider gives for it. Knows nothing of HTTP."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..rules.tokens import text_tokens
from ..vision.models import vision_model
from .describer import PictureFacts, describe, measure
from .refusal import BadRequest
from .structured import ALL_FORMS, FormSupport, check_form, fill, schema_in_text

DEFAULT_ANSWER_TOKENS = 300
_DATA_URL = re.compile(r"data:(image/[a-z+.-]+);base64,")
_MIME_BY_FORMAT = {"jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class Question:
    """A checked chat request. pictures: undecoded, (declared type, bytes, detail)."""

    model: str
    text: str
    pictures: tuple[tuple[str, bytes, str | None], ...]
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    response_format: dict[str, Any] | None
    tool: dict[str, Any] | None  # the function that must be called
    is_stream: bool = False
    wants_usage: bool = False  # at the end of a stream
    support: FormSupport = ALL_FORMS

    @property
    def answer_tokens(self) -> int:
        """What a limiter that charges up front takes for the answers."""
        return self.n * (self.max_tokens or DEFAULT_ANSWER_TOKENS)


def read_question(raw: bytes, support: FormSupport = ALL_FORMS) -> Question:
    """Check a body against the protocol. support: the forms that are taken. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise BadRequest("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("you must provide a model parameter", param="model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("Invalid 'messages': empty array.", "empty_array", "messages")
    texts: list[str] = []
    pictures: list[tuple[str, bytes, str | None]] = []
    for message in messages:
        _read_message(message, texts, pictures)
    body = support.kept(body)
    check_form(body, "\n".join(texts), support)
    stop = body.get("stop") or ()
    return Question(
        model=body["model"],
        text="\n".join(texts),
        pictures=tuple(pictures),
        n=_whole(body, "n", 1, 128) or 1,
        max_tokens=_whole(body, "max_completion_tokens", 1) or _whole(body, "max_tokens", 1),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        response_format=body.get("response_format"),
        tool=_forced_tool(body),
        support=support,
        is_stream=bool(body.get("stream")),
        wants_usage=isinstance(options := body.get("stream_options"), dict)
        and bool(options.get("include_usage")),
    )


def prompt_tokens(question: Question, measured: tuple[PictureFacts, ...]) -> int:
    """What the model that is asked for would count: pictures by its family's formula."""
    family = vision_model(question.model).family
    sizes = zip(measured, question.pictures, strict=True)
    pictures = sum(family.tokens(m.width, m.height, detail) for m, (_, _, detail) in sizes)
    return pictures + text_tokens(question.text)


def look(question: Question) -> tuple[PictureFacts, ...]:
    """Decode and measure the pictures. Raises BadRequest for what is none, or of another type than declared."""
    found = []
    for mime, data, _ in question.pictures:
        try:
            measured = measure(data)
        except ValueError:
            raise _unsupported_image() from None
        if _MIME_BY_FORMAT[measured.format] != mime:
            raise BadRequest(
                f"Image does not match the provided media type {mime}: it is {_MIME_BY_FORMAT[measured.format]}.",
                "invalid_image_format",
            )
        found.append(measured)
    return tuple(found)


def answer(
    question: Question, measured: tuple[PictureFacts, ...], created: int, number: int
) -> dict[str, Any]:
    """The completion. created: Unix seconds. number: of the answer, for its id."""
    choices = [_choice(question, measured, index) for index in range(question.n)]
    prompt = prompt_tokens(question, measured)
    completion = sum(tokens for _, tokens in choices)
    return {
        "id": f"chatcmpl-builtin-{number:08d}",
        "object": "chat.completion",
        "created": created,
        "model": question.model,
        "choices": [choice for choice, _ in choices],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": "fp_builtin_describer",
    }


def events(completion: dict[str, Any], wants_usage: bool) -> Iterator[bytes]:
    """The completion as server-sent events: the role, the text word by word, the ending, the usage on request, [DONE]."""
    base = {name: completion[name] for name in ("id", "created", "model", "system_fingerprint")}
    base["object"] = "chat.completion.chunk"
    for choice in completion["choices"]:
        for delta in _deltas(choice["message"]):
            yield _event(base | {"choices": [_piece(choice["index"], delta, None)]})
        yield _event(base | {"choices": [_piece(choice["index"], {}, choice["finish_reason"])]})
    if wants_usage:
        yield _event(base | {"choices": [], "usage": completion["usage"]})
    yield b"data: [DONE]\n\n"


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for word in re.findall(r"\s*\S+|\s+$", message["content"] or ""):
        yield {"content": word}
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield {"tool_calls": [{"index": index} | call]}


def _piece(index: int, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


# ------------------------------------------------------------------------------- the request


def _read_message(message: Any, texts: list[str], pictures: list[tuple[str, bytes, str | None]]) -> None:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        texts.append(content)
        return
    for part in content or ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            pictures.append(_picture(part.get("image_url")))
        else:
            raise BadRequest(
                f"Invalid value: {kind!r}. Supported values are: 'text' and 'image_url'.",
                "invalid_value",
                "messages",
            )


def _picture(image_url: Any) -> tuple[str, bytes, str | None]:
    if not isinstance(image_url, dict) or not isinstance(image_url.get("url"), str):
        raise BadRequest("Invalid type for 'image_url': expected an object.", "invalid_type", "messages")
    url = image_url["url"]
    found = _DATA_URL.match(url)
    if not found:
        raise BadRequest(
            "Invalid image_url: the built-in endpoint takes data:image/...;base64, only.", "invalid_image_url"
        )
    if found[1] not in _MIME_BY_FORMAT.values():
        raise _unsupported_image()
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("Invalid base64 image_url.", "invalid_base64_image_url") from None
    return found[1], data, image_url.get("detail")


def _unsupported_image() -> BadRequest:
    return BadRequest(
        "You uploaded an unsupported image. Please make sure your image has of one the following formats:"
        " ['png', 'jpeg', 'gif', 'webp'].",
        "invalid_image_format",
    )


def _whole(body: dict[str, Any], name: str, low: int, high: int = 2**31) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"Invalid '{name}': expected a whole number from {low}.", "invalid_value", name)
    return value


def _forced_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """The function to call: one that is named, or the first where any must be; else none."""
    functions = [t.get("function") or {} for t in body.get("tools") or () if isinstance(t, dict)]
    choice = body.get("tool_choice")
    if choice == "required":
        if not functions:
            raise BadRequest("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
        return functions[0]
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        for function in functions:
            if function.get("name") == name:
                return function
        raise BadRequest(f"Tool choice {name!r} not found in 'tools'.", param="tool_choice")
    return None


# ------------------------------------------------------------------------------- the answer


def _choice(question: Question, measured: tuple[PictureFacts, ...], index: int) -> tuple[dict[str, Any], int]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if question.tool is not None:
        arguments = json.dumps(fill(question.tool.get("parameters") or {}, measured, index, question.support))
        message["tool_calls"] = [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": question.tool.get("name", ""), "arguments": arguments},
            }
        ]
        return _as_choice(index, message, "tool_calls"), text_tokens(arguments)
    text, finish = _cut(_text(question, measured, index), question)
    message["content"] = text
    return _as_choice(index, message, finish), text_tokens(text)


def _as_choice(index: int, message: dict[str, Any], finish: str) -> dict[str, Any]:
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _text(question: Question, measured: tuple[PictureFacts, ...], index: int) -> str:
    wanted = question.response_format or {}
    schema = schema_in_text(question.text)
    if schema is not None and wanted.get("type") in (None, "text", "json_object"):
        found = json.dumps(fill(schema, measured, index, question.support))
        return found if wanted.get("type") == "json_object" else f"This is the label:\n```json\n{found}\n```"
    if wanted.get("type") == "json_object":
        return json.dumps({"pictures": [m.facts() for m in measured]})
    if wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema") or {}
        return json.dumps(fill(schema, measured, index, question.support))
    if not measured:
        return "The built-in describer was given no picture, and it is no language model."
    return "\n".join(describe(m, index) for m in measured)


def _cut(text: str, question: Question) -> tuple[str, str]:
    """Ended by a stop sequence or by max_tokens, whichever comes first."""
    places = [at for s in question.stop if (at := text.find(s)) >= 0]
    if places:
        text = text[: min(places)]
    if question.max_tokens is not None and text_tokens(text) > question.max_tokens:
        while text_tokens(text) > question.max_tokens:
            text = text[: -max(1, (text_tokens(text) - question.max_tokens))]
        return text, "length"
    return text, "stop"
