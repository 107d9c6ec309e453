"""The strongest way to ask that one endpoint takes, learned from its answers. Pure.

    json_schema strict -> json_schema -> forced tool -> json_object with the schema in the text -> text

An endpoint that does not take a way refuses it (400) or ignores it (200 and prose; relays drop `response_format` for
Claude). Until an answer shows that the way works, few requests are in flight, so that little is paid to find out.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..nouns.labels import Way

MOST_MISSES = 3  # answers in a row without JSON: the way is ignored
LADDER: tuple[Way, ...] = ("strict", "schema", "tool", "json", "text")
BY_SETTING: dict[str, tuple[Way, ...]] = {
    "auto": LADDER,
    "schema": ("strict", "schema"),
    "tool": ("tool",),
    "json": ("json",),
    "text": ("text",),
}
_PARAMETER: dict[Way, str] = {
    "strict": "response_format",
    "schema": "response_format",
    "json": "response_format",
    "tool": "tools",
}
# words of a refusal that are about the parameter, in lower case
_NAMES = {
    "response_format": ("response_format", "response format", "json_schema", "json schema", "json_object", "json mode",
                        "structured output", "responseschema", "response_schema", "no endpoints found", "cannot find field"),
    "tools": ("tool", "function call", "function_call", "no endpoints found", "cannot find field"),
}  # fmt: skip
# words of a refusal that are about the schema itself: no other way of this parameter would take it
_SCHEMA_WORDS = (
    "invalid schema for", "invalid_json_schema", "schema is too complex", "grammar is too large", "invalid_function_parameters",
)  # fmt: skip
_REFUSING = frozenset({400, 404, 405, 415, 422, 500, 501})


class Ladder:
    """ways: those allowed, the strongest first. known: the one that an earlier start found; None to find out."""

    def __init__(self, ways: Sequence[Way] = LADDER, known: Way | None = None) -> None:
        self._ways = tuple(ways)
        self.way: Way = known if known in self._ways and known is not None else self._ways[0]
        self.is_known = known == self.way or len(self._ways) == 1
        self._misses = 0  # answers in a row without JSON under `way`; `answered` changes it
        self._dropped: set[str] = set()  # parameters that were ignored

    @property
    def most_in_flight(self) -> int | None:
        """How many requests may be in flight now; None for any number."""
        if self.is_known:
            return None
        return MOST_MISSES - self._misses if self._misses else 1

    def answered(self, way: Way, is_json: bool) -> str | None:
        """An answer to a request in this way came. Returns a line for the user where that ends the way."""
        if way != self.way:
            return None
        if is_json:
            self.is_known, self._misses = True, 0
            return None
        self._misses += 1
        if self._misses < MOST_MISSES:
            return None
        if self._next() is None:  # nothing weaker is left: this is the way, whether it works or not
            self.is_known = True
            return None
        if way in _PARAMETER:
            self._dropped.add(_PARAMETER[way])
        return self._step(f"ignores {_PARAMETER.get(way, way)}")

    def refused(self, way: Way, status: int | None, message: str) -> str | None:
        """A request was refused. Returns a line for the user where the refusal is about the way, not about the row."""
        words = message.lower()
        names = _NAMES.get(_PARAMETER.get(way, ""), ())
        if status not in _REFUSING or not any(name in words for name in names) or is_about_schema(message):
            return None
        if way != self.way:
            return f"{way} was refused before"
        return self._step(f"refuses {way}") if self._next() is not None else None

    def _next(self) -> Way | None:
        later = self._ways[self._ways.index(self.way) + 1 :]
        dropped = self._dropped | (
            {_PARAMETER[self.way]} if self._misses and self.way in _PARAMETER else set()
        )
        return next((way for way in later if _PARAMETER.get(way) not in dropped), None)

    def _step(self, why: str) -> str:
        following = self._next()
        assert following is not None  # noqa: S101  the callers looked
        self.way, self._misses = following, 0
        self.is_known = self._next() is None
        return f"{why}; asking in the way {self.way} from now on"


def is_about_schema(message: str) -> bool:
    """Whether a refusal is about the user's schema: a mistake in the configuration, the same for every row."""
    return any(words in message.lower() for words in _SCHEMA_WORDS)
