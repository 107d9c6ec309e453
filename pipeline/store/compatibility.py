"""May this run folder take these answers? Asked by a start and by a plan, before anything is sent.

One dataset holds answers to one question: the same source, the same settings that change answers, one currency.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..nouns.config import IMAGE_DEFAULTS, PriceTable, RunConfig
from ..nouns.errors import RunError, UsageError
from .database import is_blank
from .folder import RunFolder
from .journal import Counts, Journal


@dataclass(frozen=True, slots=True)
class EarlierStarts:
    """What earlier starts have left in a run folder.

    counts: of its rows. run: run.json; empty while there is no answer, since a first start with a typo in it
    must not bind the next one.
    """

    path: Path
    counts: Counts
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_lost_settings(self) -> bool:
        """`repair` made run.json anew: nothing says which source and settings the answers belong to."""
        return bool(self.run.get("settings_lost"))

    def check_may_take(self, source: Path | None, config: RunConfig) -> None:
        """Refuse to mix answers to different questions in one dataset.

        source: resolved path of what the start would ask; None where the user says that it has moved.
        Raises UsageError that names each difference.
        """
        if self.run and not self.has_lost_settings:
            if source is not None:
                self._check_source(source)
            self._check_settings(config.answer_settings())
            self._check_currency((config.prices or PriceTable()).currency)

    def _check_source(self, source: Path) -> None:
        """a/photos and b/photos may hold the same file names."""
        before = self.run["source"]
        if Path(before) != source:
            raise UsageError(
                f"{self.path} holds answers for {before}, this is {source}; nothing was sent:\n"
                "give this source a run folder of its own with -o, or add --moved if it is the same source in a"
                " new place"
            )

    def _check_settings(self, now: Mapping[str, Any]) -> None:
        """Settings that an older version did not know were at their default there."""
        before = IMAGE_DEFAULTS | self.run["answer_settings"]
        differences = [
            f"  {name}: {_show(before, name)} before, {_show(now, name)} now"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise UsageError(
                f"{self.path} holds answers to other settings; nothing was sent:\n"
                + "\n".join(differences)
                + "\ncontinue with the old settings, or give the new ones a run folder of their own with -o"
            )

    def _check_currency(self, now: str) -> None:
        """Dollars and yuan cannot be added up in one column."""
        before = self.run.get("currency", now)
        if before != now:
            raise UsageError(
                f"{self.path}: the cost of its answers is in {before}, these prices are in {now}; nothing was sent:\n"
                f'give the prices in {before} too ([prices] currency = "{before}"), or use a run folder of their'
                " own with -o"
            )


def read_earlier_starts(folder: RunFolder) -> EarlierStarts:
    """Look at a run folder without changing it; it need not exist yet.

    Raises UsageError where the path cannot be a run folder, RunError where it holds answers and its journal or
    run.json cannot be read.
    """
    folder.check_usable()
    counts = _read_counts(folder)
    has_answers = any(folder.results.glob("part-*.parquet")) if counts is None else counts.answered > 0
    counts = counts or Counts(0, 0, 0)
    if not has_answers:
        return EarlierStarts(folder.path, counts)
    if not folder.run_json.exists():
        raise RunError(
            f"{folder.run_json}: missing, so nothing says which settings produced these answers;"
            f" put it back, or run `captionmill repair {folder.path}`",
            kind="damaged_run",
        )
    return EarlierStarts(folder.path, counts, folder.read_run())


def _read_counts(folder: RunFolder) -> Counts | None:
    """None without a journal, and where the first start died while it made it."""
    if not folder.journal.exists() or (not folder.run_json.exists() and is_blank(folder.journal)):
        return None
    journal = Journal(folder.journal)
    try:
        return journal.counts()
    finally:
        journal.close()


def _show(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "not set"
