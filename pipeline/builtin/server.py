"""The built-in endpoint over real HTTP: keys, limits, latency, faults, and an account of what it did."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from .completions import Question, answer, events, look, prompt_tokens, read_question
from .describer import PictureFacts
from .refusal import BadRequest
from .structured import ALL_FORMS, FormSupport

T = TypeVar("T")

MOST_BODY_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """key: None accepts any. limits a minute: None for none. faults: name -> share of the requests.

    starts_empty: the quota was used up just before. says_limits: with x-ratelimit headers; without, a
    limit shows in its 429s only. forms: what it takes of response_format and tools.
    """

    key: str | None = None
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    latency_seconds: float = 0.0
    models: tuple[str, ...] = ()
    faults: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    keeps_ledger: bool = False
    starts_empty: bool = False
    says_limits: bool = True
    forms: FormSupport = ALL_FORMS


class Quota:
    """A bucket of one minute that refills continuously, as providers describe theirs.

    taken, available: since the first request, which starts the clock.
    """

    def __init__(self, per_minute: int, what: str, starts_empty: bool) -> None:
        self.per_minute = per_minute
        self.what = what
        self.level = self.available = 0.0 if starts_empty else float(per_minute)
        self.taken = 0.0
        self._updated: float | None = None

    def refill(self, now: float) -> None:
        """Let in what has come since the last look."""
        refill = (now - (self._updated or now)) * self.per_minute / 60
        self._updated = now
        self.available += refill
        self.level = min(self.per_minute, self.level + refill)

    def take(self, amount: float) -> None:
        """Take an amount; the caller has seen that it is there."""
        self.level -= amount
        self.taken += amount

    def wait_seconds(self, amount: float) -> float:
        """Seconds until an amount is there; 0 when now."""
        return max(0.0, (amount - self.level) * 60 / self.per_minute)

    def headers(self) -> dict[str, str]:
        """The x-ratelimit headers of this bucket."""
        return {
            f"x-ratelimit-limit-{self.what}": str(self.per_minute),
            f"x-ratelimit-remaining-{self.what}": str(max(0, int(self.level))),
            f"x-ratelimit-reset-{self.what}": go_duration(
                (self.per_minute - self.level) * 60 / self.per_minute
            ),
        }


class BuiltinEndpoint:
    """One server. `app()` gives the aiohttp application; `counts` and `ledger` say what it did."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        limits = ((settings.tokens_per_minute, "tokens"), (settings.requests_per_minute, "requests"))
        self._quotas = {what: Quota(limit, what, settings.starts_empty) for limit, what in limits if limit}
        self._chance = random.Random(settings.seed)
        self._answers = 0
        self._in_flight = 0
        self.most_in_flight = 0
        self.counts: Counter[str] = Counter()
        self.ledger: Counter[str] = Counter()  # hash of the body -> complete answers generated

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        for prefix in ("", "/v1"):
            app.router.add_post(f"{prefix}/chat/completions", self._chat)
            app.router.add_get(f"{prefix}/models", self._models)
        app.router.add_get("/stats", self._stats)
        return app

    # ---- routes

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            response = await self._respond(request, raw)
        except BadRequest as error:
            response = web.json_response(error.body, status=error.status)
        finally:
            self._in_flight -= 1
        self.counts[str(response.status)] += 1
        return response

    async def _respond(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        if refusal := self._check_key(request):
            return refusal
        question = await asyncio.to_thread(read_question, raw, self._settings.forms)
        if self._settings.models and question.model not in self._settings.models:
            raise BadRequest(
                f"The model `{question.model}` does not exist or you do not have access to it.",
                "model_not_found",
                status=404,
            )
        measured = await asyncio.to_thread(look, question)
        if refusal := self._charge(question, measured):
            return refusal
        if self._settings.latency_seconds:
            await asyncio.sleep(self._settings.latency_seconds * self._chance.uniform(0.7, 1.3))
        fault = self._draw_fault()
        if fault is not None and (response := await self._misbehave(fault, request)) is not None:
            return response
        self._answers += 1
        body = answer(question, measured, int(time.time()), self._answers)
        if self._settings.keeps_ledger and fault != "truncate":
            self.ledger[hashlib.sha256(raw).hexdigest()] += 1
        if question.is_stream:
            return await self._stream(request, list(events(body, question.wants_usage)), fault == "truncate")
        response = web.json_response(body, headers=self._headers())
        if fault == "truncate":
            assert isinstance(response.body, bytes)  # noqa: S101  json_response encodes at once
            return web.Response(
                body=response.body[: len(response.body) // 2], content_type="application/json"
            )
        return response

    async def _stream(self, request: web.Request, sent: list[bytes], is_cut: bool) -> web.StreamResponse:
        """Send the events one by one. is_cut: only the first half, without an ending."""
        response = web.StreamResponse(headers=self._headers() | {"Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        for event in sent[: len(sent) // 2] if is_cut else sent:
            await response.write(event)
        await response.write_eof()
        return response

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._check_key(request):
            return refusal
        names = self._settings.models or ("describer",)
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "captionmill"} for n in names]
        return web.json_response({"object": "list", "data": data})

    async def _stats(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "by_status": self.counts,
                "answers": self._answers,
                "most_in_flight": self.most_in_flight,
                "distinct_requests_answered": len(self.ledger),
                "answered_again": sum(n - 1 for n in self.ledger.values()),
                "quotas": {
                    q.what: {"taken": round(q.taken), "available": round(q.available)}
                    for q in self._quotas.values()
                },
            }
        )

    # ---- rules

    def _check_key(self, request: web.Request) -> web.Response | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and key and self._settings.key in (None, key):
            return None
        message = "Incorrect API key provided." if key else "You didn't provide an API key."
        return _error(401, message, "invalid_request_error", "invalid_api_key")

    def _charge(self, question: Question, measured: tuple[PictureFacts, ...]) -> web.Response | None:
        """Take what the request needs at arrival, max_tokens included, or refuse with a 429."""
        now = time.monotonic()
        needs = {"tokens": prompt_tokens(question, measured) + question.answer_tokens, "requests": 1}
        for quota in self._quotas.values():
            quota.refill(now)
        for what, quota in self._quotas.items():
            if needs[what] > quota.per_minute:
                return _error(
                    429,
                    f"Request too large for {question.model} on {what} per min: Limit {quota.per_minute},"
                    f" Requested {needs[what]}.",
                    what,
                    "rate_limit_exceeded",
                )
            if (wait := quota.wait_seconds(needs[what])) > 0:
                return self._too_fast(question.model, quota, needs[what], wait)
        for what, quota in self._quotas.items():
            quota.take(needs[what])
        return None

    def _too_fast(self, model: str, quota: Quota, need: int, wait: float) -> web.Response:
        used = quota.per_minute - int(quota.level)
        headers = {
            "retry-after": str(math.ceil(wait)),
            "retry-after-ms": str(math.ceil(wait * 1000)),
        }
        return _error(
            429,
            f"Rate limit reached for {model} on {quota.what} per min: Limit {quota.per_minute}, Used {used},"
            f" Requested {need}. Please try again in {go_duration(wait)}.",
            quota.what,
            "rate_limit_exceeded",
            self._headers() | headers,
        )

    def _headers(self) -> dict[str, str]:
        now = time.monotonic()
        headers: dict[str, str] = {}
        if not self._settings.says_limits:
            return headers
        for quota in self._quotas.values():
            quota.refill(now)
            headers |= quota.headers()
        return headers

    # ---- faults

    def _draw_fault(self) -> str | None:
        at = self._chance.random()
        for name, share in self._settings.faults.items():
            at -= share
            if at < 0:
                return name
        return None

    async def _misbehave(self, fault: str, request: web.Request) -> web.Response | None:
        """The answer of a fault; None where a good answer is still needed, to be cut."""
        if fault == "500":
            return _error(500, "The server had an error while processing your request.", "server_error")
        if fault == "503":
            page = "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"
            return web.Response(status=503, text=page, content_type="text/html")
        if fault == "429":
            return _error(
                429, "Rate limit reached. Please try again in 200ms.", "requests", "rate_limit_exceeded"
            )
        if fault == "empty":
            return web.json_response({"id": "", "object": "chat.completion", "choices": [], "usage": None})
        if fault == "reset":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        if fault == "hang":
            await asyncio.sleep(3600)
        return None


def _error(
    status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


def go_duration(seconds: float) -> str:
    """As OpenAI writes reset times: 119ms, 14.981s, 1m26.4s."""
    if seconds < 1:
        return f"{max(0, math.ceil(seconds * 1000))}ms"
    minutes, rest = divmod(seconds, 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:.3f}".rstrip("0").rstrip(".") + "s"


async def start(endpoint: BuiltinEndpoint, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve until the runner is cleaned up. port 0 takes a free one. Returns the runner and the port."""
    runner = web.AppRunner(endpoint.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=4096)
    await site.start()
    return runner, runner.addresses[0][1]


@contextlib.contextmanager
def serving(settings: EndpointSettings) -> Iterator[str]:
    """The endpoint in a thread of this process, on a free port of the loopback. Yields its base URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()

    def call(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    runner, port = call(start(BuiltinEndpoint(settings), "127.0.0.1", 0))
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        call(runner.cleanup())
        call(_cancel_others())
        call(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    """End what still hangs: handlers of clients that have gone."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
