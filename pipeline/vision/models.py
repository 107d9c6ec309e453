"""How each model sees pictures: one dated line a model, figures as its provider publishes them. Data.

Providers change these figures within a year, so each line has the month it was read. A model without a line is
counted by UNKNOWN, and the usage that an endpoint reports corrects all figures (`tokens.TokenEstimator`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .families import Claude, Family, Flat, GeminiTiles, Patches, Qwen, Tiles

Provider = Literal["openai", "claude", "gemini", "qwen", "unknown"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a provider accepts. None: no bound that matters.

    base64_bytes: of one picture. request_bytes: of all pictures of a request. many: with more pictures than this
    in a request, no side may be longer than `side_of_many` px. ratio: longest to shortest side. min_side: in px.
    """

    base64_bytes: int
    request_bytes: int
    many: int | None = None
    side_of_many: int | None = None
    ratio: int | None = None
    min_side: int = 1


@dataclass(frozen=True, slots=True)
class VisionModel:
    """name: a regular expression, at the beginning of the model's name without vendor prefix.

    usual_side: bound in px unless --max-side or detail "original" asks for more, where the family keeps more than
    captions need and bills it; None for no such bound. read: month in which the figures were read.
    """

    name: str
    provider: Provider
    family: Family
    usual_side: int | None
    read: str


def _patches(per_patch: float, **modes: tuple[int | None, int | None]) -> Patches:
    return Patches(per_patch, modes)


# 30,000 patches and more are refused
_NO_BUDGET = (65_535, 30_000)
_HIGH = (2048, 2500)
_LARGE = (2048, 6144)
_ORIGINAL = (6000, 10_000)

# the first line that matches wins
# fmt: off
MODELS: tuple[VisionModel, ...] = (
    # OpenAI: developers.openai.com, guide "Images and vision"
    VisionModel(r"gpt-(6|5\.[6-9])", "openai", _patches(1.2, low=(512, None), high=_HIGH, auto=_NO_BUDGET, original=_NO_BUDGET), 2048, "2026-11"),
    VisionModel(r"gpt-5\.5",         "openai", _patches(1.2, low=(512, None), high=_HIGH, auto=_ORIGINAL, original=_ORIGINAL), 2048, "2026-11"),
    VisionModel(r"gpt-5\.4",         "openai", _patches(1.2, low=_LARGE, high=_HIGH, auto=_HIGH, original=_ORIGINAL), None, "2026-11"),
    VisionModel(r"gpt-5\.2",         "openai", _patches(1.2, auto=_LARGE), None, "2026-11"),
    VisionModel(r"gpt-4\.1-mini",    "openai", _patches(1.62, auto=_LARGE), None, "2026-11"),
    VisionModel(r"gpt-5-mini",       "openai", _patches(1.2, auto=(None, 1536)), None, "2026-11"),
    VisionModel(r"gpt-5-nano",       "openai", _patches(1.5, auto=(None, 1536)), None, "2026-11"),
    VisionModel(r"gpt-4\.1-nano",    "openai", _patches(2.46, auto=(None, 1536)), None, "2026-11"),
    VisionModel(r"o4-mini",          "openai", _patches(1.72, auto=(None, 1536)), None, "2026-11"),
    VisionModel(r"gpt-4o-mini",      "openai", Tiles(2833, 5667), None, "2026-11"),
    VisionModel(r"(chat)?gpt-4(o|\.1|\.5|-turbo|-vision)", "openai", Tiles(85, 170), None, "2026-11"),
    VisionModel(r"gpt-5",            "openai", Tiles(70, 140), None, "2026-11"),
    VisionModel(r"o[13](\b|-pro)",   "openai", Tiles(75, 150), None, "2026-11"),
    VisionModel(r"computer-use-preview", "openai", Tiles(65, 129), None, "2026-11"),
    # Anthropic: platform.claude.com, guide "Vision"; the high tier begins with 4.7
    VisionModel(r"claude-(?:[a-z]+-)?(?:4[.-](?:[7-9]|[1-9]\d)(?!\d)|[5-9](?!\d))", "claude", Claude(2576, 4784), None, "2026-07"),
    VisionModel(r"claude",           "claude", Claude(1568, 1568), None, "2026-07"),
    # Google: ai.google.dev, guides "Image understanding" and "Media resolution"
    VisionModel(r"gemini-(1|2)",     "gemini", GeminiTiles(), None, "2026-11"),
    VisionModel(r"gemini",           "gemini", Flat({"low": 280, "auto": 1120}), 1568, "2026-11"),
    # Alibaba: DashScope's own names are capped at 1,280 tokens, open weights by smart_resize's default
    VisionModel(r"qwen3-vl-(plus|flash)", "qwen", Qwen(32, 1280), None, "2026-11"),
    VisionModel(r"(qwen-vl|qvq)-(plus|max)", "qwen", Qwen(28, 1280), None, "2026-11"),
    VisionModel(r"qwen-?3(\.\d)?-vl",  "qwen", Qwen(32, 16_384), 2048, "2026-11"),
    VisionModel(r"(qwen|qvq)",       "qwen", Qwen(28, 16_384), 2048, "2026-11"),
)
# fmt: on
# patches of 28 px, as most open-weight models have; no provider's usual mode shrinks 1568 px by much
UNKNOWN = VisionModel("", "unknown", Qwen(28, 16_384), 1568, "2026-11")

# where --image-rules names a provider and the model's name does not
_GENERIC: dict[str, VisionModel] = {
    "openai": VisionModel("", "openai", _patches(1.2, low=(512, None), auto=_HIGH), None, "2026-11"),
    "claude": VisionModel("", "claude", Claude(1568, 1568), None, "2026-07"),
    "gemini": VisionModel("", "gemini", GeminiTiles(), None, "2026-11"),
    "qwen": VisionModel("", "qwen", Qwen(28, 16_384), 2048, "2026-11"),
}

BOUNDS: dict[Provider, Bounds] = {
    # Azure's 20,971,520 bytes a picture; 50 MB a request until 2025
    "openai": Bounds(base64_bytes=20_971_520, request_bytes=50_000_000),
    # 10 MB a picture directly, 5 MB behind Bedrock and Vertex, where a relay may go; 32 MB a request
    "claude": Bounds(base64_bytes=5_242_880, request_bytes=32_000_000, many=20, side_of_many=2000),
    # 7 MB a picture at Vertex, 20 MB a request
    "gemini": Bounds(base64_bytes=7_340_032, request_bytes=20_000_000),
    # smart_resize refuses a ratio over 200 and, in older servers, sides under its factor
    "qwen": Bounds(base64_bytes=7_340_032, request_bytes=20_000_000, ratio=200, min_side=28),
    "unknown": Bounds(base64_bytes=5_242_880, request_bytes=20_000_000),
}

_VENDOR = re.compile(
    r"^(?:.*/)?(?:[a-z]{2,6}\.)?(?:anthropic\.|google\.|models-)?"
)  # openai/, models/, us.anthropic.


# how people and fine-tuning write the names of models: ft:gpt-4o-2024-08-06:org::id, gpt4o, GPT_4o, claude3.5
_TUNED = re.compile(r"^(?:.*/)?(?:ft|fine-tuned|finetune)[:/-]")
_RUN_TOGETHER = re.compile(r"^((?:chat)?gpt|claude|gemini)(?=\d)")


def _bare(name: str) -> str:
    """Without vendor and mark of fine-tuning, with the hyphens of the official name."""
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    plain = _VENDOR.sub("", _TUNED.sub("", plain))
    together = _RUN_TOGETHER.match(plain)
    return plain if together is None else f"{together[1]}-{plain[together.end() :]}"


def vision_model(name: str, rules: str = "auto") -> VisionModel:
    """The line of a model, by its name at an endpoint; dates and vendor prefixes in the name do not matter.

    rules: --image-rules; where it names a provider, only that provider's models are searched.
    """
    bare = _bare(name)
    named = rules if rules in _GENERIC else None
    for model in MODELS:
        if (named is None or model.provider == named) and re.match(model.name, bare):
            return model
    return _GENERIC[named] if named else UNKNOWN
