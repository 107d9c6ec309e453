"""What a request will cost in tokens, before it is sent. Pure.

Sources: OpenAI's guide on images and vision (tiles), read 2026-11; text by length, since captions
share one prompt and no tokenizer works offline for every model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .config import ChatSettings

# gpt-4o, gpt-4.1, gpt-4-turbo
TILE_BASE_TOKENS = 85
TILE_TOKENS = 170
TILE_SIDE_PX = 512


def picture_tokens(width: int, height: int, detail: str | None = None) -> int:
    """Tokens of one picture by the gpt-4o tile rule.

    Fit into 2048 x 2048, then the short side down to 768, never up; count 512-px tiles.
    detail "low" costs the base alone. Documented: 1024 x 1024 -> 765, 2048 x 4096 -> 1105, low -> 85.
    """
    if detail == "low":
        return TILE_BASE_TOKENS
    scale = min(1.0, 2048 / max(width, height))
    w, h = width * scale, height * scale
    if min(w, h) > 768:
        scale = 768 / min(w, h)
        w, h = w * scale, h * scale
    # the small margin keeps 768.0000001 from counting as one more tile
    tiles = math.ceil(w / TILE_SIDE_PX - 1e-6) * math.ceil(h / TILE_SIDE_PX - 1e-6)
    return TILE_BASE_TOKENS + TILE_TOKENS * tiles


def text_tokens(text: str) -> int:
    """Tokens of a text: four characters each, one each for CJK and other wide scripts."""
    if text.isascii():
        return math.ceil(len(text) / 4)
    wide = sum(character >= "\u2e80" for character in text)
    return math.ceil((len(text) - wide) / 4) + wide


class TokenEstimator:
    """Estimates the requests of one run: what the limiter reserves before anything is sent.

    chat: its system message, detail, n and max_tokens count for every row.
    """

    def __init__(self, chat: ChatSettings) -> None:
        self._detail = chat.detail
        self._fixed_tokens = chat.answer_tokens + (text_tokens(chat.system) if chat.system else 0)

    def estimate(self, prompt: str, sizes_px: Iterable[tuple[int, int]]) -> int:
        """Tokens of text, pictures (width, height) and the longest answers allowed."""
        pictures = sum(picture_tokens(width, height, self._detail) for width, height in sizes_px)
        return self._fixed_tokens + text_tokens(prompt) + pictures
