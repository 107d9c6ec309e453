"""A prompt with {columns} -> the prompt of one row."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from ..nouns.errors import UsageError
from .record import Record

# {{text}}: literal braces; {name}: a column. Anything else in braces (JSON, say) stays as it is
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}|\{([A-Za-z_][\w.\- ]*)\}")


class FilledPrompt(NamedTuple):
    """text: of the row. empty_columns: that the prompt asks for and the row leaves empty."""

    text: str
    empty_columns: frozenset[str] = frozenset()


class PromptTemplate:
    """The prompt of a run. column_names: that it asks for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.column_names = frozenset(match[2] for match in _PLACEHOLDER.finditer(text) if match[2])
        self._is_plain = _PLACEHOLDER.search(text) is None

    def fill(self, record: Record) -> FilledPrompt:
        """The prompt with the record's columns in it. A column that the record does not have counts as empty."""
        if self._is_plain:
            return FilledPrompt(self._text)
        empty: set[str] = set()

        def replacement(match: re.Match[str]) -> str:
            name = match[2]
            if name is None:
                return "{" + match[1] + "}"
            value = record.columns.get(name)
            if value in (None, ""):
                empty.add(name)
                return ""
            return str(value)

        return FilledPrompt(_PLACEHOLDER.sub(replacement, self._text), frozenset(empty))

    def check_columns(self, where: str, names: Collection[str]) -> None:
        """Raises UsageError for a column that the prompt asks for and no row has. names: of all rows."""
        for name in sorted(self.column_names.difference(names)):
            raise UsageError(
                f"{where}: the prompt asks for {{{name}}}, but the columns are"
                f" {', '.join(names)} (write {{{{{name}}}}} for the braces themselves)"
            )
