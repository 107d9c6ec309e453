"""One row's journey, N at a time: retries, pauses, stops. On virtual time, with scripted answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import random

import pytest
import virtual_time
from bench import Bench, always
from captionmill.nouns.errors import ConnectionLost, RunError, ServerBusy
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.backoff import Backoff
from captionmill.rules.flow.breaker import BreakerSettings, CircuitBreaker
from captionmill.rules.flow.limits import Limiter
from captionmill.wiring.live import EndpointState
from scripted_chat import (
    PICTURE,
    Moderated,
    QuotaServer,
    ScriptedChat,
    completion,
    error,
    good,
    read,
)


def test_every_row_is_answered_once():
    """1,000 rows, each recorded once, each with its own answer, at most `concurrency` at a time, saving included."""
    chat = ScriptedChat(always(good()))
    bench = Bench(chat, 1000).run()
    assert len(bench.outcomes) == bench.tally.answered == 1000
    assert sorted(set(chat.bodies)) == [f"[row {r.id}]".encode() for r in bench.rows]
    assert bench.seconds == pytest.approx(1000 / 8 * 0.11, rel=0.05)


def test_pictures_are_prepared_only_so_far_ahead():
    """A slow endpoint does not make prepared pictures pile up."""
    bench = Bench(ScriptedChat(always(good()), latency_seconds=10), 500).run()
    assert bench.most_held <= 8 + 8 + 2 * 3  # in flight, in the queue, just prepared


def test_a_broken_picture_is_one_failed_row():
    """The others go on; nothing is sent for it."""
    chat = ScriptedChat(always(good()))
    bench = Bench(chat, 20, row_errors=["r000003"]).run()
    assert bench.outcomes["r000003"].failure.kind == "image_broken"
    assert bench.tally.answered == 19
    assert len(chat.bodies) == 19


def test_a_transient_failure_is_tried_again():
    """500, a lost connection, broken JSON, then an answer: one answered row, four attempts."""
    script = [
        error(500, "server_error"),
        ConnectionLost("reset", kind="connection"),
        HttpAnswer(200, {}, b'{"id": "chatcm'),
        good("at last"),
    ]
    bench = Bench(ScriptedChat(iter(script))).run()
    outcome = bench.outcomes["r000000"]
    assert (outcome.reply.choices[0].content, outcome.attempts) == ("at last", 4)
    assert bench.tally.retries == 3


def test_attempts_are_bounded():
    """A row that always fails is written down with the last error after max_retries more attempts."""
    chat = ScriptedChat(always(error(500, "server_error")))
    bench = Bench(chat, max_retries=3).run()
    assert len(chat.bodies) == 4
    assert bench.outcomes["r000000"].failure.kind == "server_error"
    assert bench.outcomes["r000000"].attempts == 4


def test_a_refused_row_is_not_tried_again():
    """400 for a picture costs one attempt."""
    chat = ScriptedChat(always(error(400, "invalid_image_format")))
    bench = Bench(chat).run()
    assert len(chat.bodies) == 1
    assert bench.outcomes["r000000"].failure.kind == "bad_image"


def test_length_is_an_answer():
    """An answer that was cut is kept and not bought again."""
    body = json.loads(completion("A cut"))
    body["choices"][0]["finish_reason"] = "length"
    chat = ScriptedChat(always(HttpAnswer(200, {}, json.dumps(body).encode())))
    bench = Bench(chat).run()
    assert bench.outcomes["r000000"].reply.choices[0].finish == "length"
    assert len(chat.bodies) == 1


def test_a_429_pauses_everybody():
    """Walk 2: after Retry-After: 20 nobody sends for 20 s, also rows that were not refused."""
    refusal = error(429, "rate_limit_exceeded", {"retry-after": "20"})
    chat = ScriptedChat(itertools.chain([good()] * 3, [refusal], always(good())))
    bench = Bench(chat, 60, concurrency=4).run()
    gaps = [b - a for a, b in itertools.pairwise(chat.sent_at)]
    assert max(gaps) >= 19.9
    assert bench.tally.answered == 60
    assert bench.tally.rate_limited == 1
    paused_at = chat.sent_at[gaps.index(max(gaps))]
    assert not [t for t in chat.sent_at if paused_at + 0.1 < t < paused_at + 19.9]


def test_a_pause_is_capped():
    """Azure's 86,400 s silence a run for --max-wait seconds, not for a day."""
    refusal = error(429, "429", {"retry-after": "86400"})
    chat = ScriptedChat(itertools.chain([refusal], always(good())))
    bench = Bench(chat, max_wait=60.0).run()
    assert 60 <= bench.seconds < 62
    assert bench.tally.answered == 1
    (line,) = bench.told
    assert "86,400 s" in line
    assert "60 s" in line
    assert "--max-wait" in line


def test_a_pause_that_stays_too_long_stops_the_run():
    """Still asked to wait a day after --max-wait seconds: stop, resumable, with the figure; no row fails."""
    chat = ScriptedChat(always(error(429, "429", {"retry-after": "86400"})))
    bench = Bench(chat, 100, concurrency=4, max_wait=60.0).run()
    assert "86,400 s" in str(bench.runner.stopped_by)
    assert 60 <= bench.seconds < 65
    assert bench.outcomes == {}
    assert len(chat.bodies) <= 8


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(401, "invalid_api_key"), "bad_key"),
        (error(429, "insufficient_quota"), "no_quota"),
        (error(404, "model_not_found"), "model_not_found"),
    ],
)
def test_a_refused_account_stops_the_run_after_a_handful(answer, kind):
    """Bad key, no money, no such model: a few requests, not 40,000; no row is marked as failed."""
    chat = ScriptedChat(always(answer))
    bench = Bench(chat, 40_000, concurrency=4).run()
    assert bench.runner.stopped_by.kind == kind
    assert len(chat.bodies) <= 8
    assert bench.outcomes == {}


def test_one_refusal_between_answers_is_not_believed():
    """A relay's stray 401 (its database was busy) costs a retry, not the run."""
    stray = error(401, "invalid_api_key")
    chat = ScriptedChat(itertools.chain([good(), stray, good(), stray], always(good())))
    bench = Bench(chat, 50, concurrency=1).run()
    assert bench.runner.stopped_by is None
    assert bench.tally.answered == 50


@pytest.mark.parametrize("concurrency", [1, 2])
def test_two_refusals_in_a_row_are_not_believed_either(concurrency):
    """Of one row or of two: the third is, so a relay's bad moment fails no row and stops no run."""
    stray = error(401, "invalid_api_key")
    chat = ScriptedChat(itertools.chain([good(), stray, stray], always(good())))
    bench = Bench(chat, 50, concurrency=concurrency).run()
    assert bench.runner.stopped_by is None
    assert (bench.tally.answered, bench.tally.failed) == (50, 0)


def test_an_endpoint_that_was_never_there_stops_the_run():
    """Nothing listens: the run ends with that message instead of failing row after row."""
    chat = ScriptedChat(always(ConnectionLost("nobody listens", kind="cannot_connect")))
    bench = Bench(chat, 1000).run()
    assert "nobody listens" in str(bench.runner.stopped_by)
    assert bench.outcomes == {}


def test_stopping_saves_what_is_out():
    """Stop in mid-flight: the 8 requests out are answered and recorded, nothing more is sent."""
    chat = ScriptedChat(always(good()), latency_seconds=5)
    bench = Bench(chat, 100)

    async def go():
        running = asyncio.create_task(bench.go())
        await asyncio.sleep(7)
        sent = len(chat.bodies)
        bench.runner.stop()
        await running
        return sent

    sent = virtual_time.run(go())
    assert sent == len(chat.bodies) == len(bench.outcomes) == 16


def test_stopping_gives_up_rows_that_only_wait():
    """Rows that wait for tokens or for the next attempt end at once and stay unfinished."""
    chat = ScriptedChat(always(error(500, "server_error")), latency_seconds=0.1)
    bench = Bench(chat, 10, max_retries=50)

    async def go():
        running = asyncio.create_task(bench.go())
        await asyncio.sleep(40)
        bench.runner.stop()
        await asyncio.wait_for(running, 0.5)

    virtual_time.run(go())
    assert bench.outcomes == {}


def test_a_second_stop_does_not_wait():
    """The second signal ends the run though a request hangs."""
    bench = Bench(ScriptedChat(always(good()), latency_seconds=3600), 10)

    async def go():
        running = asyncio.create_task(bench.go())
        await asyncio.sleep(1)
        bench.runner.stop()
        await asyncio.sleep(1)
        assert not running.done()
        bench.runner.stop_at_once()
        await asyncio.wait_for(running, 1)

    virtual_time.run(go())


def test_a_full_disk_stops_the_run():
    """When a row cannot be made durable the run stops, resumable."""
    bench = Bench(ScriptedChat(always(good())), 100)

    async def record(outcome):
        raise RunError("journal.sqlite: cannot be written (disk full)", kind="disk")

    bench.record = record
    bench.run()
    assert bench.runner.stopped_by.kind == "disk"
    assert len(bench.chat.bodies) <= 16


def test_rows_above_the_limit_fail_and_the_others_go_on():
    """A request that no minute can hold is one failed row with both figures in its message."""
    bench = Bench(ScriptedChat(always(good())), 3, limiter=Limiter(400)).run()
    assert {o.failure.kind for o in bench.outcomes.values()} == {"over_limit"}


@pytest.mark.parametrize("says_remaining", [True, False])
def test_at_a_limit_all_of_it_is_used_without_a_429(says_remaining):
    """10 minutes at 300,000 tokens: at least 97 % of what was to be had, at most 0.5 % refused.

    A server that tells what is left is used from its full bucket on; for one that does not, ours spaces
    the requests, and what it may use is the limit for each minute.
    """
    server = QuotaServer(300_000, cost=500, says_remaining=says_remaining)
    count = 6000 if says_remaining else 5400

    def read_500(answer: HttpAnswer):
        # the reply's usage (420) is less than the server charges; only its headers know
        return read(HttpAnswer(answer.status, answer.headers, answer.body.replace(b"420", b"500")))

    limiter = Limiter(300_000)
    bench = Bench(server, count, limiter=limiter, concurrency=64, steps={"read": read_500}).run()
    assert bench.tally.answered == count
    assert server.refused <= 0.005 * count
    if says_remaining:
        assert server.utilisation(bench.started_at + bench.seconds) >= 0.97
    else:
        assert count * 500 / (bench.seconds * 5000) >= 0.97


def test_an_empty_quota_makes_no_storm():
    """A quota that starts empty costs a few 429s at the start, then none."""
    server = QuotaServer(300_000, cost=500, starts_full=False)
    bench = Bench(server, 1500, limiter=Limiter(300_000), concurrency=64, max_retries=8).run()
    assert bench.tally.answered == 1500
    assert server.refused <= 10
    assert server.utilisation(bench.started_at + bench.seconds) >= 0.97


# ------------------------------------------------------------------------------- outages and odd rows


def test_an_outage_of_twenty_minutes_fails_no_row():
    """Nobody can be reached for 20 minutes in the middle: the run waits, and then answers everything."""
    gone_until = 1010.0 + 1200

    def post():
        if 1010.0 < asyncio.get_running_loop().time() < gone_until:
            raise ConnectionLost("no route", kind="cannot_connect")
        return good()

    bench = Bench(ScriptedChat(always(post)), 1000).run()
    assert bench.tally.answered == 1000
    assert bench.tally.failed == 0
    assert 1200 < bench.seconds < 1200 + 120
    assert len(bench.chat.bodies) < 1000 + 8 * 40  # it does not hammer a dead endpoint


def test_an_outage_without_end_stops_the_run():
    """After --max-outage: stop, resumable, with how long it lasted; no row has failed."""
    script = itertools.chain([good()] * 20, always(ConnectionLost("no route", kind="cannot_connect")))
    bench = Bench(ScriptedChat(script), 1000, max_outage=600.0).run()
    assert "no route (down for 6" in str(bench.runner.stopped_by)
    assert (bench.tally.answered, bench.tally.failed) == (20, 0)


BROKEN = ServerBusy("500: broken", kind="server_error", http_status=500)


def breaker_that_worked() -> CircuitBreaker:
    """Of an endpoint that has answered, with --max-outage 600."""
    breaker = CircuitBreaker(BreakerSettings(120.0, 600.0, 50), Backoff(random.Random(1)))
    breaker.answered()
    return breaker


def test_failures_far_apart_are_no_outage():
    """One each 100 s never makes a rest; five together do, and the outage begins with the first of these."""
    breaker = breaker_that_worked()
    for number in range(10):
        now = 100.0 * number
        breaker.failed(BROKEN, f"r{number}", 1, now, now + 1, is_overload=False)
        assert not breaker.is_half_open
    for number in range(10, 15):
        breaker.failed(BROKEN, f"r{number}", 1, 1000.0, 1001.0, is_overload=False)
    assert breaker.is_half_open
    assert breaker.open_until == 1002.0


def test_failures_of_what_was_out_before_a_rest_are_no_news():
    """Requests sent before it began neither make it longer nor end the run, however late they fail."""
    breaker = breaker_that_worked()
    for number in range(5):
        breaker.failed(BROKEN, f"r{number}", 1, 5.0, 10.0, is_overload=False)
    assert (breaker.is_half_open, breaker.open_until) == (True, 11.0)
    for now in (10.5, 30.0, 800.0):
        breaker.failed(BROKEN, f"late {now}", 1, 9.0, now, is_overload=False)
    assert breaker.open_until == 11.0


def test_rows_that_failed_together_do_not_come_back_together():
    """Nor where the server names no time: each waits a while of its own, half of the longest to all of it."""
    chat = ScriptedChat(itertools.chain([error(500, "server_error")] * 4, always(good())))
    Bench(chat, 4, concurrency=4).run()
    waits = [at - chat.sent_at[0] - 0.1 for at in chat.sent_at[4:]]
    assert len({round(wait, 3) for wait in waits}) == 4
    assert all(0.25 <= wait <= 0.5 for wait in waits)


def test_refusals_for_a_limit_do_not_use_up_a_rows_attempts():
    """Sixty a minute, nothing said but Retry-After, 32 at once: every row is answered in the end."""
    state = {"level": 0.0, "at": None}

    def post():
        now = asyncio.get_running_loop().time()
        state["level"] = min(1.0, state["level"] + (0 if state["at"] is None else now - state["at"]))
        state["at"] = now
        if state["level"] < 1:
            return error(429, "rate_limit_exceeded", {"retry-after": "1"})
        state["level"] -= 1
        return good()

    bench = Bench(ScriptedChat(always(post), latency_seconds=0.0), 200, concurrency=32, max_retries=3).run()
    assert bench.tally.answered == 200


def test_one_row_that_is_always_refused_does_not_stop_the_run():
    """A router's moderation gives 403 for one picture: that row fails, also on a resume it blocks nobody."""

    for concurrency in (1, 4):
        bench = Bench(Moderated(), 40, concurrency=concurrency, max_retries=8).run()
        assert bench.runner.stopped_by is None
        assert bench.tally.answered == 39
        assert bench.outcomes["r000002"].failure.kind == "no_permission"


@pytest.mark.parametrize(("answers_before", "failed"), [(0, 20), (30, 50)])
def test_every_row_failing_alike_stops_the_run(answers_before, failed):
    """A refusal in words that no table knows: 20 rows at the start, or 50 in a row, not 40,000."""
    refusal = error(400, "invalid_value", message="the sum is too large")
    bench = Bench(ScriptedChat(itertools.chain([good()] * answers_before, always(refusal))), 4000).run()
    assert f"{failed} rows in a row failed" in str(bench.runner.stopped_by)
    assert bench.tally.failed <= failed + 8


@pytest.mark.parametrize(
    ("stop_after_failures", "answers_before", "failed"),
    [(1, 0, 1), (5, 0, 2), (5, 9, 5), (0, 0, None), (0, 9, None)],
)
def test_after_how_many_failures_a_run_stops_is_a_setting(stop_after_failures, answers_before, failed):
    """So many in a row, two fifths of it before the first answer; with 0 the manifest is worked through."""
    script = itertools.chain(
        [good()] * answers_before, always(error(400, "invalid_value", message="too large"))
    )
    bench = Bench(ScriptedChat(script), 300, concurrency=1, stop_after_failures=stop_after_failures).run()
    if failed is None:
        assert (bench.runner.stopped_by, bench.tally.failed) == (None, 300 - answers_before)
    else:
        assert str(bench.runner.stopped_by).startswith(f"{failed} rows in a row failed")
        assert bench.tally.attempts == answers_before + failed


@pytest.mark.parametrize("concurrency", [1, 16])
def test_the_rows_that_made_a_run_stop_are_unfinished(concurrency):
    """The same command asks them again: they are not at fault. A failure from before the last answer stays one."""
    bad = error(400, "invalid_value", message="no good")
    script = itertools.chain([bad], [good()] * 40, always(bad))
    bench = Bench(ScriptedChat(script), 300, concurrency=concurrency, stop_after_failures=20).run()
    assert "--stop-after-failures 0" in str(bench.runner.stopped_by)
    assert [o.failure.kind for o in bench.outcomes.values() if o.failure] == ["bad_request"]
    assert (bench.tally.answered, bench.tally.failed, bench.tally.failures_by_kind) == (
        40,
        1,
        {"bad_request": 1},
    )


def test_answers_that_cannot_be_read_from_the_first_on_stop_soon():
    """Each is billed: the run does not wait for the end of an outage, and not a row fails for it."""
    chat = ScriptedChat(always(HttpAnswer(200, {}, b"<not json")))
    bench = Bench(chat, 300, concurrency=4, max_retries=8).run()
    assert bench.runner.stopped_by.kind == "broken_answer"
    assert len(chat.bodies) <= 6 + 4
    assert bench.tally.failed == 0


@pytest.mark.parametrize("retry_after", [None, "3"])
def test_nothing_but_refusals_is_said_and_ends(retry_after):
    """429, 503 and 401 in turns: the server's words within half a minute, again each ten minutes, and a stop after
    --max-outage that leaves every row."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    refusals = [
        error(429, "x", headers, "come back later"),
        error(503, "x", headers, "come back later"),
        error(529, "x", headers, "come back later"),
    ]
    script = itertools.chain([error(401, "x", headers, "come back later")], itertools.cycle(refusals))
    bench = Bench(ScriptedChat(script), 4000, max_outage=1500, max_retries=100).run()
    stopped_by = bench.runner.stopped_by
    assert "come back later" in str(stopped_by)
    assert "no answer for 1,5" in str(stopped_by) or "down for" in str(stopped_by)
    said = [line for line in bench.told if "come back later" in line]
    assert 1 <= len(said) <= 6
    assert bench.tally.failed == 0
    assert bench.seconds < 1700


def test_refusals_that_stand_are_in_the_state_of_the_endpoint():
    """For the bar, `status` and the debug log; gone with the next answer."""
    bench = Bench(ScriptedChat(always(error(429, "x", message="come back later"))), 10, max_outage=600)
    states = []

    async def go():
        async def look():
            while True:
                await asyncio.sleep(10)
                states.append(EndpointState.of(bench.endpoints[0], asyncio.get_running_loop().time()))

        watching = asyncio.create_task(look())
        await bench.go()
        watching.cancel()

    virtual_time.run(go())
    assert states[0].refusal is None
    assert "come back later" in states[4].refusal
    assert "come back later" in str(states[4])


def test_broken_pictures_in_any_number_stop_nothing():
    """They cost nothing, and a folder may hold many."""
    bench = Bench(ScriptedChat(always(good())), 100, row_errors=[f"r{n:06d}" for n in range(90)]).run()
    assert (bench.tally.answered, bench.tally.failed) == (10, 90)


def test_what_is_out_is_saved_when_something_unexpected_breaks():
    """A bug in preparing loses no answer that is on its way."""
    bench = Bench(ScriptedChat(always(good()), latency_seconds=5), 100)
    prepare = bench.prepare

    async def breaking(asked):
        if asked[0].id >= "r000030":
            await asyncio.sleep(1)
            raise ZeroDivisionError
        return await prepare(asked)

    bench.prepare = breaking
    with pytest.raises(BaseException):  # noqa: B017  an ExceptionGroup around it
        bench.run()
    assert len(bench.outcomes) == len(bench.chat.bodies) > 0


def test_unused_reservations_are_given_back():
    """Reserved 500, used 50: with settling the run takes a fraction of the time that the reservations would."""
    small = HttpAnswer(200, {}, completion("x", 40, 10))
    chat = ScriptedChat(always(small), latency_seconds=0.05)
    settled = Bench(chat, 1000, limiter=Limiter(60_000), charge="used").run()
    reserved = Bench(ScriptedChat(always(small)), 1000, limiter=Limiter(60_000), charge="reserved").run()
    assert settled.seconds < 0.25 * reserved.seconds


def test_prepared_bytes_are_bounded_and_given_back(monkeypatch):
    """With room for five pictures no more than that (and what is just being prepared) is held, and all get through."""
    monkeypatch.setattr("captionmill.wiring.prefetch.MOST_BYTES_HELD", 5 * len(PICTURE.base64))
    bench = Bench(ScriptedChat(always(good()), latency_seconds=1), 200, concurrency=32)
    bench.run()
    assert bench.tally.answered == 200
    assert bench.most_held <= 5 + 2 * 3 + 3
