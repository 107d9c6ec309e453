"""How families of vision models see a picture: what size they keep of it, and how many tokens that is. Pure.

`keeps` is the largest size of which the model sees every detail: the ratio of the picture, and never larger than
it; `tokens` is what a picture is counted as. detail: as in the request, None where it is not set. `models` says
which model belongs to which family, with figures and sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Size = tuple[int, int]


class Family(Protocol):
    """One way of counting."""

    def keeps(self, width: int, height: int, detail: str | None) -> Size:
        """(width, height) up to which more pixels show the model more. width, height: of the picture, in pixels."""
        ...

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        """Tokens of one picture of that size in pixels."""
        ...


def within_side(width: int, height: int, longest: int) -> Size:
    """Shrunk until no side is longer than `longest`; at least one pixel. All in pixels."""
    long = max(width, height)
    if long <= longest:
        return width, height
    return max(1, round(width * longest / long)), max(1, round(height * longest / long))


def within_pixels(width: int, height: int, max_pixels: int) -> Size:
    """Shrunk until there are at most `max_pixels` pixels; at least one."""
    if width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    w, h = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    w = max(1, min(w, max_pixels // h))  # a side that cannot go below one pixel leaves less for the other
    return w, max(1, min(h, max_pixels // w))


@dataclass(frozen=True, slots=True)
class Tiles:
    """OpenAI, older: into a box of 2048, the short side down to 768, then tiles of 512 px.

    Source: OpenAI's guide "Images and vision". 1024 x 1024 -> 4 tiles, 2048 x 4096 -> 6; low: no tiles.
    """

    base: int
    tile: int

    def keeps(self, width: int, height: int, detail: str | None) -> Size:
        """low: long side to 512 px. Else long side to 2048 px, then short side to 768 px."""
        if detail == "low":
            return within_side(width, height, 512)
        w, h = width, height
        if (long := max(w, h)) > 2048:
            w, h = max(1, w * 2048 // long), max(1, h * 2048 // long)
        if (short := min(w, h)) > 768:
            w, h = w * 768 // short, h * 768 // short
        return w, h

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        """The base, and for each tile of 512 px its tokens; low: the base alone."""
        if detail == "low":
            return self.base
        w, h = self.keeps(width, height, detail)
        return self.base + self.tile * math.ceil(w / 512) * math.ceil(h / 512)


@dataclass(frozen=True, slots=True)
class Patches:
    """OpenAI, newer: patches of 32 px, first into a box, then down until they are within a budget.

    per_patch: tokens each. modes: detail -> (longest side, max patches), either None where there is no
    such bound; "auto" is also for a request that sets no detail, and for a detail that is not named.
    Source: OpenAI's guide "Images and vision"; billing may differ by one.
    """

    per_patch: float
    modes: Mapping[str, tuple[int | None, int | None]]

    def keeps(self, width: int, height: int, detail: str | None) -> Size:
        """Within the longest side of the detail's mode, then down to its number of patches."""
        longest, budget = self.modes.get(detail or "auto", self.modes["auto"])
        w, h = within_side(width, height, longest) if longest else (width, height)
        if budget is None or _patches(w, h, 32) <= budget:
            return w, h
        scale = math.sqrt(32**2 * budget / (w * h))
        across, down = w * scale / 32, h * scale / 32
        if min(across, down) < 1:  # a strip of one row of patches
            return within_side(w, h, 32 * budget)
        scale *= min(math.floor(across) / across, math.floor(down) / down)
        # the margin keeps 1055.9999999 from losing a pixel
        return math.floor(w * scale + 1e-6), math.floor(h * scale + 1e-6)

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        """Patches of 32 px of the kept size, times the tokens of each, rounded up."""
        patches = _patches(*self.keeps(width, height, detail), 32)
        return math.ceil(round(patches * self.per_patch, 6))


@dataclass(frozen=True, slots=True)
class Claude:
    """Patches of 28 px, the picture shrunk until sides and tokens are within bounds.

    Source: Anthropic's guide "Vision": the largest size of the same ratio, the other side rounded half
    to even. 1920 x 1080 -> 1456 x 819, 1560 tokens (standard tier).
    """

    longest_side: int
    budget: int

    def keeps(self, width: int, height: int, detail: str | None) -> Size:  # noqa: ARG002  has no levels
        """The largest size of the same ratio within the longest side and the budget, by bisection."""
        long, short = max(width, height), min(width, height)
        low, high = 1, min(long, self.longest_side)
        while low < high:
            middle = (low + high + 1) // 2
            if _patches(middle, self._other(middle, long, short), 28) <= self.budget:
                low = middle
            else:
                high = middle - 1
        other = self._other(low, long, short)
        return (low, other) if width >= height else (other, low)

    @staticmethod
    def _other(side: int, long: int, short: int) -> int:
        return max(1, round(side * short / long))

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        """Patches of 28 px of the kept size."""
        return _patches(*self.keeps(width, height, detail), 28)


@dataclass(frozen=True, slots=True)
class GeminiTiles:
    """Gemini to 2.5: one tile up to 384 px, else tiles of two thirds of the short side, each shown at 768 px.

    So beyond a short side of 1152 px nothing more is seen, and above 384 px only the ratio counts.
    Source: Google's guide "Image understanding". 960 x 540 -> 6 tiles.
    """

    per_tile: int = 258

    def keeps(self, width: int, height: int, detail: str | None) -> Size:  # noqa: ARG002
        """Short side to 1152 px."""
        short = min(width, height)
        return (width, height) if short <= 1152 else (width * 1152 // short, height * 1152 // short)

    def tokens(self, width: int, height: int, detail: str | None) -> int:  # noqa: ARG002
        """One tile up to 384 px, else tiles of two thirds of the short side."""
        if max(width, height) <= 384:
            return self.per_tile
        unit = max(1, math.floor(min(width, height) / 1.5))
        return self.per_tile * math.ceil(width / unit) * math.ceil(height / unit)


@dataclass(frozen=True, slots=True)
class Flat:
    """The same for every picture, by detail (Gemini 3: `media_resolution`). What size it sees is not published.

    Source: Google's guide "Media resolution".
    """

    by_detail: Mapping[str, int]

    def keeps(self, width: int, height: int, detail: str | None) -> Size:  # noqa: ARG002
        """The picture's own size."""
        return width, height

    def tokens(self, width: int, height: int, detail: str | None) -> int:  # noqa: ARG002
        """The figure of the detail; that of auto for another detail."""
        return self.by_detail.get(detail or "auto", self.by_detail["auto"])


@dataclass(frozen=True, slots=True)
class Qwen:
    """Sides rounded to a multiple of `factor`, then the area clamped between two bounds in tokens.

    Source: smart_resize in qwen-vl-utils; two marker tokens about each picture.
    """

    factor: int
    max_tokens: int
    min_tokens: int = 4

    def keeps(self, width: int, height: int, detail: str | None) -> Size:  # noqa: ARG002
        """Area down to `max_tokens` patches."""
        return within_pixels(width, height, self.max_tokens * self.factor**2)

    def tokens(self, width: int, height: int, detail: str | None) -> int:  # noqa: ARG002
        """Patches of `factor` px with both bounds applied, and two markers."""
        factor, area = self.factor, self.factor**2
        across, down = max(1, round(width / factor)), max(1, round(height / factor))
        if across * down > self.max_tokens:
            shrink = math.sqrt(width * height / (self.max_tokens * area))
            across = max(1, math.floor(width / shrink / factor))
            down = max(1, math.floor(height / shrink / factor))
        elif across * down < self.min_tokens:
            grow = math.sqrt(self.min_tokens * area / (width * height))
            across = math.ceil(width * grow / factor)
            down = math.ceil(height * grow / factor)
        return across * down + 2


def _patches(width: int, height: int, side: int) -> int:
    return math.ceil(width / side) * math.ceil(height / side)
