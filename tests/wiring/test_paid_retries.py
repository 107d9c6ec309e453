"""What is asked again though it was paid for, or may be: cut answers on request, empty ones once, a relay's 403 once."""

from __future__ import annotations

import asyncio
import json

import pytest
import virtual_time
from bench import Bench, always
from captionmill.nouns.config import ChatSettings, RunConfig
from captionmill.nouns.rows import HttpAnswer, Usage
from captionmill.rules.request import RequestBuilder
from pydantic import ValidationError
from scripted_chat import ScriptedChat, completion, error, good, rows


def cut_answer() -> HttpAnswer:
    body = json.loads(completion("half a cap", 400, 100))
    body["choices"][0]["finish_reason"] = "length"
    return HttpAnswer(200, {}, json.dumps(body).encode())


class Wordy(ScriptedChat):
    """Cuts every answer off, but where 500 tokens are allowed: then as `longer` says."""

    def __init__(self, longer: HttpAnswer) -> None:
        super().__init__(always(cut_answer()))
        self.longer = longer

    async def post(self, body: bytes) -> HttpAnswer:
        answer = await super().post(body)
        return self.longer if b"at most 500" in body else answer


# ------------------------------------------------------------------------------- --retry-length


def test_a_cut_answer_is_asked_for_once_more_where_wanted():
    """With more room; its usage is that of both, since both are billed."""
    chat = Wordy(good("a whole caption"))
    bench = Bench(chat, 20, retry_length=500).run()
    assert len(chat.bodies) == 40
    for outcome in bench.outcomes.values():
        assert outcome.reply.choices[0].content == "a whole caption"
        assert outcome.reply.usage == Usage(800, 120, 920)
        assert outcome.attempts == 2


def test_a_cut_answer_is_an_answer_otherwise():
    """Nothing is bought twice unasked."""
    chat = Wordy(good())
    bench = Bench(chat, 20).run()
    assert len(chat.bodies) == 20
    assert bench.outcomes["r000001"].reply.choices[0].finish == "length"


@pytest.mark.parametrize("longer", [cut_answer(), error(400, "content_policy_violation"), error(500, "x")])
def test_there_is_no_third_time(longer):
    """Cut again, refused or broken: that was it, and the answer that was paid for is kept."""
    chat = Wordy(longer)
    bench = Bench(chat, 20, retry_length=500).run()
    assert len(chat.bodies) == 40
    assert bench.tally.answered == 20
    assert {o.reply.choices[0].content for o in bench.outcomes.values()} == {"half a cap"}


def test_a_stop_while_the_longer_answer_waits_keeps_the_cut_one():
    """It is paid for."""

    class Closing(Wordy):
        async def post(self, body: bytes) -> HttpAnswer:
            answer = await super().post(body)
            bench.endpoints[0].flow.limiter.close_until(asyncio.get_running_loop().time(), 1e6)
            asyncio.get_running_loop().call_later(1, bench.runner.stop)
            return answer

    bench = Bench(Closing(good()), 1, retry_length=500)
    virtual_time.run(bench.go())
    assert len(bench.chat.bodies) == 1
    assert bench.outcomes["r000000"].reply.choices[0].content == "half a cap"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_longer_request_differs_in_one_number(name):
    """By whichever name the run bounds its answers."""
    builder = RequestBuilder(ChatSettings(model="m", temperature=0.5, **{name: 100}), "m")
    (row,) = rows(1)
    usual, longer = json.loads(builder.build(row, ())), json.loads(builder.build(row, (), 500))
    assert (usual.pop(name), longer.pop(name)) == (100, 500)
    assert usual == longer


@pytest.mark.parametrize("settings", [{"max_tokens": 500}, {"max_tokens": 900}, {}])
def test_longer_means_longer(settings):
    """Not more than before: said before anything is sent."""
    with pytest.raises(ValidationError, match="more than --max-tokens"):
        RunConfig(model="m", retry_length=500, **settings)


def test_usage_adds_up():
    """A count that one of two lacks is the other's."""
    assert Usage(1, 2, 3) + Usage(10, 20, 30, 5) == Usage(11, 22, 33, 5)
    assert Usage() + Usage() == Usage()


# ------------------------------------------------------------------------------- empty answers


@pytest.mark.parametrize(
    "answer",
    [
        HttpAnswer(200, {}, completion("", 0, 0)),
        HttpAnswer(200, {}, b'{"choices": [{"mess'),
        HttpAnswer(202, {}, b"accepted"),
        HttpAnswer(200, {}, b'{"detail": "something happened"}'),
        HttpAnswer(200, {}, b'{"choices": [{"message": {"content": "hal"}, "finish_reason": "error"}]}'),
    ],
)
@pytest.mark.parametrize("further", [0, 2])
def test_a_whole_answer_that_cannot_be_read_is_asked_again_a_few_times(answer, further):
    """Each was billed: --max-unreadable-retries bounds them at any --max-retries, and the account has the most
    that they may have cost."""
    chat = ScriptedChat(always(answer))
    bench = Bench(chat, 1, max_retries=8, max_unreadable_retries=further).run()
    assert len(chat.bodies) == 1 + further
    failure = bench.outcomes["r000000"].failure
    assert "the server sent: " in failure.message
    assert [(s.requests, s.tokens) for _, s in bench.lost] == [(1, 500)] * (1 + further)


def test_an_unreadable_answer_among_other_failures_is_followed_by_an_answer():
    """The two bounds are counted apart."""
    script = [HttpAnswer(200, {}, b"?"), error(500, "x"), HttpAnswer(200, {}, b"?"), error(500, "x"), good()]
    bench = Bench(ScriptedChat(iter(script)), 1, max_retries=8).run()
    assert bench.tally.answered == 1


# ------------------------------------------------------------------------------- a relay's money


class Relay(ScriptedChat):
    """Charges ahead for all that is out: with more than `room` at once it says that the money is gone."""

    def __init__(self, room: int, answers: int = 10**9) -> None:
        super().__init__(always(good()))
        self.room, self.answers, self.out = room, answers, 0

    async def post(self, body: bytes) -> HttpAnswer:
        self.out += 1
        try:
            is_gone = self.out > self.room or self.answers <= 0
            self.answers -= not is_gone
            answer = await super().post(body)
        finally:
            self.out -= 1
        if is_gone:
            return error(403, "insufficient_user_quota", message="user quota is not enough (request id: 1)")
        return answer


def test_a_relay_that_charges_ahead_is_asked_less_at_once():
    """Money for twelve requests at once, sixteen are out: said once, and every row is answered."""
    chat = Relay(room=12)
    bench = Bench(chat, 400, concurrency=16, max_retries=8).run()
    assert bench.tally.answered == 400
    assert sum("pre-charges" in line for line in bench.told) == 1
    assert bench.endpoints[0].flow.most_in_flight in (3, 4)


def test_a_relay_whose_money_is_gone_stops_the_run():
    """Fewer at once did not help: no more than a few refusals after that, with its own words."""
    chat = Relay(room=100, answers=100)
    bench = Bench(chat, 4000, concurrency=16, max_retries=8).run()
    assert bench.tally.answered == 100
    assert bench.runner.stopped_by.kind == "no_quota"
    assert "user quota is not enough" in str(bench.runner.stopped_by)
    assert len(chat.bodies) <= 100 + 16 + 8


def test_money_that_was_never_there_stops_at_once():
    """Nothing was ever answered: three refusals are enough."""
    chat = Relay(room=0)
    bench = Bench(chat, 4000, concurrency=16, max_retries=8).run()
    assert bench.runner.stopped_by.kind == "no_quota"
    assert len(chat.bodies) <= 16
