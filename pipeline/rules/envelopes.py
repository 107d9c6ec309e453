"""The body of an answer -> what it says: JSON, text fields, and the error inside any envelope seen in the field. Pure.

Knows the shapes that providers, servers and relays wrap an error in, not what the error means (see error_table.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..nouns.rows import HttpAnswer

# one-api and new-api set one of these headers on every answer, or one of these types in an error they wrote themselves
# (one-api common/helper and relay/controller/error.go; new-api types/error.go)
RELAY_HEADERS = ("x-oneapi-request-id", "x-new-api-version")
RELAY_TYPES = frozenset({"one_api_error", "new_api_error"})
_REQUEST_ID = "(request id: "  # both end their messages with it

# names of fields, in lower case and without _ and -: base_resp.status_msg (MiniMax), error_msg (Baidu), errors, detail
# (FastAPI), title (Cloudflare), and those of one-api's GeneralErrorResponse
_MESSAGES = (
    "message", "msg", "err", "errormsg", "errormessage", "errmsg", "statusmsg", "statusmessage", "retmsg", "resultmsg",
    "errordescription", "description", "reason", "detail", "details", "errors", "title",
)  # fmt: skip
_CODES = ("code", "statuscode", "errorcode", "errcode", "retcode", "resultcode")
_CONTAINERS = ("error", "baseresp", "header", "response", "errors", "result", "data")
_NO_ERROR = frozenset({"", "0", "200", "ok", "success", "none", "null", "false", "no error", "succeeded"})
# a parameter of the request that carries the row, not a setting
_OF_THE_ROW = ("message", "prompt", "input", "image", "content", "url", "file")
_DEEPEST = 3
_LONGEST_WORDS = 200


@dataclass(frozen=True, slots=True)
class ErrorText:
    """What an error body says, in any envelope. code and type may be empty.

    parameter: the setting that the server does not accept; empty where it names none.
    """

    message: str
    code: str = ""
    type: str = ""
    parameter: str = ""

    @property
    def words(self) -> str:
        """Code, type and message in lower case, for the rules of the error table."""
        return f"{self.code} {self.type} {self.message}".lower()


def loads(body: bytes) -> Any:
    """The body as JSON; None where it is not, or is nested too deeply to read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def as_text(value: Any) -> str | None:
    """A field that should be text: objects and lists as JSON, other values in Python's spelling. None stays None, and
    empty objects and lists become None."""
    if value is None or isinstance(value, str):
        return value
    return as_json(value) if isinstance(value, dict | list) else str(value)


def as_json(value: Any) -> str | None:
    """A field as JSON; None where there is nothing in it."""
    return None if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)


def first_words(body: bytes, most: int = _LONGEST_WORDS) -> str:
    """The first characters of a body that is not JSON, without markup and escapes. most: so many at the most."""
    text = body[:4000].decode("utf-8", "replace")
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I) if is_html(body) else text
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda escape: chr(int(escape[1], 16)), text)
    return cut(" ".join(text.split()), most)


def cut(text: str, most: int) -> str:
    """The beginning of a text, never with a part of a word at its end: half a key cannot be found and removed."""
    if len(text) <= most:
        return text
    return re.sub(r"[^\s\"'<>(){},\[\]\u0080-\U0010ffff]+$", "", text[: most + 1])[:most]


def is_html(body: bytes) -> bool:
    """Whether a body is a page for a browser."""
    start = body[:400].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or (
        start.startswith((b"<!--", b"<?xml")) and b"<html" in body[:2000].lower()
    )


def error_text(body: Any, raw: bytes = b"") -> ErrorText:
    """What an error body says.

    body: as `loads` read it. raw: the same in bytes; its first words are the message where it is not JSON, or no field
    of it has a known name.

    Envelopes: OpenAI's `{"error": {message, type, code, param}}`, where the code may be a number; Ollama's
    `{"error": text}`; the flat `{message, type, code}` of vLLM before 0.10.1; Gemini's list `[{"error": ...}]` with
    `status` for a type; Azure's `innererror.code`; OpenRouter's `error.metadata.raw`, which holds the provider's own
    words; FastAPI's `detail`; Azure API Management's `statusCode`; MiniMax's `base_resp`; Baidu's `error_msg`; and the bag
    of message fields in one-api's GeneralErrorResponse.
    """
    if isinstance(body, list):
        body = body[0] if body else {}
    if isinstance(body, str) and body.strip():
        return ErrorText(body)
    if not isinstance(body, dict):
        return ErrorText(first_words(raw))
    inner = body.get("error", body)
    if isinstance(inner, str):
        return ErrorText(inner, as_text(body.get("code")) or "", as_text(body.get("type")) or "")
    if not isinstance(inner, dict):
        inner = body
    message, code = _message(inner), _code(inner)
    metadata = inner.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        message = f"{message}: {metadata['raw']}"
    code = code or as_text(body.get("statusCode")) or ""
    nested = inner.get("innererror")
    if isinstance(nested, dict) and nested.get("code"):
        code = f"{code} {nested['code']}".strip()
    kind = as_text(inner.get("type")) or as_text(inner.get("status")) or ""
    return ErrorText(message, code, kind, _parameter(inner))


def _named(body: dict[str, Any], names: tuple[str, ...]) -> Iterator[Any]:
    """The fields of these names, in the order of the names, however they are spelled."""
    plain = {str(name).lower().replace("_", "").replace("-", ""): name for name in reversed(body)}
    return (body[plain[name]] for name in names if name in plain)


def _message(body: Any, depth: int = 0) -> str:
    """The server's words: of the object itself, else of an object inside."""
    if isinstance(body, list):
        body = body[0] if body else None
    if isinstance(body, str):
        return body
    if not isinstance(body, dict) or depth > _DEEPEST:
        return ""
    if text := next((t for value in _named(body, _MESSAGES) if (t := as_text(value))), ""):
        return text
    return next((t for inner in _named(body, _CONTAINERS) if (t := _message(inner, depth + 1))), "")


def _code(body: Any, depth: int = 0) -> str:
    if not isinstance(body, dict) or depth > _DEEPEST:
        return ""
    code = next((as_text(value) for value in _named(body, _CODES) if value not in (None, "", 0)), None)
    if code is None:
        return next((c for inner in _named(body, _CONTAINERS) if (c := _code(inner, depth + 1))), "")
    return code


def _parameter(error: dict[str, Any]) -> str:
    """OpenAI's `param`, or the place in pydantic's `detail`; empty where it is of the row, or a relay's status."""
    name = error.get("param")
    detail = error.get("detail")
    first = detail[0] if isinstance(detail, list) and detail else None
    if (
        not name
        and isinstance(first, dict)
        and isinstance(place := first.get("loc"), list)
        and len(place) > 1
    ):
        name = place[1]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.\[\]]*", name):
        return ""
    return "" if name.lower().startswith(_OF_THE_ROW) else name


def error_inside(body: Any) -> Any:
    """The error that a relay or router put into a 200: beside the choices, or in the first of them. None where there is
    none; an error that says nothing is none."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    beside = body.get("error")
    if beside and says_something(beside):
        return beside
    inside = first.get("error") if isinstance(first, dict) else None
    return inside if inside and says_something(inside) else None


def says_something(error: Any) -> bool:
    """Whether an error has any content: not only empty fields, zeros and words for success."""
    if isinstance(error, dict):
        return any(says_something(value) for value in error.values())
    if isinstance(error, list):
        return any(map(says_something, error))
    return error not in (None, False) and str(error).strip().lower() not in _NO_ERROR


def looks_like_relay(answer: HttpAnswer, text: ErrorText | None = None) -> bool:
    """Whether an answer bears the marks of one-api or new-api.

    text: what its error says; None where only the headers are to be looked at.
    """
    if any(name in answer.headers for name in RELAY_HEADERS):
        return True
    return text is not None and (text.type in RELAY_TYPES or _REQUEST_ID in text.message)
