"""The body of an answer -> what it says: JSON, text fields, and the error inside any envelope seen in the field. Pure.

Knows the shapes that providers, servers and relays wrap an error in, not what the error means (see error_table.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..nouns.rows import HttpAnswer

# one-api and new-api set one of these headers on every answer, or one of these types in an error they wrote themselves
# (one-api common/helper and relay/controller/error.go; new-api types/error.go)
RELAY_HEADERS = ("x-oneapi-request-id", "x-new-api-version")
RELAY_TYPES = frozenset({"one_api_error", "new_api_error"})
_REQUEST_ID = "(request id: "  # both end their messages with it

_MESSAGE_FIELDS = ("message", "msg", "err", "error_msg", "detail", "title")


@dataclass(frozen=True, slots=True)
class ErrorText:
    """What an error body says, whatever envelope it came in. code and type may be empty."""

    message: str
    code: str = ""
    type: str = ""

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


def first_words(body: bytes) -> str:
    """The first 200 characters of a body that is not JSON, without markup."""
    text = body[:2000].decode("utf-8", "replace")
    return " ".join(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I).split())[:200]


def error_text(body: Any, raw: bytes = b"") -> ErrorText:
    """What an error body says.

    body: as `loads` read it. raw: the same in bytes; its first words are the message where it is not JSON.

    Envelopes: OpenAI's `{"error": {message, type, code}}`, where the code may be a number; Ollama's `{"error": text}`;
    the flat `{message, type, code}` of vLLM before 0.10.1; Gemini's list `[{"error": ...}]` with `status` for a type;
    Azure's `innererror.code`; OpenRouter's `error.metadata.raw`, which holds the provider's own words; FastAPI's
    `detail`; Azure API Management's `statusCode`; Cloudflare's `title`; and the bag of message fields in one-api's
    GeneralErrorResponse.
    """
    if isinstance(body, list):
        body = body[0] if body else {}
    if not isinstance(body, dict):
        return ErrorText(first_words(raw))
    inner = body.get("error", body)
    if isinstance(inner, str):
        return ErrorText(inner, as_text(body.get("code")) or "", as_text(body.get("type")) or "")
    if not isinstance(inner, dict):
        inner = body
    message = next((text for name in _MESSAGE_FIELDS if (text := as_text(inner.get(name)))), "")
    metadata = inner.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        message = f"{message}: {metadata['raw']}"
    code = as_text(inner.get("code")) or as_text(body.get("statusCode")) or ""
    nested = inner.get("innererror")
    if isinstance(nested, dict) and nested.get("code"):
        code = f"{code} {nested['code']}".strip()
    return ErrorText(message, code, as_text(inner.get("type")) or as_text(inner.get("status")) or "")


def error_inside(body: Any) -> Any:
    """The error that a relay or router put into a 200: beside the choices, or in the first of them. None where there is
    none."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return body.get("error") or (first.get("error") if isinstance(first, dict) else None) or None


def looks_like_relay(answer: HttpAnswer, text: ErrorText | None = None) -> bool:
    """Whether an answer bears the marks of one-api or new-api.

    text: what its error says; None where only the headers are to be looked at.
    """
    if any(name in answer.headers for name in RELAY_HEADERS):
        return True
    return text is not None and (text.type in RELAY_TYPES or _REQUEST_ID in text.message)
