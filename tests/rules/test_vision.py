"""How models see pictures: the documented vectors, and sizes that keep all detail and no pixel more."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from captionmill.nouns.config import RunConfig
from captionmill.vision.families import Claude, Patches, within_pixels, within_side
from captionmill.vision.models import BOUNDS, MODELS, UNKNOWN, vision_model
from captionmill.vision.sizes import picture_bounds
from hypothesis import given
from hypothesis import strategies as st

# one model of each family and tier
NAMES = (
    "gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-4.1-mini", "gpt-5.4", "gpt-5.5", "gpt-5.6-sol",
    "claude-3-5-sonnet-20240620", "claude-opus-4-7", "gemini-2.5-flash", "qwen2.5-vl-72b-instruct", "qwen3-vl-8b",
)  # fmt: skip
MARKERS = {"qwen": 2}  # tokens about each picture that the table of formulas leaves out

# computed from the providers' pages, 2026-11: tokens for each of NAMES
RECOMPUTED = """
 512x512   255  8500 210  415  308   308   308  361  361 1032   324   256
1024x1024  765 25501 630 1659 1229  1229  1229 1369 1369 1032  1369  1024
1024x768   765 25501 630 1245  922   922   922 1036 1036 1032   999   768
1280x720  1105 36835 910 1491 1104  1104  1104 1196 1196 1548  1196   880
1920x1080 1105 36835 910 3305 2448  2448  2448 1560 2691 1548  2691  2040
2048x4096 1105 36835 910 3318 2458  9831  9831 1568 4232 2064 10658  8192
4032x3024  765 25501 630 4977 2942 11868 14364 1564 4740 1032 15552 11844
""".strip().splitlines()

SIDES = (1, 2, 27, 28, 29, 200, 383, 384, 385, 511, 512, 513, 767, 768, 769, 1024, 1092, 1568, 1569, 2048, 2049, 2576, 3000, 4032, 5120, 6000)  # fmt: skip
SWEEP = [(w, h) for w in SIDES for h in SIDES] + [(w, 6001 - w) for w in range(1, 6000, 137)]


def tokens(name: str, size: tuple[int, int], detail: str | None = None) -> int:
    return vision_model(name).family.tokens(*size, detail)


# ------------------------------------------------------------------------------- documented


@pytest.mark.parametrize("line", RECOMPUTED)
def test_the_recomputed_table(line):
    """Every family at every size of the table."""
    size, *counts = line.split()
    width, height = map(int, size.split("x"))
    found = [tokens(name, (width, height)) - MARKERS.get(vision_model(name).provider, 0) for name in NAMES]
    assert found == [int(count) for count in counts]


@pytest.mark.parametrize(
    ("name", "size", "detail", "count"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (125, 50), None, 255),
        ("gpt-4o-mini", (4096, 8192), "low", 2833),
        ("gpt-5.4", (1024, 1024), "high", 1229),
        ("gpt-5.4", (2048, 2048), "high", 3000),
        ("gpt-5.6-sol", (4032, 3024), "low", 231),  # 512 x 384 px
        ("claude-3-5-sonnet", (200, 200), None, 64),
        ("claude-3-5-sonnet", (1000, 1000), None, 1296),
        ("claude-3-5-sonnet", (1092, 1092), None, 1521),
        ("claude-3-5-sonnet", (3840, 2160), None, 1560),
        ("claude-opus-4-7", (1920, 1080), None, 2691),
        ("claude-opus-4-7", (2000, 1500), None, 3888),
        ("claude-opus-4-7", (3840, 2160), None, 4784),
        ("gemini-2.0-flash", (384, 384), None, 258),
        ("gemini-2.0-flash", (960, 540), None, 6 * 258),
        ("gemini-3-flash-preview", (4032, 3024), None, 1120),
        ("gemini-3-flash-preview", (4032, 3024), "low", 280),
        ("qwen-vl-max", (4032, 3024), None, 41 * 30 + 2),  # at most 1,280 tokens
    ],
)
def test_documented_vectors(name, size, detail, count):
    """What the providers' own pages work out."""
    assert tokens(name, size, detail) == count


@pytest.mark.parametrize(
    ("family", "size", "kept"),
    [
        (Claude(1568, 1568), (1920, 1080), (1456, 819)),
        (Claude(1568, 1568), (2000, 1500), (1270, 952)),
        (Claude(1568, 1568), (1075, 1520), (924, 1307)),
        (Claude(2576, 4784), (3840, 2160), (2576, 1449)),
        (Patches(1.0, {"auto": (None, 1536)}), (1800, 2400), (1056, 1408)),
        (Patches(1.2, {"auto": (2048, 2500)}), (2048, 2048), (1600, 1600)),
    ],
)
def test_documented_sizes(family, size, kept):
    """To what a server shrinks."""
    assert family.keeps(*size, None) == kept


@pytest.mark.parametrize(
    ("name", "provider", "like"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o-2024-11-20", "openai", "gpt-4o"),
        ("gpt-4o-all", "openai", "gpt-4o"),
        ("chatgpt-4o-latest", "openai", "gpt-4o"),
        ("gpt-4-turbo-2024-04-09", "openai", "gpt-4o"),
        ("GPT-4.1-2025-04-14", "openai", "gpt-4o"),
        ("gpt-5.1", "openai", "gpt-5"),
        ("gpt-5.4-mini", "openai", "gpt-5.4"),
        ("anthropic/claude-3.5-sonnet", "claude", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-20240620-aws", "claude", "claude-3-5-sonnet"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude", "claude-3-5-sonnet"),
        ("claude-opus-4-5-20251101", "claude", "claude-3-5-sonnet"),
        ("anthropic/claude-opus-4.7", "claude", "claude-opus-4-7"),
        ("claude-sonnet-5", "claude", "claude-opus-4-7"),
        ("models/gemini-2.5-pro", "gemini", "gemini-2.5-flash"),
        ("google/gemini-3-flash-preview", "gemini", "gemini-3"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen", "qwen2.5-vl"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen", "qwen3-vl-8b"),
        ("llava-v1.6", "unknown", "some model"),
        ("glm-4v-plus", "unknown", "some model"),
        ("", "unknown", "some model"),
    ],
)
def test_a_model_is_known_by_the_names_it_has_at_relays(name, provider, like):
    """Dated names, vendor prefixes, capitals."""
    model = vision_model(name)
    assert model.provider == provider
    assert model is vision_model(like)


def test_rules_of_a_provider_for_a_model_of_another_name():
    """--image-rules claude for `our-model` at a relay; a name that the provider has keeps its own line."""
    assert vision_model("our-model", "claude").family.tokens(1092, 1092, None) == 1521
    assert vision_model("claude-opus-4-7", "claude") is vision_model("claude-opus-4-7")
    assert vision_model("gpt-4o", "claude").provider == "claude"
    assert vision_model("our-model") is UNKNOWN


# ------------------------------------------------------------------------------- the sweep


def tiles(width: int, height: int, base: int, tile: int) -> int:
    """OpenAI's tile rule, in fractions; a side that is not whole is rounded down."""
    w, h = width, height
    for bound, side in ((2048, max), (768, min)):
        scale = min(Fraction(1), Fraction(bound, side(w, h)))
        w, h = max(1, math.floor(w * scale)), max(1, math.floor(h * scale))
    return base + tile * math.ceil(w / 512) * math.ceil(h / 512)


def claude(width: int, height: int, edge: int, budget: int) -> int:
    """Anthropic's rule by trying every size from the largest down."""
    long, short = max(width, height), min(width, height)
    for side in range(min(long, edge), 0, -1):
        count = -(-side // 28) * -(-max(1, round(side * short / long)) // 28)
        if count <= budget:
            return count
    raise AssertionError


def patches(width: int, height: int, box: int | None, budget: int | None, factor: float) -> int:
    """OpenAI's patch rule as its page words it."""
    if box and max(width, height) > box:
        scale = box / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    count = -(-width // 32) * -(-height // 32)
    if budget and count > budget:
        scale = math.sqrt(32**2 * budget / (width * height))
        w, h = width * scale / 32, height * scale / 32
        if min(w, h) < 1:  # not in the page: a strip of one row
            count = min(budget, -(-max(width, height) // 32))
        else:
            scale *= min(math.floor(w) / w, math.floor(h) / h)
            count = -(-math.floor(width * scale + 1e-6) // 32) * -(-math.floor(height * scale + 1e-6) // 32)
    return math.ceil(round(count * factor, 6))


def qwen(width: int, height: int, factor: int, most: int) -> int:
    """smart_resize."""
    h, w = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    if h * w > most * factor**2:
        beta = math.sqrt(height * width / (most * factor**2))
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < 4 * factor**2:
        beta = math.sqrt(4 * factor**2 / (height * width))
        h, w = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return h * w // factor**2 + 2


def gemini(width: int, height: int) -> int:
    if max(width, height) <= 384:
        return 258
    unit = max(1, math.floor(min(width, height) / 1.5))
    return -(-width // unit) * -(-height // unit) * 258


FORMULAS = {
    "gpt-4o": lambda w, h: tiles(w, h, 85, 170),
    "gpt-5": lambda w, h: tiles(w, h, 70, 140),
    "gpt-4.1-mini": lambda w, h: patches(w, h, 2048, 6144, 1.62),
    "gpt-5-mini": lambda w, h: patches(w, h, None, 1536, 1.2),
    "gpt-5.4": lambda w, h: patches(w, h, 2048, 2500, 1.2),
    "gpt-5.6-sol": lambda w, h: patches(w, h, 65_535, 30_000, 1.2),
    "claude-3-5-sonnet": lambda w, h: claude(w, h, 1568, 1568),
    "claude-opus-4-7": lambda w, h: claude(w, h, 2576, 4784),
    "gemini-2.5-flash": gemini,
    "gemini-3-pro": lambda w, h: 1120,
    "qwen2.5-vl-72b-instruct": lambda w, h: qwen(w, h, 28, 16_384),
    "qwen3-vl-plus": lambda w, h: qwen(w, h, 32, 1280),
    "some model": lambda w, h: qwen(w, h, 28, 16_384),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_sent_size_is_within_bounds_and_counted_by_the_formula(name):
    """For sizes up to 6,000 px a side: never enlarged, within bounds, ratio kept, no dearer than the original."""
    family, usual = vision_model(name).family, vision_model(name).usual_side
    fit = picture_bounds(RunConfig(model=name)).fit
    for size in SWEEP:
        assert family.tokens(*size, None) == FORMULAS[name](*size), size
        sent = fit(*size, 1)
        assert sent[0] <= size[0] and sent[1] <= size[1] and min(sent) >= 1, (size, sent)
        assert usual is None or max(sent) <= usual, (size, sent)
        assert fit(*sent, 1) == sent, (size, sent)  # what is sent is not shrunk again
        scale = max(sent) / max(size)
        assert abs(min(sent) - min(size) * scale) <= 1.01 + min(size) * scale / max(sent), (size, sent)
        if name.startswith("gemini-2"):
            continue  # only the ratio counts there, and pixels are whole
        full = family.max_tokens + 2 if name.startswith("qwen") else 0  # sides rounded another way
        assert family.tokens(*sent, None) <= max(full, family.tokens(*size, None)), (size, sent)


@pytest.mark.parametrize("name", [n for n in FORMULAS if vision_model(n).provider in ("openai", "claude")])
def test_the_sent_size_keeps_all_detail(name):
    """At the model's own bound it is counted as the original: nothing is lost. (Gemini, Qwen: to whole tiles.)"""
    family = vision_model(name).family
    for size in SWEEP:
        assert family.tokens(*family.keeps(*size, None), None) == family.tokens(*size, None), size


@given(
    st.integers(1, 100_000),
    st.integers(1, 100_000),
    st.integers(1, 10_000),
    st.integers(1, 10**8),
    st.sampled_from([*FORMULAS, "none"]),
    st.sampled_from([None, "low", "high", "auto", "original"]),
)
def test_own_bounds_always_hold(width, height, max_side, max_pixels, name, detail):
    """--max-side and --max-pixels, whatever the model's rules; a pixel is left of any strip."""
    settings = {"model": name, "max_side": max_side, "max_pixels": max_pixels, "detail": detail}
    rules = "none" if name == "none" else "auto"
    w, h = picture_bounds(RunConfig(image_rules=rules, **settings)).fit(width, height, 1)
    assert 1 <= w <= min(width, max_side)
    assert 1 <= h <= min(height, max_side)
    assert w * h <= max_pixels


def test_small_helpers():
    """Never larger, never nothing."""
    assert within_side(100, 50, 200) == (100, 50)
    assert within_side(20_000, 1, 1568) == (1568, 1)
    assert within_pixels(1, 20_000, 100) == (1, 100)
    assert within_pixels(400, 300, 30_000) == (200, 150)


# ------------------------------------------------------------------------------- settings


def test_no_rules_no_bounds():
    """--image-rules none sends every size."""
    bounds = picture_bounds(RunConfig(model="gpt-4o", image_rules="none"))
    assert bounds.fit(9000, 6000, 1) == (9000, 6000)
    assert (bounds.base64_bytes, bounds.request_bytes) == (None, None)


def test_own_bounds_go_before_the_usual_one():
    """2048 px where a model would take, and bill, everything; more only on purpose."""
    for settings, sent in (
        ({}, (2048, 1536)),
        ({"max_side": 4000}, (4000, 3000)),
        ({"detail": "original"}, (6000, 4500)),
        ({"detail": "low"}, (512, 384)),
        ({"max_side": 1000}, (1000, 750)),
        ({"max_pixels": 120_000}, (400, 300)),
    ):
        assert picture_bounds(RunConfig(model="gpt-5.6-sol", **settings)).fit(6000, 4500, 1) == sent, settings


def test_many_pictures_of_a_request_are_smaller_for_claude():
    """More than 20 bound each to 2000 px."""
    fit = picture_bounds(RunConfig(model="claude-opus-4-7")).fit
    assert max(fit(3000, 1000, 20)) > 2000
    assert max(fit(3000, 1000, 21)) == 2000


def test_a_strip_gets_the_border_that_qwen_needs():
    """Ratio at most 200, no side under 28 px; other providers take any."""
    bounds = picture_bounds(RunConfig(model="qwen2.5-vl-7b"))
    for size in ((1, 20_000), (20_000, 1), (1, 1), (5, 3000)):
        w, h = bounds.canvas(*bounds.fit(*size, 1))
        assert min(w, h) >= 28 and max(w, h) <= 200 * min(w, h), size
    assert bounds.canvas(640, 480) == (640, 480)
    for name in ("gpt-4o", "claude-opus-4-7", "gemini-2.5-pro", "some model"):
        bounds = picture_bounds(RunConfig(model=name))
        assert bounds.canvas(*bounds.fit(1, 20_000, 1))[0] == 1


def test_every_line_has_bounds_and_a_date():
    """The table is data that goes out of date: nobody adds a line without saying when it was read."""
    for model in (*MODELS, UNKNOWN):
        assert model.provider in BOUNDS
        year, month = map(int, model.read.split("-"))
        assert 2025 <= year <= 2100 and 1 <= month <= 12
