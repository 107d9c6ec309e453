"""Finding out how much an endpoint takes: simulated endpoints, hours in seconds."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field

import pytest
import virtual_time
from bench import Bench
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.flow.concurrency import ConcurrencyController
from scripted_chat import error, good

# ------------------------------------------------------------------------------- the rules


def test_it_doubles_until_the_first_refusal_and_then_probes():
    """4, 8, 16 ...; after a cut, one more a round trip."""
    controller = ConcurrencyController(ceiling=1000)
    for _ in range(60):
        controller.answered(1.0, in_flight=controller.limit)
    assert controller.limit == 64
    controller.overloaded(now=10.0)
    assert controller.limit == 44
    for _ in range(44):
        controller.answered(1.0, in_flight=controller.limit)
    assert controller.limit in (44, 45)


def test_one_cut_a_round_trip():
    """Sixty refusals of requests that were out together are one piece of news."""
    controller = ConcurrencyController(ceiling=100, start=100)
    for _ in range(100):
        controller.answered(2.0, in_flight=100)
    for _ in range(60):
        controller.overloaded(now=10.0)
    assert controller.limit == 70
    controller.overloaded(now=12.0)
    assert controller.limit == 49


def test_it_stays_between_one_and_the_ceiling():
    """Never below one, never above what the user allowed."""
    controller = ConcurrencyController(ceiling=10)
    for _ in range(1000):
        controller.answered(1.0, in_flight=controller.limit)
    assert controller.limit == 10
    for second in range(1000):
        controller.overloaded(now=float(second * 10))
    assert controller.limit == 1


def test_what_is_not_used_does_not_grow():
    """A run that is held by its tokens a minute learns nothing about concurrency."""
    controller = ConcurrencyController(ceiling=100, start=20)
    for _ in range(1000):
        controller.answered(1.0, in_flight=5)
    assert controller.limit == 20


def test_rising_latency_shrinks_it():
    """A server that only queues: the limit follows the size at which answers take little longer."""
    controller = ConcurrencyController(ceiling=500)
    for _ in range(5000):
        controller.answered(max(1.0, controller.limit / 32), in_flight=controller.limit)
    assert 28 <= controller.limit <= 48


def test_a_model_that_became_slower_is_no_queue():
    """Where a smaller limit does not make answers come sooner, it goes back and the latency is the normal one."""
    controller = ConcurrencyController(ceiling=40)
    for _ in range(2000):
        controller.answered(1.0, in_flight=controller.limit)
    assert controller.limit == 40
    for _ in range(20_000):
        controller.answered(2.0, in_flight=controller.limit)
    assert controller.limit >= 36


# ------------------------------------------------------------------------------- simulated endpoints


@dataclass
class QueueServer:
    """vLLM or Ollama: works on `at_once` requests, the others wait; never refuses."""

    at_once: int
    service_seconds: float = 1.0
    chance: random.Random = field(default_factory=lambda: random.Random(3))
    waiting: int = 0
    most_waiting: int = 0
    _places: asyncio.Semaphore | None = None

    async def post(self, _body: bytes) -> HttpAnswer:
        self._places = self._places or asyncio.Semaphore(self.at_once)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        async with self._places:
            self.waiting -= 1
            await asyncio.sleep(self.service_seconds * self.chance.uniform(0.7, 1.3))
        return good()


@dataclass
class BusyServer:
    """A relay that refuses what is above `at_once` with a 503, and fails a share of the rest."""

    at_once: int
    flaky_share: float = 0.0
    out: int = 0
    refused: int = 0
    answered: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(3))

    async def post(self, _body: bytes) -> HttpAnswer:
        if self.out >= self.at_once:
            self.refused += 1
            return error(503, "server_is_overloaded")
        self.out += 1
        await asyncio.sleep(self.chance.uniform(0.7, 1.3))
        self.out -= 1
        if self.chance.random() < self.flaky_share:
            return error(500, "server_error")
        self.answered += 1
        return good()


def run_auto(chat, rows: int, **limits) -> Bench:
    return Bench(chat, rows, **{"concurrency": "auto", "max_retries": 100} | limits).run()


def test_a_server_that_queues_is_kept_busy_without_a_long_queue():
    """Room for 32: at least 93 % of what it can do; once found out, hardly more waiting than working."""
    server = QueueServer(at_once=32)
    bench = run_auto(server, 10_000)
    assert bench.tally.answered == 10_000
    assert 10_000 / 32 / bench.seconds >= 0.93
    assert server.most_waiting <= 4.5 * 32  # while it still doubled
    assert 28 <= bench.endpoints[0].flow.concurrency.limit <= 56


def test_a_server_that_refuses_is_used_without_a_storm():
    """Room for 40, 503 above: at least 80 % of it used, at most 3 % of the requests refused."""
    server = BusyServer(at_once=40)
    bench = run_auto(server, 10_000)
    assert bench.tally.answered == 10_000
    assert 10_000 / 40 / bench.seconds >= 0.8
    assert server.refused <= 0.03 * 10_000


def test_a_flaky_relay_is_not_taken_for_an_overloaded_one():
    """Five per cent of plain 500s cost retries, not concurrency."""
    bench = run_auto(BusyServer(at_once=1000, flaky_share=0.05), 5000, max_concurrency=100)
    assert bench.tally.answered == 5000
    assert bench.endpoints[0].flow.concurrency.limit >= 90


def test_a_limit_that_halves_and_comes_back():
    """Capacity 60 -> 30 -> 60: no storm in the bad minute, and back above 80 % within a minute."""
    server = BusyServer(at_once=60)
    bench = Bench(server, 12_000, concurrency="auto", max_retries=100)

    async def go():
        running = asyncio.create_task(bench.go())
        marks = []
        for at_once in (60, 30, 60, 60):
            server.at_once = at_once
            marks.append((server.answered, server.refused))
            await asyncio.sleep(60)
        marks.append((server.answered, server.refused))
        bench.runner.stop()
        await running
        return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]

    first, bad, _, last = virtual_time.run(go())
    assert bad[1] <= 0.06 * bad[0]
    assert last[0] >= 0.8 * 60 * 60
    assert first[0] > bad[0]


def test_a_given_number_is_kept():
    """--concurrency N is N from the first second on."""
    server = QueueServer(at_once=10)
    bench = Bench(server, 1000, concurrency=50).run()
    assert bench.endpoints[0].flow.concurrency.limit == 50
    assert server.most_waiting == pytest.approx(40, abs=10)
