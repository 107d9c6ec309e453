"""Stand-ins for an endpoint that tests script: answers in order, or a server with a quota of its own.

They check what the client sends and run on whatever loop is running, virtual time included.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from captionmill.nouns.config import LimitSettings
from captionmill.nouns.rows import (
    Ask,
    HttpAnswer,
    LimitReport,
    Picture,
    Reply,
    Row,
    Spending,
    TokenEstimate,
    Usage,
)
from captionmill.rules import response, server_hints
from captionmill.rules.backoff import Backoff
from captionmill.rules.flow.breaker import BreakerSettings, CircuitBreaker
from captionmill.rules.flow.concurrency import ConcurrencyController, FixedConcurrency
from captionmill.rules.flow.control import FlowControl
from captionmill.rules.flow.limits import Limiter
from captionmill.wiring.endpoint import Endpoint

PICTURE = Picture(b"QUJD", "image/jpeg", 640, 480, 3, "0" * 64)


def completion(
    text: str = "a picture", prompt_tokens: int = 400, completion_tokens: int = 20, **more: Any
) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1714079126,
            "model": "gpt-4o",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
            "system_fingerprint": "fp_1",
        }
        | more
    ).encode()


def good(text: str = "a picture", headers: dict[str, str] | None = None) -> HttpAnswer:
    return HttpAnswer(200, headers or {}, completion(text))


def error(status: int, code: str, headers: dict[str, str] | None = None, message: str = "no") -> HttpAnswer:
    body = {"error": {"message": message, "type": "", "param": None, "code": code}}
    return HttpAnswer(status, headers or {}, json.dumps(body).encode())


def read(answer: HttpAnswer) -> Reply:
    """An answer as a run reads it: the reply, or the named error raised."""
    return response.read(answer)


def rows(count: int) -> list[Row]:
    return [Row(f"r{i:06d}", (f"{i}.jpg",), (f"/{i}.jpg",), f"[row r{i:06d}]") for i in range(count)]


def estimate(_ask: Ask) -> TokenEstimate:
    return TokenEstimate(400, 400, 100, 100)


class Console:
    """Keeps what the user is told."""

    def __init__(self, lines: list[str] | None = None) -> None:
        self.lines: list[str] = [] if lines is None else lines

    def tell(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, done: int, total: int) -> None:
        """A plan's progress; not kept."""


class StandIn:
    """A connection to a stand-in server. chat: has `post(body)`. steps: functions in place of the usual ones."""

    def __init__(self, chat: Any, name: str = "server/v1", **steps: Any) -> None:
        self.name, self.model = name, "m"
        self._chat = chat
        for step, function in steps.items():
            assert hasattr(self, step), step
            setattr(self, step, function)

    def estimate(self, ask: Ask) -> TokenEstimate:
        return estimate(ask)

    def most(self, estimate: TokenEstimate) -> Spending:
        return Spending(1, estimate.prompt + estimate.longest_answer)

    async def post(self, ask: Ask) -> HttpAnswer:
        longer = b" at most %d" % ask.answer_tokens if ask.answer_tokens else b""
        return await self._chat.post(ask.row.prompt.encode() + longer)

    def limits(self, answer: HttpAnswer) -> tuple[LimitReport | None, LimitReport | None]:
        return server_hints.limit_reports(answer)

    def read(self, answer: HttpAnswer) -> Reply:
        return read(answer)

    def learn(self, estimate: TokenEstimate, usage: Usage) -> None:
        pass

    def price(self, reply: Reply) -> Decimal | None:
        return None


def endpoint(
    chat: Any,
    limits: LimitSettings,
    limiter: Limiter | None = None,
    name: str = "server/v1",
    weight: float = 1.0,
    told: list[str] | None = None,
    **steps: Any,
) -> Endpoint:
    """An endpoint before a stand-in, as a run makes it. told: gets the lines for the user. steps: of the connection."""
    concurrency = limits.concurrency
    return Endpoint(
        connection=StandIn(chat, name, **steps),
        flow=FlowControl(
            limiter or Limiter(),
            FixedConcurrency(concurrency) if concurrency else ConcurrencyController(limits.max_concurrency),
            CircuitBreaker(
                BreakerSettings(limits.max_wait, limits.max_outage, limits.stop_after_failures),
                Backoff(random.Random(7)),
            ),
            limits.charge,
        ),
        console=Console(told),
        weight=weight,
    )


@dataclass
class ScriptedChat:
    """Answers each POST with the next of `script`; a callable is called, an exception raised."""

    script: Iterator[HttpAnswer | Exception | Callable[[], HttpAnswer]]
    latency_seconds: float = 0.1
    sent_at: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def post(self, body: bytes) -> HttpAnswer:
        self.sent_at.append(asyncio.get_running_loop().time())
        self.bodies.append(body)
        step = next(self.script)
        await asyncio.sleep(self.latency_seconds)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step


class Moderated(ScriptedChat):
    """Refuses one row, as if it were the key's fault, and answers all others."""

    def __init__(self) -> None:
        super().__init__(itertools.repeat(good()))

    async def post(self, body: bytes) -> HttpAnswer:
        answer = await super().post(body)
        if b"r000002" in body:
            return error(403, "permission_error", message="Your picture was flagged")
        return answer


@dataclass
class QuotaServer:
    """A provider: a token bucket of one minute that charges the reservation at arrival.

    cost: tokens a request takes. says_remaining: whether it sends x-ratelimit headers. jitter: share by
    which the latency varies.
    """

    limit: int
    cost: int
    latency_seconds: float = 1.0
    says_remaining: bool = True
    starts_full: bool = True
    jitter: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(3))
    admitted: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0
    _level: float = 0.0
    _updated: float | None = None
    _started_at: float = 0.0

    def _refill(self, now: float) -> None:
        if self._updated is None:
            self._level, self._started_at = (self.limit if self.starts_full else 0.0), now
        else:
            self._level = min(self.limit, self._level + (now - self._updated) * self.limit / 60)
        self._updated = now

    def _headers(self) -> dict[str, str]:
        if not self.says_remaining:
            return {}
        return {
            "x-ratelimit-limit-tokens": str(self.limit),
            "x-ratelimit-remaining-tokens": str(max(0, int(self._level))),
        }

    async def post(self, _body: bytes) -> HttpAnswer:
        loop = asyncio.get_running_loop()
        self._refill(loop.time())
        if self._level < self.cost:
            self.refused += 1
            wait = (self.cost - self._level) * 60 / self.limit
            headers = self._headers() | {"retry-after-ms": str(int(wait * 1000) + 1)}
            return error(429, "rate_limit_exceeded", headers)
        self._level -= self.cost
        self.admitted.append((loop.time(), self.cost))
        spread = self.chance.uniform(-self.jitter, self.jitter)
        await asyncio.sleep(self.latency_seconds * (1 + spread))
        self._refill(loop.time())
        return good(headers=self._headers())

    def utilisation(self, now: float) -> float:
        """Tokens admitted of those that were to be had until now."""
        start = self.limit if self.starts_full else 0
        return sum(n for _, n in self.admitted) / (start + (now - self._started_at) * self.limit / 60)
