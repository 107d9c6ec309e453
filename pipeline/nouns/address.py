"""Where requests go: the address of one endpoint, its key, and how the key stays out of everything we write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit

from .errors import UsageError

# A shorter key (`any`, `x`: what users of a local server write) cannot be told from a word in a message or caption.
SHORTEST_SECRET = 8
_VERSION_SEGMENT = re.compile(r"/v\d+\w*(/|$)")
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go. key: None where the endpoint asks for none (Ollama, vLLM).

    label: what tells it from another at the same address; empty where there is none.
    """

    url: str
    key: str | None = field(repr=False)
    label: str = ""

    @property
    def name(self) -> str:
        """Host and path, for the `endpoint` column: no query, no credentials."""
        parts = urlsplit(self.url)
        name = parts.netloc.rpartition("@")[2] + parts.path
        return f"{name} ({self.label})" if self.label else name

    def scrub(self, text: str) -> str:
        """Replace the key in plain text by `[key]`; see `_secret`. Returns the text."""
        return text.replace(self._secret, "[key]") if self._secret else text

    def scrub_record(self, record: str) -> str:
        """Replace the key in JSON text, where it is written with escapes, by `[key]`; see `_secret`. Returns the text."""
        return record.replace(_in_json(self._secret), "[key]") if self._secret else record

    @property
    def _secret(self) -> str | None:
        """The key, if it must not show anywhere; None without one, or if it is shorter than SHORTEST_SECRET."""
        return self.key if self.key and len(self.key) >= SHORTEST_SECRET else None

    @property
    def models_url(self) -> str:
        """Where the endpoint lists its models: beside /chat/completions, for Azure beside its deployments."""
        parts = urlsplit(self.url)
        path = re.sub(r"(/deployments/[^/]+)?/chat/completions$", "", parts.path) + "/models"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: no key is needed there."""
        return (urlsplit(self.url).hostname or "").startswith(_LOOPBACK)

    def headers(self) -> dict[str, str]:
        """The headers of every request, with the key where the endpoint expects it."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            if "/openai/deployments/" in self.url:  # Azure takes a key in a header of its own
                headers["api-key"] = self.key
            else:
                headers["Authorization"] = f"Bearer {self.key}"
        return headers


_QUOTES = "\"'`"
_BEFORE_A_KEY = re.compile(
    r"(?:(?:export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=|authorization\s*[:=]|api-key\s*:|bearer\b)\s*", re.I
)


def clean_key(text: str) -> str | None:
    """The key that a variable holds, without what was copied with it: quotation marks, `Bearer`, the variable's name, a
    comment behind it.

    Returns None where there is none. Raises ValueError, without the key in its message, for what cannot be a key.
    """
    key, before = text.strip(), None
    while key != before:
        before = key
        key = re.sub(r"\s+#.*$", "", key, flags=re.S).strip().rstrip(",;").strip()
        if len(key) > 1 and key[0] == key[-1] and key[0] in _QUOTES:
            key = key[1:-1].strip()
        key = _BEFORE_A_KEY.sub("", key, count=1) if _BEFORE_A_KEY.match(key) else key
    if not (key.isascii() and key.isprintable()):
        raise ValueError("has characters that cannot be part of a key (only printable ASCII can)")
    if " " in key or key.strip(_QUOTES) != key:
        raise ValueError("has spaces or quotation marks in it: give the key alone")
    return key or None


@lru_cache
def _in_json(key: str) -> str:
    return json.dumps(key)[1:-1]


def chat_completions_url(base_url: str) -> str:
    """The full address for what users write: with or without /v1, or already complete.

    Azure's deployment form keeps its query. Raises UsageError for what is no http address.
    """
    try:
        parts = urlsplit(base_url.strip())
        _ = parts.port  # checked only when it is asked for
    except ValueError as error:
        raise UsageError(f"--base-url {base_url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url {base_url!r}: an address like https://api.openai.com/v1 is needed")
    if parts.username or parts.password:
        raise UsageError("--base-url: leave name and password out of the address; the key has a variable")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        if not _VERSION_SEGMENT.search(path) and "/openai/deployments/" not in path:
            path += "/v1"
        path += "/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
