"""Answers in odd HTTP, as bytes over the loopback: read where that is possible, else named for what they are and few."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pandas as pd
import pytest
from captionmill.jobs.__main__ import run_job
from commands import KEY, MODEL, captionmill, draw_pictures, results
from lying_server import LyingServer, http
from scripted_chat import completion

CAPTION = completion("a cat")
EVENTS = b"".join(
    b"data: " + json.dumps(event).encode() + b"\n\n"
    for event in (
        {"choices": [{"index": 0, "delta": {"content": "a "}}]},
        {"choices": [{"index": 0, "delta": {"content": "cat"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 400, "completion_tokens": 20, "total_tokens": 420}},
    )
)


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body + end


def short(body: bytes) -> bytes:
    """Announced longer than it is."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) + 9, body)


def caption(tmp_path: Path, server: LyingServer, *more: object):
    return captionmill("caption", "p", *MODEL, "-o", "run", *more, base_url=server.base_url, cwd=tmp_path)


@pytest.mark.parametrize(
    "wire",
    [
        http(CAPTION, headers="Content-Encoding: gzip\r\n"),
        http(CAPTION, headers="Content-Encoding: br\r\n"),
        http(CAPTION, headers="Content-Encoding: zstd\r\n"),
        http(gzip.compress(CAPTION), headers="Content-Encoding: gzip\r\n"),
        http(gzip.compress(CAPTION), headers="Content-Encoding: br\r\n"),
        http(zlib.compress(CAPTION)[2:-4], headers="Content-Encoding: deflate\r\n"),
        http(CAPTION, headers=f"X-Policy: {'p' * 20_000}\r\n"),
        http(CAPTION, "202 Accepted"),
        http(EVENTS + b"data: [DONE]\n\n", headers="Content-Type: text/event-stream\r\n"),
        chunked(EVENTS[:30], EVENTS[30:], b"data: [DONE]\n\n"),
        http(CAPTION + b"\ndata: [DONE]\n\n"),
        short(CAPTION),
    ],
)  # fmt: skip
def test_an_odd_wire_is_read(tmp_path, wire):
    """One request, one answer, its usage counted: nothing that arrived is thrown away."""
    draw_pictures(tmp_path / "p", 1)
    with LyingServer(lambda body, n: wire).open() as server:
        done = caption(tmp_path, server, "--read-timeout", 1)
        assert (done.returncode, server.requests) == (0, 1), done.stderr
    (row,) = results(tmp_path / "run").itertuples()
    assert (row.content, row.finish, row.total_tokens) == ("a cat", "stop", 420)


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nX-Odd : 1\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        http(b"hello " + KEY.encode()),
        http(b'{"half": "a", "key": "%b"' % KEY.encode()),
        http(b""),
    ],
)
def test_what_cannot_be_read_is_named_and_bounded(tmp_path, wire):
    """Three requests for a row, not nine; the failure has what came, without the key; the report has what it may cost."""
    draw_pictures(tmp_path / "p", 1)
    with LyingServer(lambda body, n: wire).open() as server:
        done = caption(tmp_path, server)
        assert server.requests == 3, done.stderr
    assert done.returncode == 1
    (row,) = pd.read_parquet(tmp_path / "run/failures.parquet").itertuples()
    assert row.error_kind in ("broken_answer", "empty_answer")
    assert "rules of HTTP" in row.error_message or "the server sent:" in row.error_message
    assert KEY not in done.stderr + row.error_message
    report = captionmill("report", "run", cwd=tmp_path).stdout
    assert "3 attempts" in report
    assert "may be billed, at most" in report


def test_empty_answers_are_seen_and_asked_again(tmp_path):
    """In summary, status, report and gallery; --retry-failed empty in a finished run replaces each of them once."""
    draw_pictures(tmp_path / "p", 6)
    blank = json.loads(completion(""))
    blank["choices"][0]["message"]["reasoning_content"] = "thinking, no caption"
    with LyingServer(
        lambda body, n: http(json.dumps(blank).encode() if n <= 2 else CAPTION)
    ).open() as server:
        done = caption(tmp_path, server)
        assert (done.returncode, server.requests) == (0, 6)
        assert "2 answers are empty" in done.stderr
        assert "--retry-failed empty" in done.stderr
        for command, words in (("status", "empty                2"), ("report", "2 answers have no caption")):
            assert words in captionmill(command, "run", cwd=tmp_path).stdout
        assert run_job("gallery", [str(tmp_path / "run")]) == 0
        assert "2 answers of the run are empty" in (tmp_path / "run/gallery/index.html").read_text()
        assert "thinking, no caption" in (tmp_path / "run/gallery/index.html").read_text()
        assert caption(tmp_path, server).returncode == 0
        assert server.requests == 6
        again = caption(tmp_path, server, "--retry-failed", "empty")
        assert (again.returncode, server.requests) == (0, 8), again.stderr
    table = results(tmp_path / "run")
    assert list(table["content"]) == ["a cat"] * 6
    assert table["reasoning"].isna().all()
    assert "2 empty" in captionmill("report", "run", cwd=tmp_path).stdout


def test_an_absurd_usage_is_marked_and_left_out(tmp_path):
    """10^9 tokens for one picture: in no sum, with no price, and said."""
    draw_pictures(tmp_path / "p", 6)
    absurd = completion("a cat", 10**9, 5)
    with LyingServer(lambda body, n: http(absurd if n > 2 else CAPTION)).open() as server:
        done = caption(tmp_path, server, "--concurrency", 1, "--tpm", 100_000)
    assert done.returncode == 0, done.stderr
    assert "more tokens are reported than such a request can have" in done.stderr
    table = results(tmp_path / "run")
    assert sorted(table["usage_source"]) == ["absurd"] * 4 + ["reported"] * 2
    assert table["prompt_tokens"].sum() == 800
    assert (
        "4 answers report more tokens than such a request can have"
        in captionmill("report", "run", cwd=tmp_path).stdout
    )


def test_status_shows_what_is_left_of_the_budget(tmp_path):
    """Each budget of the last start, and how much of it is left."""
    draw_pictures(tmp_path / "p", 2)
    with LyingServer(lambda body, n: http(CAPTION)).open() as server:
        budget = ("--budget-tokens", 5000, "--budget-requests", 10, "--budget-usd", 1, "--max-tokens", 50)
        assert caption(tmp_path, server, *budget).returncode == 0
    lines = [line.split() for line in captionmill("status", "run", cwd=tmp_path).stdout.splitlines()]
    assert [line[1:] for line in lines if line[0] == "budget"] == [
        ["$0.9976", "left", "of", "$1.0000"],
        ["4,160", "left", "of", "5,000", "tokens"],
        ["8", "left", "of", "10", "requests"],
    ]
    found = json.loads(captionmill("status", "run", "--json", cwd=tmp_path).stdout)["budget"]
    assert found["requests"] == {"of": "10", "left": "8"}


def test_new_prices_of_an_endpoint_are_used(tmp_path):
    """--reprice goes by the [[endpoint]] that answered, then by [prices]."""
    draw_pictures(tmp_path / "p", 2)
    with LyingServer(lambda body, n: http(CAPTION)).open() as server:
        assert caption(tmp_path, server).returncode == 0
    entry = f'[[endpoint]]\nbase_url = "{server.base_url}"\nprice = {{ input = 1000, output = 0 }}\n'
    (tmp_path / "new.toml").write_text(entry + '[prices."gpt-4o"]\ninput = 1\noutput = 1\n')
    done = captionmill("report", "run", "--reprice", "--config", "new.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(json.loads(done.stdout)["total"]["cost"]) == pytest.approx(0.8)
