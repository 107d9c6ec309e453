"""A refusal, read right: strays, limits of the rate and requests at once, on servers without asyncio."""

from __future__ import annotations

import os
import statistics

import pytest
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.error_table import named_limit, read_error
from scripted_chat import error
from simulated_servers import BucketLimit, Server, WindowLimit, flow_control, simulate

SEEDS = int(os.environ.get("CAPTIONMILL_SEEDS", "8"))  # 64 for the figures in docs/limits.md: half an hour
QUICK_SEEDS = 3

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
AT_ONCE = (16, 64, 256)
LATENCIES = (0.05, 1.0, 8.0)


def slowdowns(share: float, at_once: int, latency: float, seeds: int) -> tuple[list[float], list[float]]:
    """Times of runs with strays, of what the same run takes without; refusals, of the share."""
    rows = max(1500, int(10 * at_once / latency))
    bound = simulate(Server(latency=latency), rows, at_once).seconds
    runs = [
        simulate(Server(latency=latency, share=share), rows, at_once, seed, most_seconds=30 * bound)
        for seed in range(1, seeds + 1)
    ]
    return (
        [run.seconds / bound for run in runs],
        [len(run.refused) / run.admissions / share for run in runs],
    )


def strays_are_ignored(share: float, at_once: int, latency: float, seeds: int) -> tuple[bool, str]:
    """Whether the law holds, and the figures."""
    times, refusals = slowdowns(share, at_once, latency, seeds)
    median, worst, more = statistics.median(times), max(times), statistics.median(refusals)
    is_many = share == 0.2
    holds = median <= (1.3 if is_many else 1.1) and worst <= (2.0 if is_many else 1.6) and more <= 1.5
    return holds, f"median {median:.2f}, worst {worst:.2f} times as long, {more:.2f} times the share refused"


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(("at_once", "latency"), [(16, 1.0), (64, 1.0), (256, 8.0)])
def test_strays_slow_nothing(share, at_once, latency):
    """Refusals with no relation to our load, up to one in five: 1.1 times as long as without them, 1.3 at 20 %."""
    holds, figures = strays_are_ignored(share, at_once, latency, QUICK_SEEDS)
    assert holds, figures


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("latency", LATENCIES)
def test_strays_slow_nothing_at_any_seed(share, at_once, latency):
    """The same over many seeds, median and worst. Not met where it is marked: many strays, and answers within 50 ms."""
    holds, figures = strays_are_ignored(share, at_once, latency, SEEDS)
    if not holds and (share >= 0.1 or (latency == 0.05 and share >= 0.05)):
        pytest.xfail(figures)
    assert holds, figures


def used_and_refused(limits, seconds: float, seed: int) -> tuple[float, float]:
    """Of the tightest limit what was used after the first minute, and refusals of what was taken then."""
    server = Server(limits=limits, latency=1.0)
    run = simulate(server, 10**7, "auto", seed, most_seconds=seconds)
    used = max(
        run.taken_between(60, seconds, one.unit) / (one.per_minute / 60 * (seconds - 60)) for one in limits
    )
    return used, run.refused_between(60, seconds) / run.taken_between(60, seconds)


def limits_of(kind: str, unit: str, per_minute: float, *, counts_refused: bool = False) -> list:
    amount = per_minute * (500 if unit == "tokens" else 1)
    if kind.startswith("window"):
        return [WindowLimit(amount, float(kind[6:]), unit, counts_refused)]
    size = 1.0 if kind == "small" else 60.0
    return [BucketLimit(amount, size, unit, kind != "empty", counts_refused)]


@pytest.mark.parametrize("unit", ["tokens", "requests"])
@pytest.mark.parametrize("kind", ["full", "empty"])
@pytest.mark.parametrize("per_minute", [300, 1000])
def test_a_hidden_rate_is_used(kind, unit, per_minute):
    """A silent limit of tokens or of requests a minute: 96 % of it after the first minute, 2 % refused."""
    runs = [used_and_refused(limits_of(kind, unit, per_minute), 600, seed) for seed in (1, 2, 3)]
    assert statistics.median(used for used, _ in runs) >= 0.96
    assert statistics.median(refused for _, refused in runs) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["tokens", "requests"])
@pytest.mark.parametrize("kind", ["full", "empty", "small", "window10", "window60"])
@pytest.mark.parametrize("counts_refused", [False, True], ids=["free", "counted"])
@pytest.mark.parametrize("per_minute", [60, 300, 5000])
def test_a_hidden_rate_is_used_at_any_seed(kind, unit, counts_refused, per_minute):
    """The same over many seeds, small accounts and fixed windows too. Not met where it is marked."""
    limits = lambda: limits_of(kind, unit, per_minute, counts_refused=counts_refused)  # noqa: E731
    seeds = SEEDS if per_minute < 5000 else 8
    runs = [used_and_refused(limits(), 600, seed) for seed in range(1, seeds + 1)]
    used, refused = (statistics.median(values) for values in zip(*runs, strict=True))
    is_hard = kind in ("small", "window10", "window60") or per_minute in (60, 5000)
    if is_hard and (used < 0.96 or refused > 0.02):
        pytest.xfail(f"{100 * used:.1f} % used, {100 * refused:.1f} % refused")
    assert used >= 0.96
    assert refused <= 0.02


@pytest.mark.parametrize(("retry_after", "names"), [(None, None), (None, "at_once"), (60.0, "at_once")])
@pytest.mark.parametrize("most", [1, 2, 4, 8, 32])
def test_requests_at_once_are_used(most, retry_after, names):
    """So many at once, said or found, Retry-After 60 or none: 90 % of what they can do, 85 % where it must be found."""
    for seed in range(1, QUICK_SEEDS + 1):
        server = Server(at_once=most, retry_after=retry_after, names=names)
        rows = max(200, 60 * most)
        run = simulate(server, rows, "auto", seed, most_seconds=20 * rows / most)
        if most == 32 and names is None and rows / most / run.seconds < 0.9:
            pytest.xfail(f"seed {seed}: {rows / most / run.seconds:.2f} where nothing is said")
        assert rows / most / run.seconds >= (0.9 if names else 0.85)


def test_a_retry_after_that_is_not_so_is_said_once():
    """Pauses of 60 s though only the places are taken: said at most once, and every row is answered."""
    run = simulate(Server(at_once=4, retry_after=60.0), 4 * 600, "auto", most_seconds=10_000)
    assert len([note for note in run.notes if "asks for pauses" in note]) <= 1


@pytest.mark.parametrize(
    "server",
    [
        Server(limits=[BucketLimit(20.0, starts_full=True)]),
        Server(limits=[BucketLimit(300_000.0, unit="tokens")]),
        Server(limits=[WindowLimit(60.0)]),
        Server(at_once=2),
        Server(share=0.2, latency=1.0),
    ],
    ids=["bucket", "tokens", "window", "at once", "strays"],
)
def test_the_dispatcher_looks_a_bounded_number_of_times(server):
    """At most three looks for each thing that happens, and at most three wake-ups a second: nothing spins."""
    run = simulate(server, 10**6, "auto", most_seconds=120)
    happened = 2 * run.admissions + run.seconds
    assert run.looks <= 3 * happened
    assert run.wakes <= 3 * (run.seconds + run.admissions)


def test_what_limits_a_run_is_said():
    """In a few words: requests at once, a rate, or strays."""
    for server, words in (
        (Server(at_once=2, names="at_once"), "server takes 2 at once"),
        (Server(limits=[BucketLimit(300.0, starts_full=False)]), "limited by refusals"),
        (Server(share=0.2), "stray 429s ignored"),
    ):
        flow = flow_control(64)
        simulate(server, 10**6, 64, most_seconds=120, flow=flow)
        assert words in (flow.state(120.0).limited_by or "")
        assert flow.changes()


@pytest.mark.parametrize(
    ("message", "headers", "named"),
    [
        ("Limit type: max_parallel_requests. Current limit: 2, Remaining: 0", {}, "at_once"),
        ("too fast", {"rate_limit_type": "max_parallel_requests"}, "at_once"),
        ("too fast", {"rate_limit_type": "tokens"}, "tokens"),
        ("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000", {}, "tokens"),
        ("您已达到请求数限制：1分钟内最多请求60次", {}, "requests"),
        ("并发请求过多", {}, "at_once"),
        ("Crossed TPM / RPM / Max Parallel Request Limit", {}, None),
        ("slow down", {}, None),
    ],
)
def test_the_limit_that_a_refusal_names(message, headers, named):
    """LiteLLM's header and words, a provider's, a relay's; several at once name none."""
    answer: HttpAnswer = error(429, "rate_limit_exceeded", headers, message)
    assert read_error(answer).names == named
    assert named_limit(message.lower(), headers) == named
