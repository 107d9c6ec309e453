"""What a request will cost in tokens, before it is sent; learns from what it did cost. Pure.

Pictures by the formula of the model's family (`vision/`); text by its length.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..nouns.rows import TokenEstimate, Usage

if TYPE_CHECKING:  # `report` and `status` count tokens without settings
    from ..nouns.config import ChatSettings

# The most that a prompt may take: its formula times the worst ratio that usage has shown of late, times _MARGIN, and
# TEMPLATE_TOKENS for the chat template. UNLEARNED_RATIO stands in until there are enough answers: by so much formulas may
# be off.
UNLEARNED_RATIO = 1.25
TEMPLATE_TOKENS = 64
_MARGIN = 1.05

_REMEMBERED = 101  # answers
_FEWEST_TO_LEARN = 5  # answers
_LEARN_EVERY = 8  # answers: sorting for a quantile at each would cost more than it brings


def text_tokens(text: str) -> int:
    """Tokens of a text by its length: no tokenizer works offline for every model.

    Characters from U+2E80 on count as wide: the CJK scripts, and emoji.
    """
    if text.isascii():
        return int(tokens_of_length(len(text), 0))
    return int(tokens_of_length(len(text), sum(character >= "\u2e80" for character in text)))


def tokens_of_length(characters: Any, wide: Any) -> Any:
    """Tokens of texts by their lengths: one for four characters, rounded up, and one for each wide character.

    characters: of the text, wide ones included. wide: of these, characters of CJK scripts. Numbers, or numpy arrays of
    equal length; returns the same.
    """
    return -((wide - characters) // 4) + wide


def fixed_tokens(chat: ChatSettings) -> int:
    """Tokens that the prompt of every row has besides its own text: system message, tools, JSON schema."""
    tokens = text_tokens(chat.system) if chat.system else 0
    schema = (chat.response_format or {}).get("json_schema")
    for part in (chat.tools, schema):
        if part:
            tokens += text_tokens(json.dumps(part, ensure_ascii=False, separators=(",", ":")))
    return tokens


class _Recent:
    """The last values of something, for medians and other quantiles that one outlier does not move.

    most: the largest of them; 0 where there are none.
    """

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_REMEMBERED)
        self.most = 0.0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Remember a value; the oldest one goes where there are too many."""
        values = self._values
        leaves = values[0] if len(values) == values.maxlen else None
        values.append(value)
        if value >= self.most:
            self.most = value
        elif leaves == self.most:
            self.most = max(values)

    def quantile(self, share: float) -> float:
        """The value below which this share (0 to 1) of them lies; there must be one."""
        ordered = sorted(self._values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class PictureTokens(Protocol):
    """The formula of a model family."""

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        """Tokens of one picture of this size in pixels."""


class TokenEstimator:
    """Estimates the requests of one run and learns from the usage that comes back.

    A model that the table does not know, or a relay that counts in its own way, may report several times as
    much as the formula or a third. So the prompt is corrected by the median of reported / formula, by size
    class (powers of two of the formula) once a class has five answers, by all classes before.

    chat: its system message, detail, n and max_tokens count for every row. picture_tokens: the formula of the
    model's family.
    """

    def __init__(self, chat: ChatSettings, picture_tokens: PictureTokens) -> None:
        self._picture_tokens = picture_tokens
        self._detail = chat.detail
        self._longest_answer = chat.answer_tokens
        self._most_answer = chat.most_answer_tokens
        self._answers_asked = chat.n or 1
        self._fixed_tokens = fixed_tokens(chat)
        self._ratios: dict[int | None, _Recent] = {None: _Recent()}  # by size class; None: all
        self._corrections: dict[int | None, float] = {}
        self._answers = _Recent()
        self._learned = 0
        self._likely_answer = self._longest_answer

    def estimate(self, prompt: str, sizes_px: Iterable[tuple[int, int]]) -> TokenEstimate:
        """What a request with this prompt may cost.

        sizes_px: (width, height) of each picture, as it is sent.
        """
        pictures = sum(self._picture_tokens.tokens(width, height, self._detail) for width, height in sizes_px)
        formula = self._fixed_tokens + text_tokens(prompt) + pictures
        correction = self._corrections.get(_size_class(formula), self._corrections.get(None, 1.0))
        return TokenEstimate(
            formula=formula,
            prompt=math.ceil(formula * correction),
            longest_answer=self._longest_answer,
            likely_answer=self._likely_answer,
            pictures=pictures,
            answers=self._answers_asked,
            most_prompt=math.ceil(formula * self._most_ratio(_size_class(formula)) * _MARGIN)
            + TEMPLATE_TOKENS,
            most_answer=self._most_answer,
        )

    def _most_ratio(self, size_class: int) -> float:
        """The most that usage has reported of late for a token of the formula; at least UNLEARNED_RATIO before there are
        enough answers, and at least 1 after."""
        recent = self._ratios.get(size_class)
        if recent is None or len(recent) < _FEWEST_TO_LEARN:
            recent = self._ratios[None]
        return max(recent.most, 1.0 if len(recent) >= _FEWEST_TO_LEARN else UNLEARNED_RATIO)

    def learn(self, estimate: TokenEstimate, usage: Usage) -> None:
        """Take in what a request really cost.

        estimate: as it was made for this request. usage: as reported; counts that are missing or 0 teach nothing.
        """
        if usage.prompt_tokens:
            for size_class in (None, _size_class(estimate.formula)):
                recent = self._ratios.setdefault(size_class, _Recent())
                recent.add(usage.prompt_tokens / max(1, estimate.formula))
                if len(recent) >= _FEWEST_TO_LEARN and (
                    size_class not in self._corrections or self._learned % _LEARN_EVERY == 0
                ):
                    self._corrections[size_class] = recent.quantile(0.5)
        if usage.completion_tokens is not None:
            self._answers.add(usage.completion_tokens)
        self._learned += 1
        if len(self._answers) >= _FEWEST_TO_LEARN and self._learned % _LEARN_EVERY == 0:
            likely = math.ceil(self._answers.quantile(0.9) * 1.1)
            self._likely_answer = min(likely, self._longest_answer)


def _size_class(tokens: int) -> int:
    return tokens.bit_length()
