"""The nouns that travel. Knows nothing of files, HTTP or time.

manifest -> Row -> (Picture, ...) -> HttpAnswer -> Reply -> Outcome -> parts
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Protocol

from .errors import RowError
from .labels import Correction, Label, RequestForm


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the manifest.

    images: as the manifest gives them; paths: the same, resolved against the manifest's folder.
    prompt: with its {columns} filled in. extra: the other columns as JSON, None where there are none.
    embedded: (path, bytes) of pictures that stand in the manifest itself; until they are prepared.
    """

    id: str
    images: tuple[str, ...]
    paths: tuple[str, ...]
    prompt: str
    extra: str | None = None
    embedded: tuple[tuple[str, bytes], ...] = field(default=(), compare=False, repr=False)

    @property
    def content_hash(self) -> int:
        """64 bits of what is asked: pictures by name, and prompt. Signed, as SQLite has it."""
        text = "\0".join((*self.images, self.prompt)).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is sent: upright, within bounds, JPEG or PNG.

    base64: the text that goes into the data URL. byte_count: of the picture before base64.
    sha256: of the file on disk, hexadecimal.
    """

    base64: bytes
    mime: str
    width: int
    height: int
    byte_count: int
    sha256: str


class PictureBounds(Protocol):
    """In what size pictures are sent, and what they may weigh; by settings and model.

    base64_bytes: of one picture as it is sent, None: any. request_bytes: of all pictures of a row, None: any.
    """

    @property
    def base64_bytes(self) -> int | None:
        """Of one picture."""

    @property
    def request_bytes(self) -> int | None:
        """Of all pictures of a row."""

    def fit(self, width: int, height: int, count: int) -> tuple[int, int]:
        """The size to send for a picture of this size in pixels, never larger. count: pictures in the row."""

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """That size with the border that the provider needs."""


# a row with its pictures, or with the reason why there are none
Prepared = tuple[Row, "tuple[Picture, ...] | RowError"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to an endpoint: a row with its prepared pictures.

    answer_tokens: how long the answer may be, None as the run says. reason: why it is asked after an answer
    came (a kind of the account of attempts, as "length"); None for the first.

    Of labelling runs: form: the way it is sent in, set by the endpoint that sends it. is_trial: whether that endpoint takes
    this way is not known yet. correction: the answer that was not valid. reasks: how often it was asked again for that.
    """

    row: Row
    pictures: tuple[Picture, ...]
    answer_tokens: int | None = None
    reason: str | None = None
    form: RequestForm | None = None
    is_trial: bool = False
    correction: Correction | None = None
    reasks: int = 0

    @property
    def text(self) -> str:
        """All text of the request but the system message, for counting tokens."""
        parts = [self.row.prompt]
        if self.form is not None:
            parts += [self.form.text, self.form.parameters_text]
        if self.correction is not None:
            parts += [self.correction.answer, self.correction.words]
        return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """What a request may cost, before it is sent.

    formula: prompt and pictures by the provider's formula. prompt: the same, corrected by what answers
    have shown. longest_answer: all that max_tokens and n allow. likely_answer: by what answers have shown.
    pictures: the part of `formula` that is pictures. answers: how many are asked for. most_prompt, most_answer: what money is held back for;
    None where that is `prompt` and `longest_answer`.
    """

    formula: int
    prompt: int
    longest_answer: int
    likely_answer: int
    pictures: int = 0
    answers: int = 1
    most_prompt: int | None = None
    most_answer: int | None = None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back for one POST. headers: read by lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class LimitReport:
    """What a server says of one of its limits: so many a minute, so many of them left now."""

    limit: float
    remaining: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server reported them; None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def is_reported(self) -> bool:
        """Whether the server counted the tokens of the prompt."""
        return self.prompt_tokens is not None

    @property
    def spent_tokens(self) -> int | None:
        """Never less than prompt and answer together, at any total; None where one is not counted."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return max(self.total_tokens or 0, self.prompt_tokens + self.completion_tokens)

    def __add__(self, other: Usage) -> Usage:
        """Both together; a count that either lacks counts as the other's."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Usage(*((a or 0) + (b or 0) if (a, b) != (None, None) else None for a, b in pairs))


@dataclass(frozen=True, slots=True)
class Spending:
    """What requests cost. usd: money in the run's currency, None where no price is known."""

    requests: int = 0
    tokens: int = 0
    usd: Decimal | None = None

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.requests + other.requests, self.tokens + other.tokens, _both(self.usd, other.usd)
        )

    def __sub__(self, other: Spending) -> Spending:
        minus = None if other.usd is None else -other.usd
        return Spending(self.requests - other.requests, self.tokens - other.tokens, _both(self.usd, minus))


def _both(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None and other is None else (one or Decimal(0)) + (other or Decimal(0))


@dataclass(frozen=True, slots=True)
class Choice:
    """finish_reason: as sent. finish: normalised to stop, length, content_filter, tool_calls, other.

    reasoning: the model's thinking, where the server gave it; no part of the content.
    """

    index: int
    content: str | None
    finish_reason: str | None
    finish: str | None = None
    refusal: str | None = None
    tool_calls: str | None = None  # JSON
    logprobs: str | None = None  # JSON
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole chat completion. choices is never empty, in the order of their index.

    is_usage_absurd: the server reported counts that cannot be true; `usage` is without them.
    """

    choices: tuple[Choice, ...]
    usage: Usage
    id: str | None = None
    model: str | None = None
    created: int | None = None
    system_fingerprint: str | None = None
    is_usage_absurd: bool = False

    @property
    def is_empty(self) -> bool:
        """An answer without a caption: its text is blank, and it calls no tool and refuses nothing."""
        first = self.choices[0]
        return not (first.content and first.content.strip()) and not first.tool_calls and not first.refusal


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer. message: at most 2,000 characters, secrets removed."""

    kind: str
    message: str
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row ended: either reply or failure is set, or both where answers came and none was a valid label.

    Times are Unix seconds. What is None where no attempt was made is the last attempt's.
    """

    row: Row
    started_at: float
    finished_at: float
    attempts: int
    reply: Reply | None = None
    failure: Failure | None = None
    pictures: tuple[Picture, ...] = ()
    estimated_tokens: int | None = None
    latency_seconds: float | None = None
    endpoint: str | None = None
    model_requested: str | None = None
    cost_usd: Decimal | None = None
    label: Label | None = None


@dataclass(slots=True)
class Tally:
    """Running counts of one start of a run: what the bar and the summary show."""

    total: int = 0
    done_before: int = 0
    changed: int = 0  # finished before under the same id, but asking something else now
    changed_examples: list[str] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    attempts: int = 0
    retries: int = 0
    rate_limited: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reserved_tokens: int = 0
    cost_usd: Decimal | None = None  # None until a priced answer came
    unpriced: int = 0
    empty: int = 0  # of the answered: without a caption
    failures_by_kind: dict[str, int] = field(default_factory=dict)
    failed_examples: list[str] = field(default_factory=list)
