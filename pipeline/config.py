"""Every setting of a run, once: name, type, default, bounds, help. Flags and TOML both come from here.

The groups matter: a change in `ChatSettings` or `ImageSettings` would change answers, so a resumed
run refuses it; everything else may differ at each start.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

DEFAULT_PROMPT = "Describe this image in one or two sentences."

# in the order of the API page; `detail` belongs to the picture, `param` is spread
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


class Group(BaseModel):
    """Common rules: no unknown names, no change after the check."""

    # deferred: only RunConfig is ever validated, so only its validator need be built
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class ChatSettings(Group):
    """What is asked. Parameters carry their API names; only those that are set are sent."""

    model: str = Field(min_length=1, description="model name as the endpoint knows it; required")
    prompt: str = Field(DEFAULT_PROMPT, description="the question; {column} is filled from the manifest")
    system: str | None = Field(None, description="system message sent before every prompt")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="image detail asked for: auto, low, high, original"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 to 2")
    top_p: float | None = Field(None, ge=0, le=1, description="0 to 1")
    n: PositiveInt | None = Field(None, description="answers a row; all are kept in `choices`")
    stop: str | list[str] | None = Field(None, description="up to 4 sequences that end an answer")
    max_tokens: PositiveInt | None = Field(None, description="longest answer in tokens")
    max_completion_tokens: PositiveInt | None = Field(
        None, description="the same for reasoning and newer models"
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="-2 to 2")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="-2 to 2")
    logit_bias: dict[str, float] | None = Field(None, description="JSON object: token id to bias")
    user: str | None = Field(None, description="end-user name passed to the endpoint")
    response_format: dict[str, JsonValue] | None = Field(
        None, description='JSON object, for example {"type":"json_object"}'
    )
    seed: int | None = Field(None, description="sampling seed, where the endpoint has one")
    logprobs: bool | None = Field(None, description="ask for log probabilities (kept in `choices`)")
    tools: list[dict[str, JsonValue]] | None = Field(None, description="JSON list of tools")
    tool_choice: str | dict[str, JsonValue] | None = Field(
        None, description="none, auto, required, or a JSON object that names a function"
    )
    param: dict[str, JsonValue] | None = Field(
        None, description="any other parameter of the API as NAME=JSON; may be repeated"
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
    def answer_tokens(self) -> int:
        """Tokens that the answers to one row may take at the most; a guess of 300 where no bound is set."""
        return (self.max_completion_tokens or self.max_tokens or 300) * (self.n or 1)


class ImageSettings(Group):
    """What is done to a picture before it is sent."""

    max_side: PositiveInt = Field(1568, description="longest side in pixels; larger pictures are shrunk")
    jpeg_quality: int = Field(85, ge=1, le=95, description="quality of pictures that are re-encoded")
    background: str = Field(
        "#ffffff",
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="colour under transparent pixels, as #rrggbb",
    )


class LimitSettings(Group):
    """How fast, how often, how long."""

    tpm: PositiveInt | None = Field(None, description="tokens per minute; unset: what the server reports")
    rpm: PositiveInt | None = Field(None, description="requests per minute; unset: what the server reports")
    concurrency: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto", description="requests in flight at once, a number, or auto: found out while running"
    )
    max_concurrency: int = Field(256, ge=1, le=4096, description="what auto never exceeds")
    burst_seconds: float = Field(
        1.0, gt=0, le=60, description="seconds of the limit that may be spent at once"
    )
    charge: Literal["auto", "reserved", "used"] = Field(
        "auto",
        description="what counts against the tokens: max_tokens up front (reserved) or the real answer (used);"
        " auto: as the server's headers show it, used without them",
    )
    rate_limit_headers: Literal["auto", "trust", "ignore"] = Field(
        "auto", description="steer by x-ratelimit-*; auto: unless a relay answers"
    )
    max_retries: int = Field(8, ge=0, le=100, description="further attempts for a row after the first")
    max_wait: float = Field(
        120.0, gt=0, le=86_400, description="longest pause in seconds that a server's Retry-After is granted"
    )
    max_outage: float = Field(
        3600.0,
        gt=0,
        le=604_800,
        description="seconds without a connection, after it once worked, until the run stops",
    )
    timeout: float = Field(
        600.0, gt=0, le=86_400, description="seconds for one attempt, from send to last byte"
    )
    connect_timeout: float = Field(15.0, gt=0, le=3600, description="seconds to open a connection")

    @property
    def most_in_flight(self) -> int:
        """Requests that may ever be out at once: what a kill -9 may cost."""
        return self.max_concurrency if self.concurrency == "auto" else self.concurrency


class EndpointSettings(Group):
    """Who is asked. The key itself is never a setting, only the name of its variable."""

    base_url: str | None = Field(
        None, description="the endpoint; default: OPENAI_BASE_URL, then https://api.openai.com/v1"
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="name of the variable that holds the key")
    endpoint_kind: Literal["auto", "direct", "relay"] = Field(
        "auto", description="provider itself or a relay (one-api, new-api); auto: seen from its answers"
    )


class RunSettings(Group):
    """What of the manifest is run, and how it is kept."""

    limit: PositiveInt | None = Field(None, description="only the first N rows")
    rows_per_part: PositiveInt = Field(5000, description="answers in one Parquet part")
    prepare_threads: PositiveInt | None = Field(
        None, description="threads that prepare pictures; default: one a core"
    )


class RunConfig(ChatSettings, ImageSettings, LimitSettings, EndpointSettings, RunSettings):
    """All settings of one start, flat: the names of flags and of TOML keys."""

    def answer_settings(self) -> dict[str, Any]:
        """The settings that a resumed run must not change, JSON-ready, only those that are set."""
        names = set(ChatSettings.model_fields) | set(ImageSettings.model_fields)
        return self.model_dump(mode="json", include=names, exclude_none=True)


GROUPS: tuple[tuple[str, type[Group]], ...] = (
    ("what is asked", ChatSettings),
    ("pictures", ImageSettings),
    ("limits", LimitSettings),
    ("endpoint", EndpointSettings),
    ("run", RunSettings),
)
