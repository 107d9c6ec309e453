"""Every setting of a run, once: name, type, default, bounds, help. Flags and TOML both come from here.

The groups matter: a change in `ChatSettings` or `ImageSettings` would change answers, so a resumed
run refuses it; everything else may differ at each start.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

# settings of a single endpoint; with several, each [[endpoint]] entry has its own
_OF_AN_ENDPOINT = ("base_url", "api_key_env", "tpm", "rpm", "concurrency")

UNBOUNDED_ANSWER_TOKENS = 4096

DEFAULT_PROMPT = "Describe this image in one or two sentences."
# of a labelling run; classes and schema follow the prompt
CLASS_PROMPT = "Which class fits this image best?"
CLASSES_PROMPT = "Which classes fit this image?"
SCHEMA_PROMPT = "Look at this image and fill in every field."
DEFAULT_PROMPTS = frozenset({DEFAULT_PROMPT, CLASS_PROMPT, CLASSES_PROMPT, SCHEMA_PROMPT})

# a setting that most people need: --help shows it, the others are in --help-all
_BASIC: JsonDict = {"is_basic": True}

# in the order of the API page; `detail` is part of the image, `param` holds any others
API_ORDER = (
    "temperature",
    "top_p",
    "n",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
    "response_format",
    "seed",
    "logprobs",
    "tools",
    "tool_choice",
)

PositiveInt = Annotated[int, Field(gt=0, le=10**9)]


def _no_key(name: str) -> str:
    if len(name) >= 20 and re.search("[a-z]", name) and re.search("[0-9]", name):
        raise ValueError("looks like a key")
    return name


VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100), AfterValidator(_no_key)
]
# auto is stored as None: reported by the server or discovered while running
_Auto = BeforeValidator(lambda value: None if value == "auto" else value)
Rate = Annotated[PositiveInt | None, _Auto]
Concurrency = Annotated[Annotated[int, Field(ge=1, le=4096)] | None, _Auto]


def _frame(value: object) -> object:
    if value in ("first", "middle"):
        return value
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError("first, middle, or a number from 1 is needed")
    return int(str(value))


Frame = Annotated[Literal["first", "middle"] | int, BeforeValidator(_frame)]


def _deadline(text: str) -> str:
    is_length = re.fullmatch(r"(?=.)(\d{1,4}h)?(\d{1,6}m)?(\d{1,7}s)?", text) and re.search("[1-9]", text)
    if not is_length and not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", text):
        raise ValueError("a length like 8h, 90m or 1h30m, or a time of day like 07:00 is needed")
    return text


Deadline = Annotated[str, AfterValidator(_deadline)]


def _proxy(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("leave name and password out of it; --proxy env takes them from HTTPS_PROXY")
    if text != "env" and (parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0):
        raise ValueError("an address like http://proxy:3128, or env is needed")
    return text


Proxy = Annotated[str, AfterValidator(_proxy)]


class Group(BaseModel):
    """Common rules: no unknown names, no change after the check."""

    # deferred: only RunConfig and PriceTable are validated, and a help needs neither validator
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class ChatSettings(Group):
    """What is asked. Parameters carry their API names; only those that are set are sent."""

    model: str = Field(
        min_length=1, description="model name as the endpoint knows it (required)", json_schema_extra=_BASIC
    )
    prompt: str = Field(
        DEFAULT_PROMPT,
        description="the question; {column} is filled in from the manifest",
        json_schema_extra=_BASIC,
    )
    system: str | None = Field(None, description="system message sent before every prompt")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="image detail to request: auto, low, high, original"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="sampling temperature, 0 to 2")
    top_p: float | None = Field(None, ge=0, le=1, description="nucleus sampling, 0 to 1")
    n: PositiveInt | None = Field(None, description="answers per row; `choices` keeps all of them")
    stop: str | list[str] | None = Field(
        None, description="sequence that ends an answer; may be given up to 4 times"
    )
    max_tokens: PositiveInt | None = Field(
        None, description="longest answer, in tokens", json_schema_extra=_BASIC
    )
    max_completion_tokens: PositiveInt | None = Field(
        None, description="the same limit for reasoning models and newer APIs"
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="penalty on tokens that occurred before, -2 to 2"
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="penalty that grows with each occurrence of a token, -2 to 2"
    )
    logit_bias: dict[str, float] | None = Field(None, description="JSON object: token id to bias")
    user: str | None = Field(None, description="end-user name passed to the endpoint")
    response_format: dict[str, JsonValue] | None = Field(
        None, description='JSON object, for example {"type":"json_object"}'
    )
    seed: int | None = Field(None, description="sampling seed, if the endpoint supports one")
    logprobs: bool | None = Field(None, description="request log probabilities (kept in `choices`)")
    tools: list[dict[str, JsonValue]] | None = Field(None, description="JSON list of tools")
    tool_choice: str | dict[str, JsonValue] | None = Field(
        None, description="none, auto, required, or a JSON object that names a function"
    )
    keep_thinking: bool | None = Field(
        None, description="leave <think>...</think> in the caption [moved to the column reasoning]"
    )
    param: dict[str, JsonValue] | None = Field(
        None, description="any other API parameter as NAME=JSON; may be repeated"
    )

    @field_validator("stop")
    @classmethod
    def _at_most_four_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and not 1 <= len(stop) <= 4:
            raise ValueError("1 to 4 sequences are allowed")
        return stop

    @field_validator("param")
    @classmethod
    def _no_reserved_parameter(cls, param: dict[str, Any] | None) -> dict[str, Any] | None:
        taken = sorted(set(param or ()) & (set(cls.model_fields) | {"messages", "stream"}))
        if taken:
            raise ValueError(f"{', '.join(taken)}: set by a flag of its own or by captionmill itself")
        return param

    @property
    def has_longest_answer(self) -> bool:
        """Whether a setting limits the length of an answer."""
        return bool(self.max_completion_tokens or self.max_tokens)

    @property
    def answer_tokens(self) -> int:
        """Most tokens of the answers to one row; assumes 300 per answer if no limit is set."""
        return (self.max_completion_tokens or self.max_tokens or 300) * (self.n or 1)

    @property
    def most_answer_tokens(self) -> int:
        """The same for budgets, which need an upper bound: UNBOUNDED_ANSWER_TOKENS per answer if no limit is set."""
        return self.answer_tokens if self.has_longest_answer else UNBOUNDED_ANSWER_TOKENS * (self.n or 1)


def _as_labels(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _on_or_unset(value: object) -> object:
    """No is the same as not set, so that a run does not tell them apart."""
    return None if value is False else value


Switch = Annotated[bool | None, BeforeValidator(_on_or_unset)]


class LabelSettings(Group):
    """Answers that are data: classes or a JSON schema. A change would change answers, but for `structured`."""

    labels: Annotated[list[str] | None, BeforeValidator(_as_labels)] = Field(
        None,
        description="classes, as cat,dog,other or @FILE with one a line; cat=a domestic cat describes one",
        json_schema_extra=_BASIC,
    )
    multi: Switch = Field(None, description="a row may have several of the --labels, or none")
    label_schema: dict[str, JsonValue] | None = Field(
        None, description="JSON schema of the answer, inline (--schema reads it from a file)"
    )
    coerce: Switch = Field(
        None, description='take "3" for 3 and the like, where the schema leaves one reading'
    )
    structured: Literal["auto", "schema", "tool", "json", "text"] = Field(
        "auto",
        description="how a label is asked for: schema (json_schema), tool (a forced call), json (json_object), text;"
        " auto: the strongest that the endpoint takes, found by its answers",
    )


class ImageSettings(Group):
    """What is done to a picture before it is sent."""

    image_rules: Literal["auto", "openai", "claude", "gemini", "qwen", "none"] = Field(
        "auto",
        description="shrink images to what the model sees: auto (by the model's name), the rules of a provider"
        " (openai, claude, gemini, qwen), or none (only the limits below)",
    )
    max_side: PositiveInt | None = Field(
        None, description="longest side in pixels; larger images are shrunk [by --image-rules]"
    )
    max_pixels: PositiveInt | None = Field(None, description="most pixels per image, width x height")
    max_bytes: Annotated[int, Field(ge=1000, le=10**9)] | None = Field(
        None, description="most bytes per image, as base64 text [by --image-rules]"
    )
    max_request_bytes: Annotated[int, Field(ge=1000, le=10**9)] | None = Field(
        None, description="most bytes of all images of one row, as base64 text [by --image-rules]"
    )
    frame: Frame = Field(
        "first",
        description="frame of an animation or page of a file: first, middle, or a number from 1 (past the end: the last)",
    )
    jpeg_quality: int = Field(85, ge=1, le=95, description="JPEG quality of re-encoded images, 1 to 95")
    strip_metadata: bool = Field(
        True,
        description="remove position, time, camera and texts, also from files that are sent without re-encoding",
    )
    background: str = Field(
        "#ffffff",
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="colour behind transparent pixels, as #rrggbb",
    )


class LimitSettings(Group):
    """How fast, how often, how long."""

    tpm: Rate = Field(
        None,
        description="tokens per minute, a number, or auto: reported by the server or discovered [auto]",
        json_schema_extra=_BASIC,
    )
    rpm: Rate = Field(
        None,
        description="requests per minute, a number, or auto: reported by the server or discovered [auto]",
        json_schema_extra=_BASIC,
    )
    concurrency: Concurrency = Field(
        None,
        description="requests in flight, a number, or auto: discovered while running [auto]",
        json_schema_extra=_BASIC,
    )
    max_concurrency: int = Field(
        256, ge=1, le=4096, description="most requests in flight with --concurrency auto"
    )
    burst_seconds: float = Field(1.0, gt=0, le=60, description="burst size, in seconds' worth of the limit")
    charge: Literal["auto", "reserved", "used"] = Field(
        "auto",
        description="what counts against the token limit: max_tokens in advance (reserved) or the actual answer (used);"
        " auto: what the server's headers show, used without them",
    )
    rate_limit_headers: Literal["auto", "trust", "ignore"] = Field(
        "auto", description="obey x-ratelimit-* headers: trust, ignore, or auto (yes, except from relays)"
    )
    max_retries: int = Field(8, ge=0, le=100, description="further attempts per row after the first")
    max_unreadable_retries: int = Field(
        2,
        ge=0,
        le=100,
        description="further attempts per row after a whole answer that cannot be read; each of them may be billed",
    )
    retry_length: PositiveInt | None = Field(
        None,
        description="if an answer was cut off, ask once more with this as max_tokens (both are billed) [never]",
    )
    max_reasks: int = Field(
        1,
        ge=0,
        le=10,
        description="ask so often again for a label that is not valid, with the validator's words (each is billed)",
    )
    max_wait: float = Field(120.0, gt=0, le=86_400, description="longest Retry-After to honour, in seconds")
    max_outage: float = Field(
        3600.0,
        gt=0,
        le=604_800,
        description="seconds that an endpoint which once worked may fail before it is disabled",
    )
    stop_after_failures: int = Field(
        50,
        ge=0,
        le=10**9,
        description="stop (resumable) after N consecutive failed rows, 40 % of N before the first success; bad images"
        " do not count; 0: never",
    )
    on_usage_anomaly: Literal["warn", "stop"] = Field(
        "warn",
        description="when answers report far fewer or far more prompt tokens than text and images have: warn, stop",
    )
    timeout: float = Field(
        600.0, gt=0, le=86_400, description="seconds per attempt, from sending to the last byte"
    )
    connect_timeout: float = Field(15.0, gt=0, le=3600, description="seconds to open a connection")
    read_timeout: float = Field(
        60.0, gt=0, le=86_400, description="seconds without data in the middle of an answer"
    )
    deadline: Deadline | None = Field(
        None, description="stop (resumable) after 8h, 90m, 1h30m or 600s, or at a time of day: 07:00"
    )
    budget_usd: Annotated[Decimal, Field(gt=0, le=10**9)] | None = Field(
        None,
        description="most money for the whole run, over all its starts; it stops before it exceeds this [no limit]",
        json_schema_extra=_BASIC,
    )
    budget_tokens: Annotated[int, Field(gt=0, le=10**15)] | None = Field(
        None, description="most tokens for the whole run, in and out [no limit]"
    )
    budget_requests: PositiveInt | None = Field(
        None, description="most requests for the whole run, also refused and repeated ones [no limit]"
    )

    @property
    def has_budget(self) -> bool:
        """Whether any of the three budgets is set."""
        return any(b is not None for b in (self.budget_usd, self.budget_tokens, self.budget_requests))


class ConnectionSettings(Group):
    """Who is asked. The key itself is never a setting, only the name of its variable."""

    base_url: str | None = Field(
        None,
        description="address of the endpoint [OPENAI_BASE_URL, then https://api.openai.com/v1]",
        json_schema_extra=_BASIC,
    )
    api_key_env: VariableName = Field(
        "OPENAI_API_KEY",
        description="NAME of the environment variable that holds the key",
        json_schema_extra=_BASIC,
    )
    proxy: Proxy | None = Field(
        None,
        description="address of an HTTP proxy, or env to use HTTPS_PROXY, HTTP_PROXY and NO_PROXY [none]",
    )
    endpoint_kind: Literal["auto", "direct", "relay"] = Field(
        "auto",
        description="direct (the provider itself), relay (one-api, new-api), or auto: detected from its answers",
    )


class RunSettings(Group):
    """What of the manifest is run, and how it is kept."""

    limit: PositiveInt | None = Field(None, description="only the first N rows", json_schema_extra=_BASIC)
    rows_per_part: PositiveInt = Field(5000, description="answers per Parquet part")
    allow_outside: bool = Field(
        False, description="allow relative paths in a manifest to leave its folder (../)"
    )
    allow_remote: bool = Field(
        False,
        description="allow http(s) URLs as images of a manifest; they are fetched from public addresses only",
    )
    strict: bool = Field(False, description="a folder of the source that cannot be read is an error")
    prepare_threads: PositiveInt | None = Field(
        None, description="threads that prepare images [one per core]"
    )


MoneyPerMillion = Annotated[Decimal, Field(ge=0, le=10**6)]
Multiplier = Annotated[Decimal, Field(ge=0, le=1000)]


class Price(Group):
    """Money per million tokens, in the currency of the table.

    input, output: None for the list price. cached, reasoning: None where such tokens cost as much as the
    other input or output. multiplier: of all of it, as a relay's ratio; None for 1, of a list price for the
    table's own.
    """

    input: MoneyPerMillion | None = None
    output: MoneyPerMillion | None = None
    cached: MoneyPerMillion | None = None
    reasoning: MoneyPerMillion | None = None
    multiplier: Multiplier | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.input is None) != (self.output is None):
            raise ValueError("input and output: give both, or neither for the list price")
        if self.input is None and (self.cached is not None or self.reasoning is not None):
            raise ValueError("cached and reasoning go with input and output")
        if self.input is None and self.multiplier is None:
            raise ValueError("input and output are needed, or a multiplier of the list price")
        return self


class PriceTable(Group):
    """[prices] of the TOML: what models cost, by name; every key but the two below is a model.

    currency: of the prices. multiplier: of the list price of models that have no price here.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Price]

    currency: str = Field("USD", min_length=1, max_length=12)
    multiplier: Multiplier | None = None

    @property
    def models(self) -> dict[str, Price]:
        """By name, as given; * stands for any characters."""
        return self.__pydantic_extra__ or {}


class EndpointEntry(Group):
    """One [[endpoint]] of the TOML: an address with a key, its limits, price and share of the rows.

    base_url, model: None for those of the run. price: None for the price table.
    """

    base_url: str | None = Field(None, description="the endpoint's address")
    api_key_env: VariableName = Field("OPENAI_API_KEY", description="NAME of the variable with its key")
    model: str | None = Field(None, min_length=1, description="model name at this endpoint")
    tpm: Rate = Field(None, description="tokens per minute of this endpoint, a number or auto")
    rpm: Rate = Field(None, description="requests per minute of this endpoint, a number or auto")
    concurrency: Concurrency = Field(
        None, description="requests in flight at this endpoint, a number or auto"
    )
    price: Price | None = Field(None, description="{ input = 2.5, output = 10.0 }, money per million tokens")
    weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="share of the requests in flight when several endpoints have room; 0: only when no other has",
    )


class TableSettings(Group):
    """Settings that only a TOML file can have: several endpoints for one run, and prices."""

    endpoint: tuple[EndpointEntry, ...] = Field((), description="[[endpoint]] entries")
    prices: PriceTable | None = Field(None, description="[prices] by model")


class RunConfig(
    ChatSettings, LabelSettings, ImageSettings, LimitSettings, ConnectionSettings, RunSettings, TableSettings
):
    """All settings of one start, flat: the names of flags and of TOML keys."""

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_labels(cls, data: Any) -> Any:
        """A labelling run without a prompt has one of its own."""
        if not isinstance(data, dict) or "prompt" in data:
            return data
        if data.get("labels"):
            return data | {"prompt": CLASSES_PROMPT if data.get("multi") else CLASS_PROMPT}
        return data | {"prompt": SCHEMA_PROMPT} if data.get("label_schema") else data

    @model_validator(mode="after")
    def _labels_alone(self) -> Self:
        """Classes and schema decide on the form of the answer; nothing else may."""
        if self.labels and self.label_schema is not None:
            raise ValueError("--labels and --schema: give one of them, not both")
        if self.multi and not self.labels:
            raise ValueError("--multi: goes with --labels")
        taken = [n for n in ("n", "response_format", "tools", "tool_choice") if getattr(self, n) is not None]
        if taken and (self.labels or self.label_schema is not None):
            names = ", ".join(f"--{n.replace('_', '-')}" for n in taken)
            raise ValueError(f"{names}: a labelling run sets it itself (--structured)")
        return self

    @model_validator(mode="after")
    def _one_place_for_limits(self) -> Self:
        """A limit outside the entries is ambiguous: it could apply to each of them or to their sum."""
        given = [n for n in _OF_AN_ENDPOINT if getattr(self, n) != RunConfig.model_fields[n].get_default()]
        if self.endpoint and given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{names}: with [[endpoint]] entries each has its own; set it there")
        return self

    @model_validator(mode="after")
    def _longer_than_before(self) -> Self:
        longest = self.max_completion_tokens or self.max_tokens
        if self.retry_length is not None and (longest is None or self.retry_length <= longest):
            raise ValueError(
                f"--retry-length {self.retry_length}: more than --max-tokens ({longest or 'not set'}) is needed"
            )
        return self

    def endpoints(self) -> tuple[EndpointEntry, ...]:
        """The endpoints of the run, at least one. An entry without a model gets the model of the run."""
        if not self.endpoint:
            return (EndpointEntry(**{name: getattr(self, name) for name in ("model", *_OF_AN_ENDPOINT)}),)
        return tuple(
            entry if entry.model else entry.model_copy(update={"model": self.model})
            for entry in self.endpoint
        )

    def answer_settings(self) -> dict[str, Any]:
        """The settings that a resumed run must not change, JSON-ready, only those that are set."""
        groups = (ChatSettings, LabelSettings, ImageSettings)
        names = {name for group in groups for name in group.model_fields} - {"structured"}
        return self.model_dump(mode="json", include=names, exclude_none=True)

    def other_settings(self) -> dict[str, Any]:
        """All other settings, JSON-ready, without addresses: an address may hold a token."""
        exclude: dict[str, Any] = {"base_url": True, "endpoint": {"__all__": {"base_url"}}}
        exclude |= dict.fromkeys(self.answer_settings(), True)
        return self.model_dump(mode="json", exclude=exclude, exclude_none=True)


GROUPS: tuple[tuple[str, type[Group]], ...] = (
    ("request", ChatSettings),
    ("labels", LabelSettings),
    ("images", ImageSettings),
    ("limits, retries, budgets", LimitSettings),
    ("endpoint", ConnectionSettings),
    ("run", RunSettings),
)

IMAGE_DEFAULTS = {
    name: setting.get_default()
    for name, setting in ImageSettings.model_fields.items()
    if setting.get_default() is not None
}
