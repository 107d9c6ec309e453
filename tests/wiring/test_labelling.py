"""Labelling runs in memory: what an endpoint that takes no form, or answers wrong, costs."""

from __future__ import annotations

import itertools
import json

import pytest
from bench import Bench
from captionmill.labels.task import label_task
from captionmill.nouns.config import RunConfig
from captionmill.nouns.rows import HttpAnswer
from captionmill.wiring.labelling import Labelling
from scripted_chat import completion, error, good

CONFIG = RunConfig(model="m", labels=["cat", "dog"])


class Server:
    """answer: (ask, number of the request) -> HttpAnswer. Sees asks as they are sent."""

    def __init__(self, answer):
        self._answer = answer
        self.asks = []

    async def post(self, ask):
        self.asks.append(ask)
        return self._answer(ask, len(self.asks))


def bench_of(answer, count, config=CONFIG, **limits) -> Bench:
    server = Server(answer)
    bench = Bench(server, count, steps={"post": server.post}, **limits)
    for endpoint in bench.endpoints:
        endpoint.labelling = Labelling(label_task(config))
    return bench


def dropping(*parameters):
    """Prose, unless the form of the request uses none of these parameters."""

    def answer(ask, _number) -> HttpAnswer:
        ignored = any(name in ask.form.parameters for name in parameters)
        return good("I see a fine animal.") if ignored else good('{"label": "cat"}')

    return answer


@pytest.mark.parametrize("parameters", [["response_format"], ["response_format", "tools"]])
def test_a_server_that_drops_parameters_costs_six_requests_more_at_most(parameters):
    """1,000 rows cost at most 1,006 requests, and each has its label at the first counted attempt."""
    bench = bench_of(dropping(*parameters), 1000, concurrency=64).run()
    assert len(bench.chat.asks) <= 1000 + 3 * len(parameters)
    assert bench.tally.answered == 1000
    assert {o.label.parse for o in bench.outcomes.values()} == {"clean"}
    assert len(bench.told) == len(parameters)


def test_the_paid_answers_of_a_way_that_does_not_work_are_in_the_cost():
    """A row has the usage of all its answers."""
    bench = bench_of(dropping("response_format"), 1).run()
    (outcome,) = bench.outcomes.values()
    assert outcome.attempts == 4
    assert outcome.reply.usage.prompt_tokens == 4 * 400


def test_a_way_that_is_refused_is_no_failure():
    """The row is asked at once in the next way; only the first requests find out."""

    def answer(ask, _number):
        if "response_format" in ask.form.parameters:
            return error(400, "invalid_request_error", message="This response_format type is unavailable now")
        return good('{"label": "dog"}')

    bench = bench_of(answer, 100, concurrency=64, max_retries=0).run()
    assert (bench.tally.answered, bench.tally.failed) == (100, 0)
    assert len(bench.chat.asks) == 102
    assert bench.endpoints[0].labelling.known_way == "tool"


def test_what_an_earlier_start_found_is_asked_at_once():
    """No request is spent on finding out again."""
    bench = bench_of(dropping("response_format"), 100, concurrency=64)
    bench.endpoints[0].labelling.start_with("tool")
    bench.run()
    assert len(bench.chat.asks) == 100


def test_a_wrong_answer_first_costs_one_more_each():
    """It is asked again with the validator's words and the last bad answer only."""

    def answer(ask, _number):
        return good('{"label": "cat"}' if ask.correction else '{"label": "horse"}')

    bench = bench_of(answer, 200, concurrency=32).run()
    assert len(bench.chat.asks) == 400
    assert {o.label.parse for o in bench.outcomes.values()} == {"reasked"}
    again = next(ask for ask in bench.chat.asks if ask.correction)
    assert again.correction.answer == '{"label": "horse"}'
    assert "horse" in again.correction.words
    assert {o.attempts for o in bench.outcomes.values()} == {2}


def test_a_row_that_never_validates_keeps_all_that_was_paid_for():
    """invalid_label, with every raw answer, and its money in the account of attempts."""
    texts = itertools.cycle(['{"label": "horse"}', '{"label": "cow"}'])
    bench = bench_of(lambda _ask, _number: good(next(texts)), 1).run()
    (outcome,) = bench.outcomes.values()
    assert outcome.failure.kind == "invalid_label"
    assert [c.content for c in outcome.reply.choices] == ['{"label": "cow"}', '{"label": "horse"}']
    lost = [s for kind, s in bench.lost if kind == "invalid_label"]
    assert sum(s.requests for s in lost) == 1  # the other one is in the account as a reask
    assert sum(s.tokens for s in lost) == 2 * 420


@pytest.mark.parametrize("reasks", [0, 1, 3])
def test_the_number_of_reasks_is_a_setting(reasks):
    """One by default; none, where nothing may be paid twice."""
    bench = bench_of(lambda _ask, _number: good('{"label": "horse"}'), 1, max_reasks=reasks).run()
    assert len(bench.chat.asks) == 1 + reasks


def test_a_cut_answer_is_not_asked_again():
    """It would be cut again; the message says which setting is too small."""
    body = json.loads(completion('{"label": "ca'))
    body["choices"][0]["finish_reason"] = "length"
    bench = bench_of(lambda _ask, _number: HttpAnswer(200, {}, json.dumps(body).encode()), 1).run()
    (outcome,) = bench.outcomes.values()
    assert len(bench.chat.asks) == 1
    assert outcome.failure.kind == "invalid_label"
    assert "--max-tokens" in outcome.failure.message


def test_a_refusal_of_the_schema_itself_stops_the_run():
    """It is the same for every row: a mistake in the configuration, with the server's words."""
    words = "Invalid schema for response_format 'label': In context=('properties', 'x'), 'oneOf' is not permitted."
    bench = bench_of(lambda _ask, _number: error(400, "invalid_json_schema", message=words), 50).run()
    assert bench.runner.stopped_by.kind == "bad_schema"
    assert "oneOf" in str(bench.runner.stopped_by)
    assert len(bench.chat.asks) <= 3
    assert bench.tally.failed == 0


def test_a_reask_that_meets_a_limit_waits_like_any_request():
    """A 429 on the way to the second answer fails no row."""

    def answer(ask, number):
        if ask.correction and number % 2:
            return error(429, "rate_limit_exceeded")
        return good('{"label": "cat"}' if ask.correction else '{"label": "horse"}')

    bench = bench_of(answer, 20, concurrency=4).run()
    assert bench.tally.answered == 20
