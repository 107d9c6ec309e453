"""Settings, address and key -> a channel: one endpoint with its limits, prices and way of counting tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

from ..edges.chat import ChatClient
from ..nouns.address import Address
from ..nouns.config import EndpointEntry, Price, RunConfig
from ..nouns.errors import AnswerError
from ..nouns.rows import HttpAnswer, Picture, Reply, Row, Spending, TokenEstimate
from ..rules import response, server_hints
from ..rules.flow.breaker import CircuitBreaker
from ..rules.flow.bucket import Limiter
from ..rules.flow.concurrency import ConcurrencyController
from ..rules.prices import PriceBook, Rates
from ..rules.request import RequestBuilder
from ..rules.retry import backoff_seconds
from ..rules.tokens import TokenEstimator
from ..vision.models import vision_model
from .endpoint import Endpoint, EndpointSteps

_MILLION = 10**6


def connect(
    config: RunConfig,
    entry: EndpointEntry,
    client: ChatClient,
    prices: PriceBook,
    chance: random.Random,
    tell: Callable[[str], None],
) -> Endpoint:
    """The channel for one of `config.endpoints()`.

    client: need not be open yet. tell: gets a line where the endpoint rests or works again.
    """
    endpoint, model = client.endpoint, entry.model or config.model
    estimator = TokenEstimator(config, vision_model(model, config.image_rules).family.tokens)

    def estimate(row: Row, pictures: tuple[Picture, ...]) -> TokenEstimate:
        return estimator.estimate(row.prompt, [(p.width, p.height) for p in pictures])

    async def post(body: bytes) -> HttpAnswer:
        try:
            return await client.post(body)
        except AnswerError as error:
            raise _scrubbed(error, endpoint) from None

    def read(answer: HttpAnswer) -> Reply:
        try:
            return response.read(answer, config.endpoint_kind)
        except AnswerError as error:
            raise _scrubbed(error, endpoint) from None

    money = _Money(prices, model, entry.price, lambda text: tell(f"{endpoint.name}: {text}"))

    return Endpoint(
        name=endpoint.name,
        model=model,
        steps=EndpointSteps(
            estimate=estimate,
            build=RequestBuilder(config, model).build,
            post=post,
            read=read,
            report=lambda answer: server_hints.limit_reports(answer, config.rate_limit_headers),
            learn=estimator.learn,
            price=money.price,
            most=money.most,
        ),
        limiter=Limiter(entry.tpm, entry.rpm, config.burst_seconds),
        concurrency=entry.concurrency or ConcurrencyController(config.max_concurrency),
        health=CircuitBreaker(
            config.max_wait,
            config.max_outage,
            config.stop_after_failures,
            lambda attempt: backoff_seconds(attempt, chance),
        ),
        charge=config.charge,
        weight=entry.weight,
        stops_on_anomaly=config.on_usage_anomaly == "stop",
        tell=tell,
    )


class _Money:
    """What answers of one endpoint cost, and what a request may cost at the most.

    Models that have answered count too: another one than was asked may be dearer.
    """

    def __init__(self, prices: PriceBook, model: str, own: Price | None, tell: Callable[[str], None]) -> None:
        self._prices, self._model, self._own, self._tell = prices, model, own, tell
        self._seen: dict[str | None, Rates] = {}

    def price(self, reply: Reply) -> Decimal | None:
        models = (reply.model, self._model)
        rates = self._prices.rates(models, self._own)
        if rates is not None and reply.model not in self._seen:
            self._seen[reply.model] = rates
            asked = self._prices.rates((self._model,), self._own)
            if asked is not None and rates.most(_MILLION, _MILLION) > asked.most(_MILLION, _MILLION):
                self._tell(f"{reply.model} answers, which is dearer than {self._model} that was asked")
        return self._prices.cost(models, reply.usage, self._own)

    def most(self, estimate: TokenEstimate) -> Spending:
        prompt = estimate.prompt if estimate.most_prompt is None else estimate.most_prompt
        answer = estimate.longest_answer if estimate.most_answer is None else estimate.most_answer
        asked = self._prices.rates((self._model,), self._own)
        dearest = [r.most(prompt, answer) for r in (asked, *self._seen.values()) if r is not None]
        return Spending(1, prompt + answer, max(dearest, default=None))


def _scrubbed(error: AnswerError, endpoint: Address) -> AnswerError:
    """Servers repeat the key they refuse, and broken headers come up in the client's own messages."""
    error.args = (endpoint.scrub(str(error)),)
    return error
