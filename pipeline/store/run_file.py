"""run.json over one start of a run: what it says, and when it is written (when the start begins, when it ends)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..nouns.errors import RunError, UsageError
from ..nouns.labels import Way
from .folder import RunFolder, utc_now


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What one start knows of its run when it begins.

    program_version: of captionmill. source: resolved path. rows: of the whole source. fingerprint: of all its ids
    and contents. endpoints: their names. currency: of all its money. answer_settings: would change answers.
    other_settings: would not.
    """

    program_version: str
    source: str
    rows: int
    fingerprint: str
    endpoints: list[str]
    currency: str
    answer_settings: Mapping[str, Any]
    other_settings: Mapping[str, Any]


class RunFile:
    """run.json over one start.

    Made before the start changes it: what the last start wrote stays readable in `endpoints_before` and
    `has_no_row_left`. A file that is missing or damaged counts as empty; `compatibility` has refused it already
    where it matters.
    """

    def __init__(self, folder: RunFolder, facts: RunFacts) -> None:
        self.folder = folder
        self._facts = facts
        before: Mapping[str, Any] = {}
        with contextlib.suppress(UsageError, RunError):
            before = folder.read_run()
        self._created = before.get("created") or utc_now()
        self._started = utc_now()
        # names of the endpoints of the last start; None for a new run
        self.endpoints_before: list[str] | None = before.get("endpoints")
        # way to ask for labels by endpoint and model, as earlier starts found it; `Session` adds what this one finds
        self.structured: dict[str, Way] = dict(before.get("structured") or {})
        # the last start ended with all rows answered or failed, and the source has not changed since
        self.has_no_row_left = (
            before.get("rows_left") == 0 and before.get("manifest_fingerprint") == facts.fingerprint
        )

    def begin(self) -> None:
        """Write that the start has begun. Raises RunError where it cannot be written."""
        self._write(rows_left=None, ended=None)

    def end(self, rows_left: int) -> None:
        """Write that it is over. rows_left: have neither an answer nor a failure. Raises RunError."""
        self._write(rows_left, utc_now())

    def _write(self, rows_left: int | None, ended: str | None) -> None:
        facts = self._facts
        self.folder.write_run(
            {
                "captionmill_version": facts.program_version,
                "created": self._created,
                "last_started": self._started,
                "last_ended": ended,
                "source": facts.source,
                "rows": facts.rows,
                "rows_left": rows_left,
                "manifest_fingerprint": facts.fingerprint,
                "endpoints": facts.endpoints,
                "currency": facts.currency,
                "answer_settings": facts.answer_settings,
                "other_settings": facts.other_settings,
                **({"structured": self.structured} if self.structured else {}),
            }
        )
