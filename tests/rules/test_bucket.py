"""The laws of the limiter, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
import virtual_time
from captionmill.nouns.config import LimitSettings
from captionmill.nouns.errors import RateLimited, RowError
from captionmill.nouns.rows import Ask, LimitReport, Row, TokenEstimate
from captionmill.rules.flow.bucket import MARGIN_SECONDS, TokenBucket
from captionmill.rules.flow.control import Admission
from captionmill.rules.flow.limits import Limiter
from captionmill.wiring.dispatcher import Dispatcher
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_chat import ScriptedChat, endpoint


class Line:
    """A dispatcher before one limiter and nothing else: `admit` waits for tokens as a run does."""

    def __init__(self, *limits: float | None) -> None:
        self.limiter = Limiter(*limits)
        self._dispatcher = Dispatcher(
            [
                endpoint(
                    ScriptedChat(iter(())),
                    LimitSettings(concurrency=4096),
                    self.limiter,
                    estimate=self._estimate,
                )
            ]
        )

    @staticmethod
    def _estimate(ask: Ask) -> TokenEstimate:
        return TokenEstimate(0, float(ask.row.prompt), 0, 0)

    async def admit(self, tokens: float) -> Admission:
        return (await self._dispatcher.admit(Ask(Row("r", (), (), repr(tokens)), ()))).admission

    def settle(self, admission: Admission, used: float) -> None:
        self.limiter.settle(asyncio.get_running_loop().time(), admission.grant, used)
        self._dispatcher.poke()

    def report(self, admission: Admission, **reports: LimitReport | None) -> None:
        self.limiter.report(asyncio.get_running_loop().time(), admission.grant, **reports)
        self._dispatcher.poke()


def most_in_a_minute(grants: list[tuple[float, float]]) -> float:
    """The largest sum over any half-open window of 60 seconds that starts at a grant."""
    return max(sum(amount for at, amount in grants if start <= at < start + 60 - 1e-6) for start, _ in grants)


@given(
    limit=st.integers(600, 100_000),
    burst_seconds=st.floats(0.1, 60),
    requests=st.lists(st.tuples(st.floats(0, 20), st.floats(0.001, 1)), min_size=1, max_size=80),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_no_window_is_over_the_limit(limit, burst_seconds, requests, seed):
    """Without a word from the server, no 60 seconds grant more than the limit, settling included."""

    async def run():
        line = Line(limit, None, burst_seconds)
        loop = asyncio.get_running_loop()
        chance = random.Random(seed)
        grants: list[list[float]] = []

        async def one(pause: float, share: float) -> None:
            await asyncio.sleep(pause)
            amount = max(1.0, share * limit)
            admission = await line.admit(amount)
            grants.append([loop.time(), amount])
            mine = grants[-1]
            await asyncio.sleep(chance.uniform(0, 5))
            mine[1] = amount * chance.uniform(0.1, 1)
            line.settle(admission, mine[1])

        await asyncio.gather(*(one(p, s) for p, s in requests))
        return [(at, amount) for at, amount in grants]

    grants = virtual_time.run(run())
    assert len(grants) == len(requests)
    assert most_in_a_minute(grants) <= limit * (1 + 1e-6) + 1e-3


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=40))
@settings(max_examples=40, deadline=None)
def test_first_in_first_out(amounts):
    """A large request is let in before every smaller one that asked after it."""

    async def run():
        line = Line(1000, None, 1.0)
        order: list[int] = []

        async def one(number: int, amount: int) -> None:
            await line.admit(amount)
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number, amount in enumerate(amounts):
                group.create_task(one(number, amount))
        return order

    assert virtual_time.run(run()) == list(range(len(amounts)))


def test_an_hour_at_the_limit_uses_all_of_it():
    """A greedy caller gets at least 99 % of the limit over an hour, and never more than it."""

    async def run():
        line = Line(30_000, None)
        loop = asyncio.get_running_loop()
        start, used = loop.time(), 0
        while loop.time() < start + 3600:
            await line.admit(500)
            used += 500
        return used

    used = virtual_time.run(run())
    assert 0.99 * 30_000 * 60 <= used <= 30_000 * 60 + 500


def test_requests_per_minute_are_spaced():
    """60 requests a minute go out one a second, not 60 at once: some providers check single seconds."""

    async def run():
        line = Line(None, 60)
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(10):
            await line.admit(1_000_000)
            times.append(loop.time())
        return [b - a for a, b in itertools.pairwise(times)]

    assert virtual_time.run(run()) == pytest.approx([1.0] * 9)


def test_a_request_above_the_minute_fails_at_once():
    """What no minute can hold is a row error that names both figures, not an endless wait."""

    async def run():
        await Line(30_000).admit(31_538)

    with pytest.raises(RowError, match=r"31,538 tokens.*30,000 tokens per minute"):
        virtual_time.run(run())


def test_settling_gives_back_what_was_not_used():
    """An estimate of 1,000 that turns out as 100 leaves room for nine more at once."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)  # 1,000 a second
    allowance.start(0.0)
    assert allowance.wait_seconds(0.0, 1000) == pytest.approx(
        1.0
    )  # nobody knows what is there: it starts empty
    assert allowance.wait_seconds(1.0, 1000) == 0
    grant = allowance.take(1.0, 1000)
    assert allowance.wait_seconds(1.0, 900) > 0
    allowance.settle(1.0, grant, 100)
    assert allowance.wait_seconds(1.0, 900) == 0


def test_using_more_than_reserved_is_paid_back_before_the_next():
    """An estimate that was too low makes the next request wait for the difference."""
    allowance = TokenBucket(6000, burst_seconds=1.0)  # 100 a second
    allowance.start(0.0)
    grant = allowance.take(1.0, 100)
    allowance.settle(1.0, grant, 600)
    assert allowance.wait_seconds(1.0, 100) == pytest.approx(6.0)


def test_closing_holds_everybody_until_the_time():
    """After close_until nobody passes before it, however much is left, also who waited already."""

    async def run():
        line = Line(6000)
        loop = asyncio.get_running_loop()
        await line.admit(100)
        waiting = asyncio.create_task(line.admit(100))
        await asyncio.sleep(0)
        until = loop.time() + 30
        line.limiter.close_until(loop.time(), until)
        line.limiter.close_until(loop.time(), until - 20)  # an earlier time does not open it
        await waiting
        return loop.time() - until

    assert 0 <= virtual_time.run(run()) < 1.1


def test_a_cancelled_waiter_lets_the_next_one_through():
    """Giving up at the head of the queue blocks nobody and takes no tokens."""

    async def run():
        line = Line(6000)
        await line.admit(6000 - 100)
        first = asyncio.create_task(line.admit(6000))
        second = asyncio.create_task(line.admit(100))
        await asyncio.sleep(0.5)
        first.cancel()
        await second
        return line.limiter.tokens.used_last_minute(asyncio.get_running_loop().time())

    assert virtual_time.run(run()) <= 6000


def test_a_reported_level_replaces_our_own():
    """A server that says how much is left may be drawn on at once, down to what it said."""

    async def run():
        line = Line(60_000)
        admission = await line.admit(500)
        line.report(admission, tokens=LimitReport(60_000, 50_000))
        loop = asyncio.get_running_loop()
        start, used = loop.time(), 0
        while loop.time() == start:
            await line.admit(500)
            used += 500 * (loop.time() == start)
        return used

    assert virtual_time.run(run()) == pytest.approx(50_000, abs=500)


def test_an_account_between_the_bounds_of_a_report_is_kept():
    """A report that may or may not count what is on its way changes nothing that can be true."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)  # 1,000 a second
    first = allowance.take(10.0, 100)
    allowance.report(10.1, first, 60_000, 50_000)
    second = allowance.take(11.0, 1000)
    allowance.take(11.0, 20_000)
    own = 50_000 + 900 - 21_000
    for remaining in (own, own + 20_000, own + 20_900):  # all, some or none of it counted
        allowance.report(11.1, second, 60_000, remaining)
        assert allowance.wait_seconds(11.1, own) == pytest.approx(MARGIN_SECONDS, abs=0.11)


def test_an_account_outside_the_bounds_is_corrected():
    """A server that charged less than we reserved raises it; other users of the key lower it."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)
    allowance.report(10.0, allowance.take(10.0, 100), 60_000, 10_000)
    grant = allowance.take(20.0, 5000)
    allowance.report(21.0, grant, 60_000, 30_000)
    assert allowance.wait_seconds(21.0, 29_000) == 0
    allowance.report(21.0, grant, 60_000, 500)
    assert allowance.wait_seconds(21.0, 3500) == pytest.approx(2.0 + MARGIN_SECONDS)


def test_a_report_bounds_the_account_from_above():
    """Never more than the server said was left and what has flowed in since the request that brought the report.

    Server-reported, or as a part of a larger limit: there only bad news counts. What was granted since takes its refill first.
    """
    reported = TokenBucket(60_000, burst_seconds=1.0)
    reported.report(10.0, reported.take(10.0, 100), 60_000, 40_000)
    grant = reported.take(10.0, 100)
    reported.take(10.5, 600)
    reported.report(11.0, grant, 60_000, 500)  # 1,000 flowed in, 600 were granted: at most 900 are there
    assert reported.wait_seconds(11.0, 1900) == pytest.approx(1.0 + MARGIN_SECONDS)
    part = TokenBucket(6000, burst_seconds=60.0)
    part.start(0.0)
    part.report(60.0, part.take(60.0, 100), 2_000_000, 50)
    assert not part.is_server_reported
    assert part.wait_seconds(60.0, 150) == pytest.approx(1.0)


def test_what_was_refused_is_not_charged():
    """A 429 gives back at once what was reserved, of the limit and of the last minute's sum."""
    flow = endpoint(ScriptedChat(iter(())), LimitSettings(concurrency=9), Limiter(6000, None, 10.0)).flow
    wanted = TokenEstimate(500, 500, 0, 0)
    refusal = RateLimited("429", kind="rate_limited", http_status=429, retry_after_seconds=0.0)
    flow.start(0.0)
    for now in (20.0, 40.0):
        admission = flow.admit(now, wanted)
        flow.failed(now, admission, refusal, "r1", 1)
        assert flow.limiter.tokens.used_last_minute(now) == 0
        assert flow.state(now).tokens_last_minute == 0


def test_a_burst_is_not_held_against_us_for_long():
    """Thirty requests at once, reported on in any order, leave the account where it was: no minute of silence."""
    allowance = TokenBucket(9000, burst_seconds=1.0)
    allowance.report(10.0, allowance.take(10.0, 300), 9000, 8700)
    grants = [allowance.take(10.0, 270) for _ in range(30)]
    for place, grant in enumerate(reversed(grants), 1):
        allowance.report(10.05, grant, 9000, 8700 - 270 * place)
    assert allowance.wait_seconds(10.05, 270) < 1.0


def test_a_larger_limit_of_the_server_is_not_ours_to_spend():
    """With --tpm below the server's limit, its headers never raise what we allow ourselves."""

    async def run():
        line = Line(6000)
        admission = await line.admit(100)
        line.report(admission, tokens=LimitReport(2_000_000, 1_900_000))
        return line.limiter.tokens.limit_per_minute, line.limiter.tokens.is_server_reported

    assert virtual_time.run(run()) == (6000, False)


def test_a_limit_nobody_gave_is_taken_over_from_the_server():
    """Without --tpm the first report brings limit and level."""

    async def run():
        line = Line()
        admission = await line.admit(100)
        line.report(admission, tokens=LimitReport(60_000, 0), requests=None)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await line.admit(1000)
        return loop.time() - start

    assert virtual_time.run(run()) == pytest.approx(1.0 + MARGIN_SECONDS)


def test_a_report_wakes_who_waits():
    """Whoever waits for tokens goes on as soon as the server says that there are some, not when the timer ends."""

    async def run():
        line = Line(600)
        loop = asyncio.get_running_loop()
        first = await line.admit(10)
        waiting = asyncio.create_task(line.admit(590))
        await asyncio.sleep(1)
        start = loop.time()
        line.report(first, tokens=LimitReport(600, 600))
        await waiting
        return loop.time() - start

    assert virtual_time.run(run()) < 3.0


def test_settling_wakes_who_waits():
    """Tokens that come back are there at once for the next in line."""

    async def run():
        line = Line(60_000, None, 60.0)
        loop = asyncio.get_running_loop()
        first = await line.admit(60_000)
        waiting = asyncio.create_task(line.admit(30_000))
        await asyncio.sleep(1)
        start = loop.time()
        line.settle(first, 100)
        await waiting
        return loop.time() - start

    assert virtual_time.run(run()) < 1.0


def test_a_lowered_limit_comes_back():
    """A server that says 200 once and 60,000 after that is used at 60,000 again."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)
    allowance.report(1.0, allowance.take(0.0, 10), 200, 100)
    assert allowance.limit_per_minute == 200
    allowance.report(2.0, allowance.take(1.5, 10), 60_000, 50_000)
    assert allowance.limit_per_minute == 60_000


def test_a_miscounted_usage_does_not_silence_a_run():
    """A reply that reports 2**40 tokens costs a minute, not a lifetime."""
    allowance = TokenBucket(60_000, burst_seconds=1.0)
    allowance.settle(1.0, allowance.take(0.0, 500), 2.0**40)
    assert allowance.wait_seconds(1.0, 500) <= 62


def test_a_limit_that_only_the_server_gives_fails_no_row():
    """A header that says one token a minute is for the server to enforce; nobody gave --tpm."""

    async def run():
        line = Line()
        admission = await line.admit(500)
        line.report(admission, tokens=LimitReport(1, 1))
        await asyncio.wait_for(line.admit(500), 200)

    virtual_time.run(run())
