"""What a run will take, before it starts: rows, pictures, tokens, money, time. Sends nothing.

The manifest is read as a run reads it and of each picture only the header, so the sizes are those that will
be sent. Prompts are counted by the formula of the model's family; where the run has answers already, they
correct it and say how long answers are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

from ..labels.task import LabelTask, label_task
from ..nouns.config import RunConfig
from ..nouns.console import ProgressConsole
from ..nouns.errors import RowError, UsageError
from ..nouns.rows import Row
from ..pictures.measure import Measured
from ..rules.prices import PriceBook
from ..rules.tokens import TEMPLATE_TOKENS, UNLEARNED_RATIO, fixed_tokens, text_tokens
from ..sources.manifest import Manifest, Survey
from ..store.compatibility import read_earlier_starts
from ..store.folder import RunFolder
from ..store.journal import Journal
from ..store.pending import PendingRows
from ..vision.models import BOUNDS, UNKNOWN, vision_model
from ..vision.sizes import picture_bounds
from .headers import Looked, read_headers
from .report import read_report

FEWEST_ANSWERS = 5  # before they say more than a guess
_LIKELY_ANSWER_TOKENS = 100  # a caption of two sentences, until there are answers
_SHORT_ANSWER_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Range:
    """Tokens. low and high are what it hardly goes under and over."""

    low: float = 0.0
    likely: float = 0.0
    high: float = 0.0

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Known:
    """What the run's own answers have shown; guesses where there are none.

    answers: of which. ratio: reported prompt tokens to those of the formula. answer: tokens of one answer.
    latency_seconds: of one answer on average; None before the first answers.
    """

    answers: int
    ratio: float
    answer: Range
    latency_seconds: float | None


@dataclass(slots=True)
class Variant:
    """Another way to ask the same rows. name: what is different. config: with that."""

    name: str
    config: RunConfig
    is_asked_for: bool = False
    picture_tokens: int = 0


@dataclass(slots=True)
class Plan:
    """rows: of the manifest. is_resumed: the run has some of them already. finished: answered by it before.
    failed_before: and not asked again. to_ask: those that are left, without unreadable ones. looked_at: rows
    whose pictures were read; smaller than what is left with a sample.

    prompt, answers: tokens of all rows to ask. variants: the run's own way first.
    """

    survey: Survey
    known: Known
    variants: list[Variant]
    rows: int = 0
    is_resumed: bool = False
    finished: int = 0
    failed_before: int = 0
    left: int = 0
    looked_at: int = 0
    readable: int = 0
    pictures: int = 0
    remote: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    text_tokens: int = 0
    upload_bytes: int = 0
    above_bytes: int = 0
    above_limit: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """From the rows that were looked at to all that are left."""
        return self.left / self.looked_at if self.looked_at else 0.0

    @property
    def to_ask(self) -> int:
        """Rows that a start would send, without unreadable ones; estimated with a sample."""
        return round((self.readable + self.remote) * self.scale)

    @property
    def tokens_scale(self) -> float:
        """Rows with pictures by URL count as the average of the others."""
        return self.to_ask / self.readable if self.readable else 0.0

    @property
    def asks_each(self) -> int:
        """How often a row may be asked: more than once only for a label that is not valid."""
        config = self.variants[0].config
        return 1 + (config.max_reasks if config.labels or config.label_schema is not None else 0)

    @property
    def is_known(self) -> bool:
        """Whether any picture could be looked at; without one their tokens are unknown."""
        return self.readable > 0 or not self.remote

    def prompt(self, variant: Variant | None = None) -> Range:
        """Tokens of all prompts, pictures included."""
        pictures = (variant or self.variants[0]).picture_tokens
        formula = (self.text_tokens + pictures) * self.tokens_scale
        likely = formula * self.known.ratio
        if self.known.answers >= FEWEST_ANSWERS:
            return Range(likely, likely, likely * 1.05 * self.asks_each)
        return Range(
            likely, likely, (formula * UNLEARNED_RATIO + TEMPLATE_TOKENS * self.to_ask) * self.asks_each
        )

    @property
    def answers(self) -> Range:
        """Tokens of all answers."""
        one = self.known.answer
        return Range(one.low * self.to_ask, one.likely * self.to_ask, one.high * self.to_ask * self.asks_each)


@dataclass(frozen=True, slots=True)
class Options:
    """compare: names of models to count the same rows for. sample: look at so many rows only, evenly spread; None
    for all. retry_failed, is_moved: as in a `Job`.
    """

    compare: tuple[str, ...] = ()
    sample: int | None = None
    retry_failed: frozenset[str] | None = None
    is_moved: bool = False


def make_plan(
    source: Path,
    run_path: Path,
    config: RunConfig,
    options: Options,
    console: ProgressConsole,
) -> Plan:
    """Read manifest and picture headers.

    console: gets a line before a long step, and how many rows of how many were looked at.
    Raises UsageError, RunError for what a start would refuse too, but for answers to other settings in the folder.
    """
    manifest = Manifest(
        source, config.prompt, config.limit, config.allow_outside, config.allow_remote, config.strict
    )
    console.tell(f"reading {source}")
    survey = manifest.survey()
    folder, asked = RunFolder(run_path), _as_asked(config)
    plan = Plan(survey, known(None, asked), variants(asked, options.compare), rows=survey.total)
    _read_state(plan, folder, None if options.is_moved else source.resolve(), config)
    if not plan.is_resumed:
        manifest.check_images()
    with closing(Journal(folder.journal)) if plan.is_resumed else nullcontext() as journal:
        if journal is not None:
            _count_pending(
                plan, PendingRows(manifest.rows(with_pictures=False), journal, options.retry_failed)
            )
        batches = PendingRows(manifest.rows(), journal, options.retry_failed).batches()
        counter = _Counter(plan, asked)
        for batch in read_headers(batches, plan.left, asked, options.sample):
            counter.add(batch)
            console.advance(plan.looked_at, min(plan.left, options.sample or plan.left))
    _add_notes(plan, asked)
    return plan


def _as_asked(config: RunConfig) -> RunConfig:
    """With the model's name at the endpoint, where there is one for all."""
    models = {entry.model for entry in config.endpoints()}
    return config.model_copy(update={"model": models.pop()}) if len(models) == 1 else config


def known(folder: RunFolder | None, config: RunConfig) -> Known:
    """What this run's answers have shown so far; guesses where folder is None or too few have come."""
    count = config.n or 1
    high = config.most_answer_tokens + (config.retry_length or 0) * count
    likely = min(_LIKELY_ANSWER_TOKENS * count, config.most_answer_tokens)
    if folder is not None:
        report = read_report([folder])
        spread, usage = report.spreads["completion_tokens"], report.anomalies
        if spread.count >= FEWEST_ANSWERS and usage.formula_tokens:
            return Known(
                answers=spread.count,
                ratio=usage.reported_tokens / usage.formula_tokens,
                answer=Range(spread.percentile(5), min(spread.mean, high), high),
                latency_seconds=report.spreads["latency_s"].mean,
            )
    return Known(0, 1.0, Range(min(_SHORT_ANSWER_TOKENS * count, likely), likely, high), None)


def variants(config: RunConfig, compare: Sequence[str]) -> list[Variant]:
    """The run's own way, cheaper ways that it might take, and other models."""
    ways = [Variant(config.model, config, is_asked_for=True)]
    ways += [
        Variant(f"--detail {detail}", config.model_copy(update={"detail": detail}))
        for detail in ("low", "high")
        if detail != config.detail
    ]
    ways += [
        Variant(f"--max-side {side}", config.model_copy(update={"max_side": side}))
        for side in (1024, 768, 512)
        if config.max_side is None or side < config.max_side
    ]
    # another model at its list price or the user's, wherever it is asked
    ways += [
        Variant(name, config.model_copy(update={"model": name, "endpoint": ()}), is_asked_for=True)
        for name in compare
    ]
    return ways


# ------------------------------------------------------------------------------- money and time


def cost(plan: Plan, variant: Variant, prices: PriceBook) -> tuple[Decimal, Decimal, Decimal] | None:
    """Low, likely and high for all rows that are left, cached tokens not counted on; None where no price is known.

    With several endpoints low is at the cheapest, high at the most expensive and likely in the middle of those two.
    """
    entries = variant.config.endpoints()
    asks = variant.config.model
    found = [prices.rates((entry.model if len(entries) > 1 else asks,), entry.price) for entry in entries]
    rates = [r for r in found if r is not None]
    if not rates or len(rates) < len(found) or not plan.is_known:
        return None
    prompt, answers, rows = plan.prompt(variant), plan.answers, plan.to_ask
    likely = [r.of_many(prompt.likely, answers.likely, rows) for r in rates]
    return (
        min(r.of_many(prompt.low, answers.low, rows) for r in rates),
        (min(likely) + max(likely)) / 2,
        max(r.of_many(prompt.high, answers.high, rows) for r in rates),
    )


def seconds_at_the_limits(plan: Plan, config: RunConfig) -> dict[str, float]:
    """How long each limit that was given holds the run up; the longest is how long it takes. Empty without limits."""
    entries, bounds = config.endpoints(), {}
    answer = plan.answers.high if config.charge == "reserved" else plan.answers.likely
    if plan.is_known and all(entry.tpm for entry in entries):
        tpm = sum(entry.tpm or 0 for entry in entries)
        bounds[f"--tpm {tpm:,}"] = 60 * (plan.prompt().likely + answer) / tpm
    if all(entry.rpm for entry in entries):
        rpm = sum(entry.rpm or 0 for entry in entries)
        bounds[f"--rpm {rpm:,}"] = 60 * plan.to_ask / rpm
    latency = plan.known.latency_seconds
    if latency is not None and all(entry.concurrency for entry in entries):
        places = sum(entry.concurrency or 0 for entry in entries)
        bounds[f"--concurrency {places:,}, {latency:.1f} s an answer"] = plan.to_ask * latency / places
    return bounds


# ------------------------------------------------------------------------------- which rows


def _read_state(plan: Plan, folder: RunFolder, source: Path | None, config: RunConfig) -> None:
    """Whether the run would be resumed. With another source or other settings all rows would be new.

    source: None where it has moved. Raises UsageError, RunError where a start would refuse this folder.
    """
    plan.left = plan.rows
    earlier = read_earlier_starts(folder)
    try:
        earlier.check_may_take(source, config)
    except UsageError as error:
        plan.notes.append(f"planned as a new run: {str(error).splitlines()[0]}")
        return
    plan.is_resumed = earlier.counts.answered + earlier.counts.failed > 0
    if earlier.counts.answered:
        plan.known = known(folder, _as_asked(config))


def _count_pending(plan: Plan, pending: PendingRows) -> None:
    plan.left = sum(len(batch) for batch in pending.batches())
    plan.finished, plan.failed_before = pending.finished, pending.failed


# ------------------------------------------------------------------------------- counting


class _Counter:
    """Adds up rows for every variant."""

    def __init__(self, plan: Plan, config: RunConfig) -> None:
        self._plan = plan
        self._fixed_tokens = fixed_tokens(config) + _label_tokens(config)
        self._bounds = picture_bounds(config)
        self._most_bytes = BOUNDS[vision_model(config.model).provider].base64_bytes
        self._tpm = config.tpm
        self._answer = plan.known.answer.high if config.charge == "reserved" else plan.known.answer.likely
        self._counts = [_tokens_of(variant.config) for variant in plan.variants]

    def add(self, looked: Looked) -> None:
        for row, pictures in looked:
            self._plan.looked_at += 1
            if isinstance(pictures, RowError):
                self._unreadable(pictures)
            elif pictures is None:
                self._plan.remote += 1
            else:
                self._add(row, pictures)

    def _unreadable(self, error: RowError) -> None:
        self._plan.unreadable[error.kind] += 1
        if len(self._plan.examples) < 5:
            self._plan.examples.append(str(error))

    def _add(self, row: Row, pictures: tuple[Measured, ...]) -> None:
        plan, count = self._plan, len(pictures)
        plan.readable += 1
        plan.pictures += count
        text = self._fixed_tokens + text_tokens(row.prompt)
        plan.text_tokens += text
        for variant, tokens in zip(plan.variants, self._counts, strict=True):
            found = sum(
                tokens(p.width, p.height, p.orientation, p.is_jpeg, p.is_plain, count) for p in pictures
            )
            variant.picture_tokens += found
            if variant is plan.variants[0] and self._tpm is not None:
                plan.above_limit += (text + found) * plan.known.ratio + self._answer > self._tpm
        weights = [p.sent_bytes(self._bounds, count) for p in pictures]
        plan.upload_bytes += sum(weights)
        plan.above_bytes += self._bounds.base64_bytes is None and max(weights) > self._most_bytes


def _label_tokens(config: RunConfig) -> int:
    """Tokens of classes or schema, in the first way that a labelling run asks in; 0 for any other run."""
    task = label_task(config)
    return 0 if task is None else task.text_tokens


def _tokens_of(config: RunConfig) -> Callable[[int, int, int, bool, bool, int], int]:
    """Tokens of a picture as this configuration sends it; cameras make few sizes, so each is worked out once."""
    bounds, family = picture_bounds(config), vision_model(config.model, config.image_rules).family

    @lru_cache(maxsize=65_536)
    def tokens(width: int, height: int, orientation: int, is_jpeg: bool, is_plain: bool, count: int) -> int:
        measured = Measured(width, height, orientation, is_jpeg, is_plain, 0)
        return family.tokens(*measured.sent_size(bounds, count), config.detail)

    return tokens


def _label_notes(config: RunConfig, task: LabelTask) -> list[str]:
    notes = [
        f"{keyword} at {path} is no part of what endpoints enforce: it is sent as words, and checked here"
        for path, keyword in task.moved
    ]
    if config.max_reasks:
        notes.append(
            f"a label that is not valid is asked for again, {config.max_reasks} times at most, and each is billed: `high`"
            " has all of them"
        )
    return notes


def _add_notes(plan: Plan, config: RunConfig) -> None:
    """Notes on what the figures do not show."""
    models = sorted({entry.model or config.model for entry in config.endpoints()})
    if len(models) > 1:
        plan.notes.append(
            f"the endpoints ask {' and '.join(models)}; tokens are counted as {config.model} counts them (--compare)"
        )
    if (task := label_task(config)) is not None:
        plan.notes += _label_notes(config, task)
    if config.retry_length is not None:
        plan.notes.append(
            "--retry-length asks for some answers twice; their prompts are then billed twice too"
        )
    for column, count in plan.survey.empty_columns.items():
        plan.notes.append(f"{count:,} rows have nothing in {{{column}}}, for which the prompt asks")
    if vision_model(config.model, config.image_rules) is UNKNOWN and not plan.known.answers:
        plan.notes.append(
            f"how {config.model} counts pictures is not known; --calibrate 20 asks that many rows and corrects the tokens"
        )
    if not config.has_longest_answer:
        plan.notes.append(
            f"without --max-tokens an answer may be of any length; `high` takes {config.most_answer_tokens:,} tokens"
        )
    if plan.above_bytes:
        provider = vision_model(config.model).provider
        plan.notes.append(
            f"{round(plan.above_bytes * plan.scale):,} rows have a picture above the {BOUNDS[provider].base64_bytes:,} bytes of base64 that"
            f" {provider} takes; --image-rules auto shrinks them"
        )
    if plan.above_limit:
        plan.notes.append(
            f"{round(plan.above_limit * plan.scale):,} rows need more than --tpm allows in a whole minute; they would fail"
        )
    if plan.remote:
        plan.notes.append(
            f"{round(plan.remote * plan.scale):,} rows have pictures by URL, which are not looked at: they are taken for the"
            " average of the others"
        )
    if plan.failed_before:
        plan.notes.append(
            f"{plan.failed_before:,} rows failed before and are left out; --retry-failed asks them again"
        )
