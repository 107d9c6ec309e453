"""One queue before several endpoints: which row goes where, which is disabled, which is probed."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest
import virtual_time
from bench import Bench, always
from captionmill.nouns.config import LimitSettings
from captionmill.nouns.errors import ConnectionLost, RunError, ServerBusy
from captionmill.nouns.rows import Ask, Spending, TokenEstimate
from captionmill.rules.flow.limits import Limiter
from captionmill.wiring.dispatcher import Dispatcher
from scripted_chat import Moderated, QuotaServer, ScriptedChat, endpoint, error, good, rows

LIMITS = LimitSettings(concurrency=8, max_retries=3)


def ask() -> Ask:
    return Ask(rows(1)[0], ())


def bench_of(*endpoints, count=1000, **limits) -> Bench:
    return Bench(list(endpoints), count, **limits)


def answered_by(bench: Bench) -> Counter:
    return Counter(outcome.endpoint for outcome in bench.outcomes.values())


# ------------------------------------------------------------------------------- the line


def test_the_line_is_first_in_first_out_and_follows_the_limit():
    """A smaller limit lets nobody in until enough have left; a larger one lets in several at once."""

    async def run():
        one = endpoint(ScriptedChat(iter(())), LimitSettings(concurrency=2))
        dispatcher, order = Dispatcher([one]), []

        async def enter(number: int):
            order.append((number, await dispatcher.admit(ask())))

        tasks = [asyncio.create_task(enter(n)) for n in range(6)]
        await asyncio.sleep(0.01)
        assert [n for n, _ in order] == [0, 1]
        one.flow.concurrency.limit = 1
        dispatcher.leave(order[0][1], Spending())
        await asyncio.sleep(0.01)
        assert [n for n, _ in order] == [0, 1]
        one.flow.concurrency.limit = 3
        dispatcher.poke()
        await asyncio.sleep(0.01)
        assert [n for n, _ in order] == [0, 1, 2, 3]
        tasks[4].cancel()
        dispatcher.leave(order[1][1], Spending())
        await asyncio.sleep(0.01)
        assert [n for n, _ in order] == [0, 1, 2, 3, 5]
        assert one.flow.in_flight == 3

    virtual_time.run(run())


def test_a_place_given_to_somebody_who_left_is_not_lost():
    """Cancelled in the very moment of its turn, a waiter passes place and tokens on."""

    async def run():
        one = endpoint(ScriptedChat(iter(())), LimitSettings(concurrency=1), Limiter(60_000, None, 60.0))
        dispatcher = Dispatcher([one])
        await asyncio.sleep(1)
        first_ticket = await dispatcher.admit(ask())
        first, second = (
            asyncio.create_task(dispatcher.admit(ask())),
            asyncio.create_task(dispatcher.admit(ask())),
        )
        await asyncio.sleep(5)
        dispatcher.leave(first_ticket, Spending())
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert one.flow.in_flight == 1
        now = asyncio.get_running_loop().time()
        assert one.flow.limiter.tokens.used_last_minute(now) == 2 * 500

    virtual_time.run(run())


# ------------------------------------------------------------------------------- several endpoints


def test_rows_go_to_whichever_has_room():
    """Two endpoints of 200,000 and 100,000 tokens a minute: at least 97 % of the sum, no 429, each its share."""
    servers = [QuotaServer(200_000, cost=500), QuotaServer(100_000, cost=500)]
    bench = bench_of(
        *(
            endpoint(server, LimitSettings(concurrency=64), Limiter(server.limit), name)
            for server, name in zip(servers, ("large", "small"), strict=True)
        ),
        count=6000,
    ).run()
    assert bench.tally.answered == 6000
    now = bench.started_at + bench.seconds
    got = sum(server.utilisation(now) * server.limit for server in servers)
    assert got >= 0.97 * 300_000
    assert all(server.refused <= 3 for server in servers)
    by = answered_by(bench)
    assert by["large"] == pytest.approx(2 * by["small"], rel=0.05)


def test_two_endpoints_whose_limits_nobody_gave_are_used_whole():
    """The same, found out from the headers alone, concurrency too."""
    limits = LimitSettings(concurrency="auto")
    servers = [QuotaServer(200_000, cost=500), QuotaServer(100_000, cost=500)]
    endpoints = [endpoint(s, limits, name=n) for s, n in zip(servers, ("large", "small"), strict=True)]
    bench = bench_of(*endpoints, count=6000).run()
    now = bench.started_at + bench.seconds
    assert sum(server.utilisation(now) * server.limit for server in servers) >= 0.97 * 300_000
    assert sum(server.refused for server in servers) <= 0.02 * 6000


@pytest.mark.parametrize(("weights", "share"), [((1, 1), 0.5), ((3, 1), 0.75), ((1, 0), 1.0)])
def test_weights_share_the_rows_where_all_have_room(weights, share):
    """In flight in the ratio of the weights; weight 0 takes only what the others have no place for."""
    endpoints = [
        endpoint(ScriptedChat(always(good())), LimitSettings(concurrency=100), name=name, weight=weight)
        for name, weight in zip("ab", weights, strict=True)
    ]
    dispatcher = Dispatcher(endpoints)

    async def run():
        for _ in range(40):
            await dispatcher.admit(ask())
        return endpoints[0].flow.in_flight / 40

    assert virtual_time.run(run()) == pytest.approx(share, abs=0.03)


def test_a_large_row_is_not_overtaken_at_two_endpoints():
    """While the head waits for tokens nobody behind it is let through, and no tokens are lost meanwhile."""
    sizes = itertools.chain([500, 500, 30_000], itertools.repeat(500))

    async def run():

        wants = {}

        def estimate(ask):
            n = wants.setdefault(ask.row.id, next(sizes))
            return TokenEstimate(n, n, 0, 0)

        endpoints = [
            endpoint(
                ScriptedChat(iter(())), LimitSettings(concurrency=999), Limiter(60_000), n, estimate=estimate
            )
            for n in "ab"
        ]
        dispatcher, order = Dispatcher(endpoints), []

        async def enter(row):
            await dispatcher.admit(Ask(row, ()))
            order.append(row.id)

        async with asyncio.TaskGroup() as group:
            for row in rows(200):
                group.create_task(enter(row))
        return order

    assert virtual_time.run(run()) == [row.id for row in rows(200)]


def test_an_endpoint_that_the_head_cannot_use_serves_those_behind():
    """A row of 5,000 waits for the large endpoint's next minute; meanwhile rows of 100 go to the small one."""

    def estimate(ask):
        n = 5000 if ask.row.id in ("r000000", "r000001") else 100
        return TokenEstimate(n, n, 0, 0)

    limits = {"large": 6000, "small": 2000}
    endpoints = [
        endpoint(ScriptedChat(always(good())), LIMITS, Limiter(limit), name, estimate=estimate)
        for name, limit in limits.items()
    ]
    dispatcher, passed = Dispatcher(endpoints), []

    async def enter(row):
        ticket = await dispatcher.admit(Ask(row, ()))
        passed.append((row.id, ticket.endpoint.name))
        await asyncio.sleep(0.1)
        dispatcher.leave(ticket, Spending())

    async def run():
        async with asyncio.TaskGroup() as group:
            for row in rows(12):
                group.create_task(enter(row))

    virtual_time.run(run())
    assert [name for row, name in passed if row in ("r000000", "r000001")] == ["large", "large"]
    second = passed.index(("r000001", "large"))
    assert second >= 5  # others got through before it, and none of them at its endpoint
    assert {name for _, name in passed[1:second]} == {"small"}


def test_who_comes_later_need_not_wait_for_the_head():
    """The head can only use an endpoint that is busy for ten minutes; rows that come after it use the free one at once."""

    def estimate(ask):
        n = 5000 if ask.row.id == "r000000" else 100
        return TokenEstimate(n, n, 0, 0)

    one = LimitSettings(concurrency=1)
    large = endpoint(ScriptedChat(iter(())), one, Limiter(60_000), "large", estimate=estimate)
    small = endpoint(ScriptedChat(iter(())), one, Limiter(2000), "small", estimate=estimate)
    dispatcher = Dispatcher([large, small])

    async def run():
        loop = asyncio.get_running_loop()
        busy = await dispatcher.admit(Ask(rows(2)[1], ()))
        assert busy.endpoint is large
        head = asyncio.create_task(dispatcher.admit(Ask(rows(1)[0], ())))
        await asyncio.sleep(30)
        asked_at = loop.time()
        later = await asyncio.wait_for(dispatcher.admit(Ask(rows(2)[1], ())), 60)
        assert later.endpoint is small
        assert loop.time() - asked_at < 5
        head.cancel()

    virtual_time.run(run())


def test_a_row_too_large_for_one_endpoint_goes_to_the_other():
    """Only a need above every limit fails the row."""
    small = endpoint(ScriptedChat(always(good())), LIMITS, Limiter(400), "small")
    large = endpoint(ScriptedChat(always(good())), LIMITS, Limiter(60_000), "large")
    assert answered_by(bench_of(small, large, count=20).run()) == {"large": 20}
    bench = bench_of(small, endpoint(ScriptedChat(always(good())), LIMITS, Limiter(450), "b"), count=3).run()
    assert {o.failure.kind for o in bench.outcomes.values()} == {"over_limit"}


# ------------------------------------------------------------------------------- disabled


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (error(401, "invalid_api_key", message="Incorrect API key"), "Incorrect API key"),
        (error(429, "insufficient_quota", message="You exceeded your quota"), "You exceeded your quota"),
        (error(404, "model_not_found", message="no such model"), "no such model"),
    ],
)
def test_an_endpoint_that_refuses_the_account_is_put_aside(refusal, words):
    """Its own words are shown once, no row is lost, and the other one answers them all."""
    bad = ScriptedChat(always(refusal))
    bench = bench_of(
        endpoint(bad, LIMITS, name="bad"),
        endpoint(ScriptedChat(always(good())), LIMITS, name="ok"),
        max_retries=0,
    ).run()
    assert answered_by(bench) == {"ok": 1000}
    assert len(bad.bodies) <= 8 + 3
    assert len(bench.told) == 1
    assert bench.told[0].startswith("endpoint disabled: bad: ")
    assert words in bench.told[0]
    assert bench.runner.stopped_by is None


def test_a_refused_row_is_asked_elsewhere():
    """One row, and the endpoint that refuses the key stands first: the other one answers it at the second attempt."""
    bad = ScriptedChat(always(error(401, "invalid_api_key")))
    bench = bench_of(
        endpoint(bad, LIMITS, name="bad"), endpoint(ScriptedChat(always(good())), LIMITS, name="ok"), count=1
    ).run()
    assert answered_by(bench) == {"ok": 1}
    assert len(bad.bodies) == 1


def test_the_last_endpoint_stops_the_run():
    """Both refuse: stop, resumable, with what each of them said; no row is marked as failed."""
    bench = bench_of(
        endpoint(ScriptedChat(always(error(401, "invalid_api_key", message="bad key"))), LIMITS, name="a"),
        endpoint(ScriptedChat(always(error(402, "", message="no money"))), LIMITS, name="b"),
    ).run()
    assert "a: 401: bad key" in str(bench.runner.stopped_by)
    assert "b: 402: no money" in str(bench.runner.stopped_by)
    assert bench.outcomes == {}


def test_an_endpoint_that_nobody_reaches_is_put_aside():
    """A wrong address among the entries costs a few attempts."""
    gone = ScriptedChat(always(ConnectionLost("nobody listens", kind="cannot_connect")))
    bench = bench_of(
        endpoint(gone, LIMITS, name="gone"), endpoint(ScriptedChat(always(good())), LIMITS, name="ok")
    ).run()
    assert answered_by(bench) == {"ok": 1000}
    assert len(gone.bodies) <= 8 + 3


def test_one_row_that_every_endpoint_refuses_puts_none_aside():
    """A router's moderation gives 403 for one picture at both: that row fails, the rest is answered by both."""

    bench = bench_of(
        *(endpoint(Moderated(), LIMITS, name=name) for name in "ab"), count=100, max_retries=8
    ).run()
    assert bench.tally.answered == 99
    assert bench.outcomes["r000002"].failure.kind == "no_permission"
    assert bench.told == []


@pytest.mark.parametrize(
    "refusal", [error(400, "invalid_value", message="max_tokens is too large"), error(413, "")]
)
def test_what_one_endpoint_cannot_take_another_may(refusal):
    """400 or 413 for everything at one of two: no row is lost, and that one is disabled after 20."""
    bad = ScriptedChat(always(refusal))
    bench = bench_of(
        endpoint(bad, LIMITS, name="bad"), endpoint(ScriptedChat(always(good())), LIMITS, name="ok")
    ).run()
    assert answered_by(bench) == {"ok": 1000}
    assert len(bad.bodies) <= 20 + 16
    assert "endpoint disabled: bad" in bench.told[0]


def test_rows_that_all_refuse_are_asked_a_few_times_only():
    """Both endpoints give 403 for one picture of 2,000: a handful of attempts, not one for each other row."""

    chats = [Moderated() for _ in "ab"]
    bench = bench_of(
        *(endpoint(c, LIMITS, name=n) for c, n in zip(chats, "ab", strict=True)), count=2000
    ).run()
    assert bench.tally.answered == 1999
    assert sum(body == b"[row r000002]" for chat in chats for body in chat.bodies) <= 12


# ------------------------------------------------------------------------------- the circuit breaker


def test_an_old_failure_is_no_part_of_an_outage():
    """One 503, two idle hours, five 503s within a second: a rest begins, the endpoint is not given up."""
    breaker = endpoint(ScriptedChat(iter(())), LIMITS).flow.breaker
    breaker.answered()
    busy = ServerBusy("503: blip", kind="server_error", http_status=503)
    breaker.failed(busy, "r1", 1, 1.0, 1.0, is_overload=False)
    for number in range(5):
        breaker.failed(busy, f"r{number}", 1, 7200.0, 7200.0 + number / 10, is_overload=False)
    assert breaker.is_half_open
    assert breaker.open_until < 7210


class Broken(ScriptedChat):
    """Answers 503 between `since` and `until`, in seconds from the first request."""

    def __init__(self, since: float, until: float, latency_seconds: float = 1.0) -> None:
        super().__init__(always(good()), latency_seconds)
        self.since, self.until = since, until
        self.while_broken = 0

    async def post(self, body):
        answer = await super().post(body)
        if self.since <= self.sent_at[-1] - self.sent_at[0] < self.until:
            self.while_broken += 1
            return error(503, "", message="upstream gone")
        return answer


def test_a_broken_endpoint_rests_and_the_others_go_on():
    """Ten minutes of 503 at one of two: some twenty probes, no failed row, and it works again afterwards."""
    broken = Broken(20, 620)
    bench = bench_of(
        endpoint(broken, LIMITS, name="a"),
        endpoint(ScriptedChat(always(good()), latency_seconds=1.0), LIMITS, name="b"),
        count=10_000,
    ).run()
    assert (bench.tally.answered, bench.tally.failed) == (10_000, 0)
    assert broken.while_broken <= 8 + 25
    after = [t for t in broken.sent_at if t > broken.sent_at[0] + 620 + 60]
    assert len(after) >= 0.9 * 8 * (bench.seconds - 620 - 60)


def test_a_lonely_broken_endpoint_is_probed_one_at_a_time():
    """Half an hour of 503 in the middle of the night: the run waits, asks with one row at a time, goes on."""
    broken, told = Broken(20, 1820), []
    bench = bench_of(endpoint(broken, LIMITS, told=told), count=1000, max_retries=3).run()
    assert [text.partition(";")[0] for text in told] == [
        "server/v1: paused after repeated failures",
        *(line.partition(";")[0] for line in told[1:-1]),  # each ten minutes, with the server's words
        "server/v1: works again",
    ]
    assert len(told) == 4
    assert all("no answer for" in line and "upstream gone" in line for line in told[1:-1])
    assert (bench.tally.answered, bench.tally.failed) == (1000, 0)
    assert broken.while_broken <= 8 + 60
    assert bench.seconds < 1820 + 60 + 1000 / 8 + 10


def test_a_broken_endpoint_is_given_up_after_max_outage():
    """Broken for good: stop, resumable, with how long and what it said."""
    bench = bench_of(
        endpoint(Broken(20, 1e9), LimitSettings(concurrency=8, max_outage=600)), count=1000
    ).run()
    assert "upstream gone (down for 6" in str(bench.runner.stopped_by)
    assert bench.tally.failed == 0


def test_an_endpoint_that_is_broken_from_the_start_is_given_up_sooner():
    """Never one answer: two minutes, not an hour, and not a row is marked as failed."""
    bench = bench_of(endpoint(Broken(0, 1e9), LIMITS), count=1000, max_retries=8).run()
    assert "upstream gone (down for 1" in str(bench.runner.stopped_by)
    assert bench.seconds < 300
    assert bench.tally.failed == 0


def test_a_row_that_breaks_the_server_is_not_the_servers_fault():
    """One picture always gets 500: it uses up its own attempts, the endpoint is not rested for it."""

    class Poisoned(ScriptedChat):
        async def post(self, body):
            await super().post(body)
            return error(500, "server_error") if b"r000002" in body else good()

    bench = bench_of(
        endpoint(Poisoned(always(good())), LimitSettings(concurrency=1)), count=30, max_retries=8
    ).run()
    assert bench.tally.answered == 29
    assert bench.outcomes["r000002"].attempts == 9


def test_asking_to_wait_too_long_puts_an_endpoint_aside():
    """A daily limit at one of two keys: its wait is granted once, then the other does the work."""
    daily = ScriptedChat(itertools.chain([good()] * 20, always(error(429, "429", {"retry-after": "40000"}))))
    bench = bench_of(
        endpoint(daily, LimitSettings(concurrency=8, max_wait=60), name="daily"),
        endpoint(ScriptedChat(always(good()), latency_seconds=1), LIMITS, name="ok"),
        count=2000,
    ).run()
    assert bench.tally.answered == 2000
    assert "40,000 s" in bench.told[0]


def test_stopping_while_all_rest():
    """Everybody waits at the dispatcher: a stop ends the run at once."""
    bench = bench_of(endpoint(Broken(5, 1e9), LIMITS), count=100)

    async def go():
        running = asyncio.create_task(bench.go())
        await asyncio.sleep(100)
        bench.runner.stop(RunError("enough", kind="user"))
        await asyncio.wait_for(running, 2)

    virtual_time.run(go())
    assert bench.tally.failed == 0
