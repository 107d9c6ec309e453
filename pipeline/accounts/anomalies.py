"""Usage of a whole run that cannot be true, by its columns: the same rules as `rules.usage` has for a run that goes on,
and what only many answers show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..rules.tokens import tokens_of_length
from ..rules.usage import is_dropped, is_inflated
from ..vision.families import Flat
from ..vision.models import vision_model

COLUMNS = (
    "model_requested",
    "prompt",
    "prompt_tokens",
    "sent_width",
    "sent_height",
    "sent_bytes",
    "image_count",
)
_FEWEST = 20  # answers before a pattern is one
_SAME_TOKENS = 2  # a spread of reported tokens that is none
_DIFFERENT = 1.5  # largest to smallest by the formula

Numbers = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Model:
    """What the answers of one model reported for one picture each, beside its formula."""

    answers: int = 0
    formula: tuple[float, float] = (float("inf"), 0.0)
    reported: tuple[float, float] = (float("inf"), 0.0)

    def add(self, formula: Numbers, reported: Numbers) -> None:
        if len(formula):
            self.answers += len(formula)
            self.formula = min(self.formula[0], formula.min()), max(self.formula[1], formula.max())
            self.reported = min(self.reported[0], reported.min()), max(self.reported[1], reported.max())

    @property
    def is_flat(self) -> bool:
        """As many for every picture, though the formula says otherwise: the server did not count."""
        low, high = self.formula
        return (
            self.answers >= _FEWEST
            and high >= _DIFFERENT * low
            and self.reported[1] - self.reported[0] <= _SAME_TOKENS
        )


@dataclass(slots=True)
class Anomalies:
    """formula_tokens, reported_tokens: prompts by our formula and as reported, where both are known: of rows with
    one picture."""

    dropped: int = 0
    inflated: int = 0
    formula_tokens: int = 0
    reported_tokens: int = 0
    _tokens: dict[tuple[str, str | None, int, int], int] = field(default_factory=dict)
    _models: dict[str, _Model] = field(default_factory=dict)

    def add(self, table: pa.Table, settings: dict[str, Any]) -> None:
        """table: with COLUMNS. settings: the run's answer settings."""
        names = table["model_requested"].combine_chunks().dictionary_encode()
        for name in names.dictionary.to_pylist():
            rows = (
                table.filter(pc.equal(table["model_requested"], name)) if len(names.dictionary) > 1 else table
            )
            self._add(rows, name, settings)

    def _add(self, table: pa.Table, model: str, settings: dict[str, Any]) -> None:
        reported, count = _numbers(table["prompt_tokens"]), _numbers(table["image_count"])
        pictures = self._pictures(table, model, settings)
        text = _text_tokens(table["prompt"]) + _text_tokens(
            pa.chunked_array([[settings.get("system") or ""]])
        )
        # of several pictures only the first one's size is known
        known = np.isfinite(reported) & np.isfinite(pictures) & (count == 1)
        reported, pictures, text = (column[known] for column in (reported, pictures, text))
        weight = _numbers(table["sent_bytes"])[known] * 4 / 3
        self.formula_tokens += int((pictures + text).sum())
        self.reported_tokens += int(reported.sum())
        dropped = is_dropped(text, pictures, reported)
        self.dropped += int(dropped.sum())
        self.inflated += int((is_inflated(text, pictures, reported, weight) & ~dropped).sum())
        one = ~dropped
        if not isinstance(vision_model(model).family, Flat):
            self._models.setdefault(model, _Model()).add(pictures[one], (reported - text)[one])

    def _pictures(self, table: pa.Table, model: str, settings: dict[str, Any]) -> Numbers:
        """Tokens of each row's first picture by its formula; NaN where none was sent."""
        width, height = _numbers(table["sent_width"]), _numbers(table["sent_height"])
        sizes = np.nan_to_num(width) * 2**20 + np.nan_to_num(height)
        different, places = np.unique(sizes, return_inverse=True)
        tokens = [self._picture(model, settings, *divmod(int(size), 2**20)) for size in different]
        return np.array(tokens, dtype=np.float64)[places]

    def _picture(self, model: str, settings: dict[str, Any], width: int, height: int) -> float:
        if not width or not height:
            return float("nan")
        key = model, settings.get("detail"), width, height
        if key not in self._tokens:
            family = vision_model(model, settings.get("image_rules", "auto")).family
            self._tokens[key] = family.tokens(width, height, settings.get("detail"))
        return self._tokens[key]

    def findings(self, without_usage: int, absurd_usage: int = 0) -> list[str]:
        """What is wrong, in sentences; empty where nothing is.

        without_usage, absurd_usage: answers that report no tokens, or more than there can be.
        """
        found = []
        if absurd_usage:
            found.append(
                f"{absurd_usage:,} answers report more tokens than such a request can have: these counts are left out of"
                " all sums and estimates, and the answers have no price here"
            )
        if self.inflated:
            found.append(
                f"{self.inflated:,} answers report many times the prompt tokens of text and picture: their base64 may be"
                " counted, and billed, as text"
            )
        if self.dropped:
            found.append(
                f"{self.dropped:,} answers report hardly more prompt tokens than the text has: the model may not have been"
                " shown the pictures"
            )
        found += [
            f"{name}: {model.reported[0]:,.0f} tokens are reported for every picture, though they count"
            f" {model.formula[0]:,.0f} to {model.formula[1]:,.0f}: the usage may be invented"
            for name, model in self._models.items()
            if model.is_flat
        ]
        if without_usage:
            found.append(
                f"{without_usage:,} answers came without usage: they have no tokens and no price here"
            )
        return found


def _numbers(column: pa.ChunkedArray) -> Numbers:
    numbers: Numbers = pc.cast(column, pa.float64()).to_numpy()  # null becomes NaN
    return numbers


def _text_tokens(column: pa.ChunkedArray) -> Numbers:
    """As `rules.tokens.text_tokens`, about: a character of three bytes counts as wide, one of two bytes as half of it."""
    if pa.types.is_dictionary(column.type):
        column = column.combine_chunks()
        different = _text_tokens(pa.chunked_array([column.dictionary]))
        each: Numbers = different[pc.fill_null(column.indices, 0).to_numpy()]
        return each
    characters, size = (
        np.nan_to_num(_numbers(length)) for length in (pc.utf8_length(column), pc.binary_length(column))
    )
    tokens: Numbers = tokens_of_length(characters, (size - characters) / 2)
    return tokens
