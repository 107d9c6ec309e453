"""Servers that refuse, and a loop that sends to them through FlowControl alone: no asyncio, hours in a blink.

A server is a list of limits, a share of stray refusals, and a latency. `simulate` keeps the rows as the dispatcher
does: a refused row goes back to the head of the line. What it counts is in `Run`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

from captionmill.nouns.errors import RateLimited
from captionmill.nouns.rows import TokenEstimate
from captionmill.rules.backoff import Backoff
from captionmill.rules.flow.breaker import BreakerSettings, CircuitBreaker
from captionmill.rules.flow.concurrency import ConcurrencyController, FixedConcurrency
from captionmill.rules.flow.control import FlowControl
from captionmill.rules.flow.limits import Limiter

REFUSAL_SECONDS = 0.02  # a refusal comes back so fast, give or take a half


@dataclass
class BucketLimit:
    """A token bucket. per_minute: of `unit` ("tokens" or "requests"). holds_seconds: its size, in refill.

    counts_refused: whether a refused request takes what is there.
    """

    per_minute: float
    holds_seconds: float = 60.0
    unit: str = "requests"
    starts_full: bool = True
    counts_refused: bool = False
    level: float = 0.0
    at: float | None = None

    def __post_init__(self):
        self.least = 1.0 if self.unit == "requests" else 1000.0  # a bucket holds one request at least

    @property
    def size(self) -> float:
        return max(self.per_minute * self.holds_seconds / 60, self.least)

    def fits(self, now: float, tokens: float) -> bool:
        if self.at is None:
            self.level = self.size if self.starts_full else 0.0
        else:
            self.level = min(self.size, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now
        return self.level >= (tokens if self.unit == "tokens" else 1)

    def take(self, tokens: float) -> None:
        self.level -= tokens if self.unit == "tokens" else 1

    def refuse(self, tokens: float) -> None:
        if self.counts_refused:
            self.level = max(0.0, self.level - (tokens if self.unit == "tokens" else 1))


@dataclass
class WindowLimit:
    """So many in each window of `seconds`, which begin at multiples of it."""

    per_minute: float
    seconds: float = 60.0
    unit: str = "requests"
    counts_refused: bool = False
    number: int = -1
    used: float = 0.0

    @property
    def size(self) -> float:
        return self.per_minute * self.seconds / 60

    def fits(self, now: float, tokens: float) -> bool:
        if int(now // self.seconds) != self.number:
            self.number, self.used = int(now // self.seconds), 0.0
        return self.used + (tokens if self.unit == "tokens" else 1) <= self.size + 1e-9

    def take(self, tokens: float) -> None:
        self.used += tokens if self.unit == "tokens" else 1

    def refuse(self, tokens: float) -> None:
        if self.counts_refused:
            self.used += tokens if self.unit == "tokens" else 1


@dataclass
class Server:
    """limits: each must have room. at_once: most requests it works on. share: of stray refusals.

    retry_after: seconds that it names with a refusal; None for no word. names: the limit that its words name.
    """

    limits: list = field(default_factory=list)
    at_once: int | None = None
    share: float = 0.0
    latency: float = 1.0
    retry_after: float | None = None
    names: str | None = None
    busy: int = 0

    def takes(self, now: float, tokens: float, chance: random.Random) -> bool:
        if chance.random() < self.share:
            return False
        if self.at_once is not None and self.busy >= self.at_once:
            return False
        fitting = [limit.fits(now, tokens) for limit in self.limits]
        if not all(fitting):
            for limit, fits in zip(self.limits, fitting, strict=True):
                if not fits:
                    limit.refuse(tokens)
            return False
        for limit in self.limits:
            limit.take(tokens)
        self.busy += 1
        return True


@dataclass
class Run:
    """What happened. answered: (time sent, tokens) of what was answered; refused: times. looks: calls of
    `wait_seconds`. wakes: times the loop woke up for a timer alone."""

    server: Server
    seconds: float = 0.0
    taken: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    looks: int = 0
    wakes: int = 0
    admissions: int = 0
    notes: list = field(default_factory=list)

    def taken_between(self, start: float, end: float, unit: str = "requests") -> float:
        return sum(n if unit == "tokens" else 1 for at, n in self.taken if start <= at < end)

    def refused_between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.refused)


def flow_control(
    concurrency: int | str, ceiling: int = 256, limiter: Limiter | None = None, max_wait: float = 120.0
) -> FlowControl:
    """As a run makes it. concurrency: a number, or "auto" up to `ceiling`."""
    return FlowControl(
        limiter or Limiter(),
        ConcurrencyController(ceiling) if concurrency == "auto" else FixedConcurrency(concurrency),
        CircuitBreaker(BreakerSettings(max_wait, 3600.0, 50), Backoff(random.Random(7))),
    )


def simulate(  # noqa: PLR0912, PLR0915  one loop that stands for dispatcher, clock and network
    server: Server,
    rows: int,
    concurrency: int | str,
    seed: int = 1,
    *,
    most_seconds: float = float("inf"),
    events: tuple = (),
    size_spread: float = 0.3,
    flow: FlowControl | None = None,
    trace=None,
) -> Run:
    """Send `rows` rows through flow control.

    most_seconds: end earlier. events: (seconds, function of the server) that change it on the way.
    """
    chance, sizes = random.Random(seed), random.Random(seed + 1000)
    flow = flow or flow_control(concurrency)
    run, line, order = Run(server), [], itertools.count()
    heap: list = []
    now, fresh, left = 0.0, rows, rows
    timer = None

    def later(at, what, *more):
        heapq.heappush(heap, (at, next(order), what, more))

    for at, change in events:
        later(at, "change", change)
    later(0.0, "look")
    while left:
        now, _, what, more = heapq.heappop(heap)
        if now > most_seconds:
            now = most_seconds
            break
        if what == "change":
            more[0](server)
        elif what == "look":
            if more and more[0] is not timer:
                continue
            run.wakes += 1
        elif what == "answer":
            admission, tokens = more
            server.busy -= 1
            run.notes += flow.answered(now, admission, tokens)
            flow.left(admission)
            left -= 1
        elif what == "refuse":
            admission, row = more
            error = RateLimited(
                "429", kind="rate_limited", http_status=429, retry_after_seconds=server.retry_after
            )
            error.names = server.names
            run.refused.append(now)
            row[1] += 1
            verdict = flow.failed(now, admission, error, row[0], row[1])
            run.notes += verdict.notes
            assert verdict.give_up is None, verdict
            flow.left(admission)
            heapq.heappush(line, (0, next(order), row))
        if trace:
            trace(now, what, flow)
        # as the dispatcher: admit as many as may go, then one timer
        timer = None
        while line or fresh:
            if not line:
                fresh -= 1
                tokens = int(500 * sizes.uniform(1 - size_spread, 1 + size_spread))
                heapq.heappush(line, (1, next(order), [f"r{fresh}", 0, tokens]))
            row = line[0][2]
            estimate = TokenEstimate(row[2], row[2], 0, 0)
            flow.start(now)
            run.looks += 1
            wait = flow.wait_seconds(now, estimate)
            if wait > 0:
                if wait < float("inf"):
                    timer = object()
                    later(now + min(wait, 1.0), "look", timer)
                break
            heapq.heappop(line)
            admission = flow.admit(now, estimate)
            admission.sent_at = now
            run.admissions += 1
            if server.takes(now, row[2], chance):
                run.taken.append((now, row[2]))
                later(now + server.latency * chance.uniform(0.7, 1.3), "answer", admission, row[2])
            else:
                later(now + REFUSAL_SECONDS * chance.uniform(0.5, 1.5), "refuse", admission, row)
    run.seconds = now
    return run
