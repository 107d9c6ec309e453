"""Settings, address and key -> a channel: one endpoint with its limits, prices and way of counting tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

from ..edges.chat import ChatClient, Endpoint
from ..nouns.config import EndpointEntry, RunConfig
from ..nouns.errors import AnswerError
from ..nouns.rows import HttpAnswer, Picture, Reply, Row, Spending, TokenEstimate
from ..rules import faults, replies
from ..rules.concurrency import ConcurrencyController
from ..rules.health import EndpointHealth
from ..rules.limiter import Limiter
from ..rules.prices import PriceBook, Rates
from ..rules.request import RequestBuilder
from ..rules.retry import backoff_seconds
from ..rules.tokens import TokenEstimator
from ..vision.models import vision_model
from .channel import Channel, EndpointSteps

_MILLION = 10**6


def connect(
    config: RunConfig,
    entry: EndpointEntry,
    client: ChatClient,
    prices: PriceBook,
    chance: random.Random,
    tell: Callable[[str], None],
) -> Channel:
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
        reply = replies.read_reply(answer)
        if reply is None:
            raise _scrubbed(faults.read_error(answer, config.endpoint_kind), endpoint)
        return reply

    seen: dict[str | None, Rates] = {}  # of the models that have answered: another one may be dearer

    def price(reply: Reply) -> Decimal | None:
        rates = prices.rates((reply.model, model), entry.price)
        if rates is not None and reply.model not in seen:
            seen[reply.model] = rates
            asked = prices.rates((model,), entry.price)
            if asked is not None and rates.most(_MILLION, _MILLION) > asked.most(_MILLION, _MILLION):
                tell(f"{endpoint.name}: {reply.model} answers, which is dearer than {model} that was asked")
        return prices.cost((reply.model, model), reply.usage, entry.price)

    def most(estimate: TokenEstimate) -> Spending:
        prompt = estimate.prompt if estimate.most_prompt is None else estimate.most_prompt
        answer = estimate.longest_answer if estimate.most_answer is None else estimate.most_answer
        asked = prices.rates((model,), entry.price)
        dearest = [rates.most(prompt, answer) for rates in (asked, *seen.values()) if rates is not None]
        return Spending(1, prompt + answer, max(dearest, default=None))

    return Channel(
        name=endpoint.name,
        model=model,
        steps=EndpointSteps(
            estimate=estimate,
            build=RequestBuilder(config, model).build,
            post=post,
            read=read,
            report=lambda answer: faults.limit_reports(answer, config.rate_limit_headers),
            learn=estimator.learn,
            price=price,
            most=most,
        ),
        limiter=Limiter(entry.tpm, entry.rpm, config.burst_seconds),
        concurrency=entry.concurrency or ConcurrencyController(config.max_concurrency),
        health=EndpointHealth(
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


def _scrubbed(error: AnswerError, endpoint: Endpoint) -> AnswerError:
    """Servers repeat the key they refuse, and broken headers come up in the client's own messages."""
    error.args = (endpoint.scrub(str(error)),)
    return error
