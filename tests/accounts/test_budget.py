"""A budget is never passed: the law, on virtual time; the messages; over several starts of the real command."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from dataclasses import replace
from decimal import Decimal

import pandas as pd
import pytest
import virtual_time
from bench import Bench, answer, failed, write
from captionmill.accounts.spent import spent_before
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import LimitSettings, Price, PriceTable
from captionmill.nouns.errors import ConnectionLost
from captionmill.nouns.rows import HttpAnswer, Reply, Spending, TokenEstimate, Usage
from captionmill.rules.budget import Budget
from captionmill.rules.prices import PriceBook
from captionmill.wiring.connect import _Money
from commands import MODEL, captionmill, draw_pictures, results, start, stats, wait_for_answers
from hypothesis import given, settings
from hypothesis import strategies as st
from lying_server import LyingServer, http
from scripted_chat import ScriptedChat, completion, endpoint, error, good

RATES = {"own": {"input": 10, "output": 10}}


class Spender:
    """Answers and failures at random, and its own account of what it billed. excess: tokens over what was held back."""

    def __init__(self, seed: int, excess: int = 0):
        self.chance, self.excess = random.Random(seed), excess
        self.tokens, self.requests = 0, 0

    async def post(self, _body: bytes) -> HttpAnswer:
        self.requests += 1
        await asyncio.sleep(self.chance.uniform(0.1, 3))
        fate = self.chance.random()
        if fate < 0.1:
            return error(429, "rate_limit_exceeded", {"retry-after": "1"})
        prompt, answer = self.chance.randint(1, 400), self.chance.randint(0, 100)
        if self.excess and fate > 0.8:
            prompt = 400 + self.excess
        self.tokens += prompt + answer
        if fate < 0.2:  # billed, but nobody hears of it
            raise ConnectionLost("gone", kind="connection")
        return HttpAnswer(200, {}, completion("a picture", prompt, answer))


def most(estimate: TokenEstimate) -> Spending:
    tokens = estimate.prompt + estimate.longest_answer  # 500
    return Spending(1, tokens, Decimal(tokens) / 1000)


def spend(chat: Spender, concurrency: int, count: int = 60, **bounds) -> Bench:
    budget = Budget(**{"usd": None, "tokens": None, "requests": None} | bounds, spent=Spending())
    price = {"most": most, "price": lambda reply: Decimal(reply.usage.total_tokens) / 1000}
    bench = Bench(chat, count, budget=budget, concurrency=concurrency, steps=price)
    bench.budget = budget
    return bench.run()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), concurrency=st.integers(1, 32), tokens=st.integers(0, 20_000))
def test_no_budget_is_passed(seed, concurrency, tokens):
    """Every usage within what was held back, lost answers included: what the server billed stays within the budget."""
    for bounds in ({"tokens": tokens}, {"usd": Decimal(tokens) / 1000}, {"requests": tokens // 400}):
        chat = Spender(seed)
        bench = spend(chat, concurrency, **bounds)
        assert chat.tokens <= bounds.get("tokens", chat.tokens)
        assert Decimal(chat.tokens) / 1000 <= bounds.get("usd", Decimal(10**9))
        assert chat.requests <= bounds.get("requests", chat.requests)
        assert bench.budget.spent.tokens >= chat.tokens  # its account misses nothing
        assert bench.budget.held_back == Spending(usd=Decimal(0))
        is_stopped = bench.runner.stopped_by is not None
        assert is_stopped == (len(bench.outcomes) < 60)
        assert not is_stopped or bench.runner.stopped_by.kind == "budget"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cents=st.integers(0, 3000),
    stop_after_seconds=st.floats(0, 30),
    is_impatient=st.booleans(),
)
def test_nor_with_two_endpoints_and_a_stop(seed, cents, stop_after_seconds, is_impatient):
    """One twice as dear as the other, stopped at any moment, once or twice: what both billed stays within, and nothing is held back for ever."""
    chats, limits = (Spender(seed), Spender(seed + 1)), LimitSettings(concurrency=5)
    budget = Budget(Decimal(cents) / 100, None, None, Spending(usd=Decimal(0)))

    def numbered(number: int):
        per_token = Decimal(number + 1) / 1000
        return endpoint(
            chats[number], limits, name=f"e{number}",
            most=lambda e: Spending(1, e.prompt + e.longest_answer, (e.prompt + e.longest_answer) * per_token),
            price=lambda reply: reply.usage.total_tokens * per_token,
        )  # fmt: skip

    bench = Bench([numbered(0), numbered(1)], 60, budget=budget)

    async def go():
        loop = asyncio.get_running_loop()
        loop.call_later(stop_after_seconds, bench.runner.stop)
        if is_impatient:
            loop.call_later(stop_after_seconds + 0.3, bench.runner.stop_at_once)
        with contextlib.suppress(asyncio.CancelledError):
            await bench.go()

    virtual_time.run(go())
    billed = sum(chat.tokens * Decimal(number + 1) / 1000 for number, chat in enumerate(chats))
    assert billed <= budget.usd
    assert budget.spent.usd >= billed
    assert budget.held_back == Spending(usd=Decimal(0))
    assert not budget.has_requests_in_flight


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), concurrency=st.integers(1, 16), excess=st.integers(1, 5000))
def test_how_far_a_lying_server_gets(seed, concurrency, excess):
    """It reports more than was held back: passed by no more than the excess of those that were out together."""
    chat = Spender(seed, excess)
    spend(chat, concurrency, tokens=10_000)
    assert chat.tokens <= 10_000 + concurrency * excess


def test_a_budget_is_used_up_to_its_last_request():
    """The places get fewer towards the end instead of stopping while answers are out."""
    chat = ScriptedChat(itertools.repeat(good()))  # 420 tokens each, 500 held back
    bench = spend(chat, 16, tokens=10_000, count=100)
    assert len(bench.outcomes) == (10_000 - 500) // 420 + 1
    assert "9,660 of --budget-tokens 10,000 are spent, 340 are left" in str(bench.runner.stopped_by)


def test_what_is_left_is_neither_spent_nor_held_back():
    """The figure in the bar: 10 dollars, 3 spent, 2 for one that is in flight. None where money has no bound."""
    budget = Budget(Decimal(10), None, None, Spending(4, 900, Decimal(3)))
    assert budget.usd_left == 7
    budget.hold_back(Spending(1, 500, Decimal(2)))
    assert budget.usd_left == 5
    budget.settle(Spending(1, 500, Decimal(2)), Spending(1, 420, Decimal("0.5")))
    assert budget.usd_left == Decimal("6.5")
    assert Budget(Decimal(10), None, None, Spending()).usd_left == 10
    assert Budget(None, 500, None, Spending(4, 900, Decimal(3))).usd_left is None


def test_the_first_request_may_be_too_much():
    """Nothing is sent where not even one fits."""
    chat = ScriptedChat(itertools.repeat(good()))
    bench = spend(chat, 4, usd=Decimal("0.4"))
    assert chat.bodies == []
    assert "$0.0000 of --budget-usd $0.4000 are spent, $0.4000 are left" in str(bench.runner.stopped_by)
    assert "may take up to $0.5000" in str(bench.runner.stopped_by)


def test_a_cut_answer_is_kept_where_the_longer_one_is_too_much():
    """--retry-length at the end of a budget: the answer that was paid for is saved, then the run stops."""
    cut = completion(
        "half a", choices=[{"index": 0, "message": {"content": "half a"}, "finish_reason": "length"}]
    )
    chat = ScriptedChat(itertools.repeat(HttpAnswer(200, {}, cut)))
    budget = Budget(None, 900, None, Spending())
    bench = Bench(chat, 5, budget=budget, concurrency=1, retry_length=300).run()
    assert [o.reply.choices[0].content for o in bench.outcomes.values()] == ["half a"]
    assert bench.runner.stopped_by.kind == "budget"
    assert bench.tally.attempts == 1


def test_what_is_given_up_is_accounted_for():
    """A second signal leaves requests alone that may be answered and billed."""
    bench = Bench(
        ScriptedChat(itertools.repeat(good()), latency_seconds=100), 9, concurrency=3, steps={"most": most}
    )

    async def go():
        asyncio.get_running_loop().call_later(1, bench.runner.stop)
        asyncio.get_running_loop().call_later(2, bench.runner.stop_at_once)
        with contextlib.suppress(asyncio.CancelledError):
            await bench.go()

    virtual_time.run(go())
    assert bench.lost == [("given_up", Spending(1, 500, Decimal("0.5")))] * 3


@pytest.mark.parametrize("fate", ["timeout", "without_usage", "given_up"])
def test_a_lost_attempt_is_booked_with_what_was_reserved(fate):
    """A more expensive model answers in the meantime: what is held back from then on is more, what is in flight is not."""
    prices = PriceBook(PriceTable.model_validate(RATES | {"expensive": {"input": 1000, "output": 1000}}))
    money = _Money(prices, "own", None)
    latencies = iter([1, 100 if fate == "given_up" else 2])

    class Server:
        async def post(self, _body: bytes) -> HttpAnswer:
            seconds = next(latencies)
            await asyncio.sleep(seconds)
            if seconds == 1:  # another model than the one that was asked
                return HttpAnswer(200, {}, completion(model="expensive"))
            if fate == "timeout":
                raise ConnectionLost("gone", kind="timeout")
            return HttpAnswer(200, {}, completion(model="own", usage={}))

    budget = Budget(Decimal(10), None, None, Spending(usd=Decimal(0)))

    def priced(reply: Reply) -> Decimal | None:
        money.note(reply.model)
        return money.price(reply)

    steps = {"price": priced, "most": money.most}
    bench = Bench(Server(), 2, budget=budget, steps=steps, concurrency=2, max_retries=0)

    async def go():
        asyncio.get_running_loop().call_later(10, bench.runner.stop)
        asyncio.get_running_loop().call_later(11, bench.runner.stop_at_once)
        with contextlib.suppress(asyncio.CancelledError):
            await bench.go()

    virtual_time.run(go())
    reserved, answered = Decimal(500) / 10**5, Decimal(420) / 10**3
    ((kind, booked),) = bench.lost
    assert (kind, booked.tokens, booked.usd) == (fate, 500, reserved)
    assert budget.spent == Spending(2, 920, reserved + answered)
    assert budget.held_back == Spending(usd=Decimal(0))
    assert money.most(bench.endpoints[0].connection.estimate(None)).usd == 100 * reserved


def test_attempts_without_an_answer_are_accounted_for():
    """A refusal costs nothing, half an answer perhaps all of it."""
    script = [
        error(429, "rate_limit_exceeded"),
        HttpAnswer(200, {}, b"{half"),
        error(500, "server_error"),
        good(),
    ]
    bench = Bench(ScriptedChat(iter(script)), 1, steps={"most": most}).run()
    free, all_of_it = Spending(requests=1), Spending(1, 500, Decimal("0.5"))
    assert bench.lost == [("rate_limited", free), ("broken_answer", all_of_it), ("server_error", free)]


def test_a_longer_answer_is_held_back_for_each_that_is_asked():
    """--retry-length with --n: three of them may come."""
    cut = completion(
        "half a", 400, 300, choices=[{"index": 0, "message": {"content": "h"}, "finish_reason": "length"}]
    )
    chat = ScriptedChat(itertools.repeat(HttpAnswer(200, {}, cut)))

    def estimate(_ask):
        return TokenEstimate(400, 400, 300, 300, answers=3)

    def most(estimate):
        return Spending(1, 400 + (estimate.most_answer or estimate.longest_answer))

    budget = Budget(None, 700 + 400 + 2999, None, Spending())
    bench = Bench(chat, 1, budget=budget, retry_length=1000, steps={"estimate": estimate, "most": most}).run()
    assert bench.tally.attempts == 1  # 400 + 3 x 1000 did not fit any more
    assert bench.runner.stopped_by.kind == "budget"


def test_the_cheaper_endpoint_may_still_fit():
    """A budget is reached only where no endpoint is left that it would pay for."""
    dear, cheap = ScriptedChat(itertools.repeat(good())), ScriptedChat(itertools.repeat(good()))
    limits = LimitSettings(concurrency=2)
    price = {"price": lambda reply: Decimal("0.01")}
    endpoints = [
        endpoint(dear, limits, name="dear", weight=5, most=lambda e: Spending(1, 500, Decimal(5)), **price),
        endpoint(cheap, limits, name="cheap", most=lambda e: Spending(1, 500, Decimal("0.01")), **price),
    ]
    bench = Bench(endpoints, 20, budget=Budget(Decimal(3), None, None, Spending())).run()
    assert (len(dear.bodies), len(cheap.bodies), bench.tally.answered) == (0, 20, 20)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 400, "completion_tokens": 50, "total_tokens": 0},
        {"prompt_tokens": 400, "total_tokens": 450},
    ],
)
def test_half_a_usage_is_no_way_out(usage):
    """A total of nothing, an answer that is not counted: the budget counts what there is."""
    odd = HttpAnswer(200, {}, completion("a picture", usage=usage))
    bench = spend(ScriptedChat(itertools.repeat(odd)), 1, count=40, tokens=5000)
    assert len(bench.outcomes) == (5000 - 500) // 450 + 1
    assert bench.runner.stopped_by.kind == "budget"


def test_an_empty_answer_that_was_counted_is_paid_for():
    """No choices, but usage: it is on the invoice."""
    empty = HttpAnswer(200, {}, completion("", choices=[]))
    bench = Bench(ScriptedChat(itertools.repeat(empty)), 1, steps={"most": most}).run()
    assert bench.lost == [("empty_answer", Spending(1, 500, Decimal("0.5")))] * 3


# ------------------------------------------------------------------------------- what earlier starts have spent


def spent(folder, **more) -> Spending:
    prices = PriceBook(PriceTable.model_validate(RATES))
    return spent_before(folder, prices, more)


def test_what_was_spent_is_what_the_rows_say(tmp_path):
    """Each by its own kind: its price, today's price, an endpoint's own, and without usage what was reserved."""
    priced = write(tmp_path / "priced", [answer(n) for n in range(5)])
    assert spent(priced) == Spending(5, 5 * 828, 5 * answer(0).cost_usd)
    bare = [replace(answer(n, usage=Usage(), model="own"), cost_usd=None) for n in range(3)]
    counted = replace(answer(3, model="own"), cost_usd=None)
    mixed = write(tmp_path / "mixed", [*bare, counted])
    assert spent(mixed) == Spending(4, 3 * 900 + 828, Decimal(3 * 900 + 828) / 10**5)
    unknown = write(tmp_path / "unknown", [replace(answer(0, model="mystery"), cost_usd=None)])
    assert spent(unknown).usd is None
    assert spent(unknown, **{"e/v1": Price(input=1, output=1)}).usd == Decimal(828) / 10**6
    refused = write(tmp_path / "refused", [failed(1)], {"bad_key": Spending(3)})
    assert spent(refused) == Spending(3, 0, Decimal(0))


# ------------------------------------------------------------------------------- the command


def caption(folder, url, *more):
    return captionmill(
        "caption", "p", *MODEL, "--max-tokens", 60, "-o", "run", *more, base_url=url, cwd=folder
    )


def test_a_budget_is_for_the_whole_run(tmp_path):
    """Stops with exit 3 and how to go on; the same command again spends nothing more; a larger budget goes on."""
    draw_pictures(tmp_path / "p", 30)
    with serving(EndpointSettings()) as url:
        first = caption(tmp_path, url, "--budget-usd", "0.01")
        assert first.returncode == 3, first.stderr
        assert "the budget is reached" in first.stderr
        assert "go on with a larger budget" in first.stderr
        spent = results(tmp_path / "run").cost_usd.sum()
        assert Decimal("0.007") < spent <= Decimal("0.01")
        answers = stats(url)["answers"]
        again = caption(tmp_path, url, "--budget-usd", "0.01")
        assert (again.returncode, stats(url)["answers"]) == (3, answers)
        by_requests = caption(tmp_path, url, "--budget-requests", answers + 3)
        assert (by_requests.returncode, stats(url)["answers"]) == (3, answers + 3)
        more = caption(tmp_path, url, "--budget-usd", "1", "--budget-tokens", 10**6)
    assert more.returncode == 0, more.stderr
    assert len(results(tmp_path / "run")) == 30


def test_lost_answers_count_in_the_next_start(tmp_path):
    """Half answers may be billed: what they may have cost stays spent, and is kept in the run."""
    draw_pictures(tmp_path / "p", 3)
    with LyingServer(lambda body, n: http(completion() if n % 2 == 0 else b'{"half')).open() as server:
        done = caption(tmp_path, server.base_url)
        assert done.returncode == 0, done.stderr
    with serving(EndpointSettings()) as url:
        needed = 3 * 420 + 3 * (255 + 60)
        again = caption(tmp_path, url, "--budget-tokens", needed, "--retry-failed")
        assert again.returncode == 0, again.stderr
        draw_pictures(tmp_path / "p", 4)
        again = caption(tmp_path, url, "--budget-tokens", needed)
    assert again.returncode == 3, again.stderr


def test_what_was_out_at_a_kill_counts_as_spent(tmp_path):
    """kill -9 with a budget: what was in flight may be billed, so the next start holds it for spent, and says so."""
    draw_pictures(tmp_path / "p", 40)
    arguments = ("caption", "p", *MODEL, "--max-tokens", 60, "-o", "run", "--concurrency", 4)
    with serving(EndpointSettings(latency_seconds=0.5)) as url:
        running = start(*arguments, "--budget-tokens", 10**6, base_url=url, cwd=tmp_path)
        wait_for_answers(url, 8)
        running.kill()
        running.communicate()
        answers = stats(url)["answers"]
        lost = json.loads(captionmill("report", "run", "--json", cwd=tmp_path).stdout)[
            "attempts_without_answer"
        ]
        assert 1 <= lost["in_flight"]["attempts"] <= 4
        stopped = captionmill(*arguments, "--budget-requests", answers + 4, base_url=url, cwd=tmp_path)
        assert stopped.returncode == 3, stopped.stderr
        assert stats(url)["answers"] <= answers + 8
        assert captionmill(*arguments, "--budget-tokens", 10**6, base_url=url, cwd=tmp_path).returncode == 0
    lost = json.loads(captionmill("report", "run", "--json", cwd=tmp_path).stdout)["attempts_without_answer"]
    assert set(lost) == {"killed"}
    assert lost["killed"]["tokens_at_most"] >= 300 * lost["killed"]["attempts"]
    assert len(results(tmp_path / "run")) == 40


def test_a_more_expensive_model_that_answers_is_said(tmp_path):
    """Once, with both names; and its price is held back from then on."""
    draw_pictures(tmp_path / "p", 20)
    dear = completion("a picture", 300, 50, model="gpt-4-turbo")
    with LyingServer(lambda body, n: http(dear)).open() as server:
        done = caption(tmp_path, server.base_url, "--budget-usd", "0.05", "--concurrency", 1)
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if "gpt-4-turbo" in line]
    assert "gpt-4o" in line
    assert sum(results(tmp_path / "run").cost_usd) <= Decimal("0.05")


def test_an_unknown_price_is_no_budget(tmp_path):
    """Nothing is sent; the message names the model and what to do. With a price of the user's own it runs, and
    keeps to its currency."""
    draw_pictures(tmp_path / "p", 2)
    (tmp_path / "run.toml").write_text(
        '[prices]\ncurrency = "CNY"\n[prices."mystery"]\ninput = 20\noutput = 60\n'
    )
    arguments = ("caption", "p", "--model", "mystery", "--max-tokens", 60, "--budget-usd", "1")
    with serving(EndpointSettings()) as url:
        refused = captionmill(*arguments, base_url=url, cwd=tmp_path)
        assert refused.returncode == 2
        assert "no price is known for mystery" in refused.stderr
        assert stats(url)["answers"] == 0
        done = captionmill(*arguments, "--config", "run.toml", base_url=url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    other = captionmill(*arguments[:-2], base_url="http://127.0.0.1:9", cwd=tmp_path)  # dollars again
    assert "CNY" in done.stderr
    assert other.returncode == 2
    assert "in CNY, these prices are in USD" in other.stderr
    table = pd.read_parquet(tmp_path / "p-captions/results")
    assert list(table.cost_usd) == list(
        (20 * table.prompt_tokens + 60 * table.completion_tokens) / Decimal(10**6)
    )


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[prices]\n"gpt-4o" = { input = 1 }\n', "run.toml:2: prices: gpt-4o: input and output: give both"),
        ("[prices]\nmultiplier = -1\n", "prices: multiplier"),
        ('[prices."gpt-4o"]\ninput = 1\noutput = "x"\n', "prices: gpt-4o.output"),
        ("prices = 5\n", "run.toml:1: prices"),
    ],
)
def test_a_broken_price_is_named(tmp_path, toml, says):
    """With file, line and model; exit 2."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "run.toml").write_text(toml)
    done = captionmill(
        "caption", "p", *MODEL, "--config", "run.toml", base_url="http://127.0.0.1:9", cwd=tmp_path
    )
    assert done.returncode == 2
    assert says in done.stderr, done.stderr
