"""What a run will take: held against what the built-in endpoint then counts, and against what was billed."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from bench import plan_of
from captionmill.accounts.plan import (
    Known,
    Options,
    Plan,
    Range,
    Variant,
    cost,
    seconds_at_the_limits,
)
from captionmill.builtin.completions import look, prompt_tokens, read_question
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError
from captionmill.pictures.measure import measure
from captionmill.pictures.prepare import PicturePreparer
from captionmill.rules.prices import PriceBook
from captionmill.rules.request import RequestBuilder
from captionmill.sources.manifest import Manifest, Survey
from captionmill.vision.sizes import picture_bounds
from commands import MODEL, ROOT, captionmill, draw_pictures, results, stats
from PIL import Image

SAMPLES = ROOT / "sample_data" / "images"
FAMILIES = [
    "gpt-4o", "gpt-4.1-mini", "gpt-5-mini", "gpt-5.6-sol", "claude-3-5-sonnet-20240620", "claude-opus-4-7",
    "gemini-2.5-pro", "gemini-3-pro", "qwen2.5-vl-72b-instruct", "qwen3-vl-plus", "somebody-elses-model",
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Sizes from a thumbnail to a camera's, every shape, turned ones, both formats and others."""
    folder = tmp_path_factory.mktemp("mixed")
    sizes = [(64, 48), (300, 200), (512, 512), (640, 480), (800, 1200), (1024, 1024), (1920, 1080), (2000, 300),
             (150, 1900), (2600, 1300), (4032, 3024), (1575, 1050)]  # fmt: skip
    for number, (width, height) in enumerate(sizes):
        picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        suffix = (".jpg", ".png", ".jpg", ".webp")[number % 4]
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 3 == 0 and suffix == ".jpg" else 1
        picture.save(folder / f"{number}{suffix}", exif=exif)
    return folder


def counted(source: Path, config: RunConfig) -> int:
    """What the built-in endpoint counts for the prompts of all rows that can be prepared."""
    preparer = PicturePreparer(config, picture_bounds(config))
    builder, total = RequestBuilder(config, config.model), 0
    for row in Manifest(source, config.prompt).rows():
        try:
            pictures = preparer.prepare_row(row)
        except RowError:
            continue
        question = read_question(builder.build(row, pictures))
        total += prompt_tokens(question, look(question))
    return total


@pytest.mark.parametrize("model", FAMILIES)
def test_prompts_are_estimated_within_two_per_cent(tmp_path, mixed, model):
    """On the samples (a broken one among them) and on mixed sizes, for every family."""
    for source in (SAMPLES, mixed):
        for settings in ({}, {"max_side": 700, "image_rules": "none"}):
            config = RunConfig(model=model, system="Be brief.", **settings)
            plan = plan_of(source, tmp_path / "run", config)
            assert plan.prompt().likely == pytest.approx(counted(source, config), rel=0.02), (
                source,
                settings,
            )


@pytest.mark.parametrize(
    ("answers", "ratio", "high"), [(0, 1.0, 1.25 * 4000 + 64 * 5), (5, 2.0, 1.05 * 2.0 * 4000)]
)
def test_how_much_prompts_may_be_at_the_most(answers, ratio, high):
    """A quarter more than the formula and a template for each row; 5 % more than the answers so far have shown."""
    plan = Plan(
        Survey(5, 0, 0, (), 0, "", {}),
        Known(answers, ratio, Range(), None),
        [Variant("gpt-4o", RunConfig(model="gpt-4o"), picture_tokens=3000)],
        left=5,
        looked_at=5,
        readable=5,
        text_tokens=1000,
    )
    assert plan.prompt().likely == ratio * 4000
    assert plan.prompt().high == high


def test_what_cannot_be_read_is_counted_by_kind(tmp_path):
    """Missing, empty, cut and no picture at all: named, and no tokens for them; a cut one is found by its end."""
    draw_pictures(tmp_path / "p", 3)
    (tmp_path / "p/empty.jpg").touch()
    (tmp_path / "p/text.png").write_text("no picture")
    shutil.copy(SAMPLES / "broken.jpg", tmp_path / "p")
    (tmp_path / "m.csv").write_text(
        "image\n" + "".join(f"p/{f.name}\n" for f in (tmp_path / "p").iterdir()) + "p/9.png\n"
    )
    plan = plan_of(tmp_path / "m.csv", tmp_path / "run", RunConfig(model="gpt-4o"))
    assert plan.unreadable == {"image_missing": 1, "image_broken": 2, "image_format": 1}
    assert (plan.rows, plan.to_ask) == (7, 3)


def test_a_header_is_enough(tmp_path):
    """Of a large photo some kilobytes are read, whatever its size; a preview before the size is skipped."""
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000  # a description as long as a preview
    Image.effect_noise((3000, 2000), 90).convert("RGB").save(photo, exif=exif, quality=95)
    assert photo.stat().st_size > 2_000_000
    data = bytearray(photo.read_bytes())
    data[300_000:-2] = bytes(len(data) - 300_002)  # nobody looks at this
    photo.write_bytes(data)
    found = measure(str(photo), "first")
    assert (found.width, found.height, found.is_jpeg) == (3000, 2000, True)


def test_a_sample_stands_for_all(tmp_path):
    """So many pictures are read, evenly spread, and the figures are for all of them."""
    draw_pictures(tmp_path / "p", 100)
    for number in range(0, 100, 2):
        Image.new("RGB", (1024, 1024)).save(tmp_path / f"p/{number}.png")
    config = RunConfig(model="gpt-4o")
    whole = plan_of(tmp_path / "p", tmp_path / "run", config)
    for sample in (10, 51, 99):
        part = plan_of(tmp_path / "p", tmp_path / "run", config, Options(sample=sample))
        assert (whole.looked_at, part.looked_at, part.to_ask) == (100, sample, 100)
        if sample > 50:
            assert part.prompt().likely == pytest.approx(whole.prompt().likely, rel=0.05)


def test_pictures_by_url_are_not_for_nothing(tmp_path):
    """Counted as the average of the others; where there are no others, nobody knows what they cost."""
    draw_pictures(tmp_path / "p", 2)
    lines = ["image", "https://example.com/a.jpg", "https://example.com/b.jpg"]
    config = RunConfig(model="gpt-4o", allow_remote=True, tpm=1000)
    (tmp_path / "m.csv").write_text("\n".join(lines))
    alone = plan_of(tmp_path / "m.csv", tmp_path / "run", config)
    assert (alone.to_ask, cost(alone, alone.variants[0], PriceBook())) == (2, None)
    assert seconds_at_the_limits(alone, config) == {}
    (tmp_path / "m.csv").write_text("\n".join([*lines, "p/0.png", "p/1.png"]))
    mixed = plan_of(tmp_path / "m.csv", tmp_path / "run", config)
    assert mixed.prompt().likely == 4 * (255 + 11)


def test_one_endpoint_with_a_model_of_its_own(tmp_path):
    """Its model counts, at its price; a compared model has its own price, wherever it is asked."""
    draw_pictures(tmp_path / "p", 4)
    entry = {"base_url": "http://x.test", "model": "gpt-4o-mini", "price": {"input": 1, "output": 1}}
    config = RunConfig(model="somebody", endpoint=[entry], max_tokens=100)
    plan = plan_of(tmp_path / "p", tmp_path / "run", config, Options(compare=("gpt-4o",)))
    assert plan.prompt().likely == 4 * (2833 + 5667 + 11)
    assert cost(plan, plan.variants[0], PriceBook())[1] == Decimal(4 * (8511 + 100)) / 10**6
    compared = plan.variants[-1]
    assert cost(plan, compared, PriceBook())[1] == (4 * 266 * Decimal("2.5") + 4 * 100 * 10) / 10**6


def test_rows_that_a_start_would_not_ask_are_left_out(tmp_path):
    """Answered and failed ones; those that --retry-failed asks again are counted; other settings: a new run."""
    draw_pictures(tmp_path / "p", 20)
    (tmp_path / "p/0.png").write_bytes(b"")
    config = RunConfig(model="gpt-4o", max_tokens=60)
    with serving(EndpointSettings()) as url:
        arguments = ("caption", "p", "--model", "gpt-4o", "--max-tokens", 60, "-o", "run", "--limit", 12)
        assert captionmill(*arguments, base_url=url, cwd=tmp_path).returncode == 1
    draw_pictures(tmp_path / "p", 20)  # it is whole now

    def planned(**more):
        plan = plan_of(tmp_path / "p", tmp_path / "run", config, Options(**more))
        return plan.rows, plan.finished, plan.failed_before, plan.to_ask

    assert planned() == (20, 11, 1, 8)
    assert planned(retry_failed=frozenset()) == (20, 11, 0, 9)
    assert planned(retry_failed=frozenset({"timeout"})) == (20, 11, 1, 8)
    assert planned(retry_failed=frozenset({"image_broken"})) == (20, 11, 0, 9)
    other = plan_of(tmp_path / "p", tmp_path / "run", RunConfig(model="gpt-4o-mini"))
    assert (other.to_ask, "other settings" in other.notes[0]) == (20, True)


def test_money_and_time(mixed, tmp_path):
    """Likely money is the tokens at the list price; low and high lie about it; the slowest limit says how long."""
    config = RunConfig(model="gpt-4o", max_tokens=200, tpm=6000, rpm=60)
    plan = plan_of(mixed, tmp_path / "run", config)
    low, likely, high = cost(plan, plan.variants[0], PriceBook())
    assert likely == (round(plan.prompt().likely) * Decimal("2.5") + 12 * 100 * 10) / 10**6
    assert low < likely < high
    assert high >= Decimal(12 * 200 * 10) / 10**6
    bounds = seconds_at_the_limits(plan, config)
    assert bounds["--rpm 60"] == 12
    assert bounds["--tpm 6,000"] == (plan.prompt().likely + 1200) / 100
    assert cost(plan, plan.variants[0], PriceBook()) != cost(plan, plan.variants[1], PriceBook())


def test_an_unknown_price_is_said(tmp_path):
    """No zero, no guess."""
    draw_pictures(tmp_path / "p", 1)
    done = captionmill("plan", "p", "--model", "mystery", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no price is known for mystery" in done.stdout
    assert "how mystery counts pictures is not known" in done.stdout


# ------------------------------------------------------------------------------- the command


def test_a_plan_then_the_run(tmp_path):
    """No key, nothing sent; --calibrate captions rows that count; what the run then costs lies in the range, the likely within 5 %."""
    draw_pictures(tmp_path / "p", 40)
    (tmp_path / "m.csv").write_text(
        "image,category\n" + "".join(f"p/{n}.png,{'cat' if n % 2 else ''}\n" for n in range(40))
    )
    arguments = ("m.csv", *MODEL, "--max-tokens", 100, "--prompt", "Describe this {category}.", "-o", "run")
    with serving(EndpointSettings()) as url:
        dry = captionmill("caption", *arguments, "--dry-run", cwd=tmp_path, OPENAI_API_KEY="")
        assert dry.returncode == 0, dry.stderr
        assert "40 rows: 40 to ask" in dry.stdout
        assert "20 rows have nothing in {category}" in dry.stdout
        assert stats(url)["answers"] == 0
        assert not (tmp_path / "run").exists()
        compared = ("--compare", "gpt-4o-mini, claude-3-5-sonnet-20240620", "--calibrate", 10, "--json")
        planned = captionmill("plan", *arguments, *compared, base_url=url, cwd=tmp_path)
        assert planned.returncode == 0, planned.stderr
        assert stats(url)["answers"] == 10
        assert captionmill("caption", *arguments, base_url=url, cwd=tmp_path).returncode == 0
    plan = json.loads(planned.stdout)
    assert (plan["answered_before"], plan["to_ask"], plan["calibrated_by_answers"]) == (10, 30, 10)
    rest = results(tmp_path / "run").iloc[10:]
    assert plan["prompt_tokens"]["likely"] == pytest.approx(rest.prompt_tokens.sum(), rel=0.02)
    low, likely, high = (Decimal(plan["cost"][name]) for name in ("low", "likely", "high"))
    assert low <= rest.cost_usd.sum() <= high
    assert float(likely) == pytest.approx(float(rest.cost_usd.sum()), rel=0.05)
    assert [v["name"] for v in plan["variants"]][-2:] == ["gpt-4o-mini", "claude-3-5-sonnet-20240620"]
    assert plan["variants"][-2]["prompt_tokens"] > 10 * plan["variants"][0]["prompt_tokens"]


def test_a_plan_refuses_what_a_start_refuses(tmp_path):
    """A missing column, a missing source, a wrong setting: exit 2 and the line."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "m.csv").write_text("image\np/0.png\n")
    for arguments, says in (
        (("m.csv", *MODEL, "--prompt", "{who}"), "the prompt asks for {who}"),
        (("nowhere", *MODEL), "no such file"),
        (("p",), "--model is needed"),
        (("p", *MODEL, "--sample", "0"), "--sample"),
        (("p", *MODEL, "--calibrate", "3"), "fewer than 5 answers say too little"),
    ):
        done = captionmill("plan", *arguments, cwd=tmp_path)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
