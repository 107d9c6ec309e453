"""Settings, address and key -> an endpoint: its connection, limits, prices and way of counting tokens."""

from __future__ import annotations

import random
from decimal import Decimal

from ..edges.chat import ChatClient
from ..labels.task import label_task
from ..nouns.address import Address
from ..nouns.config import EndpointEntry, Price, RunConfig
from ..nouns.console import Console
from ..nouns.errors import AnswerError
from ..nouns.rows import Ask, HttpAnswer, LimitReport, Reply, Spending, TokenEstimate, Usage
from ..rules import response, server_hints
from ..rules.backoff import Backoff
from ..rules.flow.breaker import BreakerSettings, CircuitBreaker
from ..rules.flow.concurrency import ConcurrencyController, FixedConcurrency
from ..rules.flow.control import FlowControl
from ..rules.flow.limits import Limiter
from ..rules.prices import PriceBook, Rates
from ..rules.request import RequestBuilder
from ..rules.tokens import TokenEstimator
from ..vision.models import vision_model
from .endpoint import Endpoint
from .labelling import Labelling

_MILLION = 10**6


class HttpConnection:
    """The connection of a run to one of `config.endpoints()`. client: need not be open yet."""

    def __init__(
        self,
        config: RunConfig,
        entry: EndpointEntry,
        client: ChatClient,
        prices: PriceBook,
        console: Console,
    ) -> None:
        self.name, self.model = client.address.name, entry.model or config.model
        self._config = config
        self._client = client
        self._money = _Money(prices, self.model, entry.price)
        self._console = console
        self._estimator = TokenEstimator(config, vision_model(self.model, config.image_rules).family)
        self._builder = RequestBuilder(config, self.model)

    def estimate(self, ask: Ask) -> TokenEstimate:
        """What the request will take in tokens, by the model's formula and what answers have shown."""
        return self._estimator.estimate(ask.text, [(p.width, p.height) for p in ask.pictures])

    def most(self, estimate: TokenEstimate) -> Spending:
        """What one attempt may cost at the most."""
        return self._money.most(estimate)

    async def post(self, ask: Ask) -> HttpAnswer:
        """Build and send one request. Raises AnswerError, without the key in its message."""
        body = self._builder.build(ask.row, ask.pictures, ask.answer_tokens, ask.form)
        try:
            return await self._client.post(body)
        except AnswerError as error:
            raise _scrubbed(error, self._client.address) from None

    def limits(self, answer: HttpAnswer) -> tuple[LimitReport | None, LimitReport | None]:
        """What the x-ratelimit headers say of tokens and of requests; None where nothing usable."""
        return server_hints.limit_reports(answer, self._config.rate_limit_headers)

    def read(self, answer: HttpAnswer) -> Reply:
        """The completion in an answer. Raises AnswerError, without the key in its message."""
        try:
            reply = response.read(answer, self._config.endpoint_kind, bool(self._config.keep_thinking))
        except AnswerError as error:
            raise _scrubbed(error, self._client.address) from None
        if more_expensive := self._money.note(reply.model):
            self._console.tell(f"{self.name}: {more_expensive}")
        return reply

    def learn(self, estimate: TokenEstimate, usage: Usage) -> None:
        """Correct later estimates by what the server counted."""
        self._estimator.learn(estimate, usage)

    def price(self, reply: Reply) -> Decimal | None:
        """What an answer cost; None where no price is known."""
        return self._money.price(reply)


def connect(
    config: RunConfig,
    entry: EndpointEntry,
    client: ChatClient,
    prices: PriceBook,
    chance: random.Random,
    console: Console,
) -> Endpoint:
    """The endpoint for one of `config.endpoints()`.

    client: need not be open yet. chance: for the jitter. console: told when the circuit opens or closes.
    """
    task = label_task(config, "openrouter.ai" in client.address.name)
    return Endpoint(
        connection=HttpConnection(config, entry, client, prices, console),
        flow=FlowControl(
            Limiter(entry.tpm, entry.rpm, config.burst_seconds),
            FixedConcurrency(entry.concurrency)
            if entry.concurrency
            else ConcurrencyController(config.max_concurrency),
            CircuitBreaker(
                BreakerSettings(config.max_wait, config.max_outage, config.stop_after_failures),
                Backoff(chance),
            ),
            config.charge,
        ),
        console=console,
        weight=entry.weight,
        stops_on_anomaly=config.on_usage_anomaly == "stop",
        labelling=None if task is None else Labelling(task),
    )


class _Money:
    """What answers of one endpoint cost, and what a request may cost at the most.

    Models that have answered count too: another one than was requested may cost more.
    """

    def __init__(self, prices: PriceBook, model: str, own: Price | None) -> None:
        self._prices, self._model, self._own = prices, model, own
        self._seen: dict[str | None, Rates] = {}  # by the name of the model that answered; `note` adds

    def price(self, reply: Reply) -> Decimal | None:
        """What an answer cost; None where no price is known."""
        return self._prices.cost((reply.model, self._model), reply.usage, self._own)

    def note(self, model: str | None) -> str | None:
        """Take in which model answered. Returns a line where it is new and costs more than the requested one."""
        if model in self._seen:
            return None
        rates = self._prices.rates((model, self._model), self._own)
        if rates is None:
            return None
        self._seen[model] = rates
        asked = self._prices.rates((self._model,), self._own)
        if asked is None or rates.most(_MILLION, _MILLION) <= asked.most(_MILLION, _MILLION):
            return None
        return f"endpoint answered with {model}, which costs more than the requested {self._model}"

    def most(self, estimate: TokenEstimate) -> Spending:
        """What one attempt may cost at the most, at the most expensive model seen."""
        prompt = estimate.prompt if estimate.most_prompt is None else estimate.most_prompt
        answer = estimate.longest_answer if estimate.most_answer is None else estimate.most_answer
        requested = self._prices.rates((self._model,), self._own)
        costs = [r.most(prompt, answer) for r in (requested, *self._seen.values()) if r is not None]
        return Spending(1, prompt + answer, max(costs, default=None))


def _scrubbed(error: AnswerError, address: Address) -> AnswerError:
    """Servers repeat the key they refuse, and broken headers come up in the client's own messages."""
    error.args = (address.scrub(str(error)),)
    return error
