"""Whatever a server answers and whatever a manifest holds: a row, a named failure, or one clear line. Never a traceback.

Answers go through a whole run (virtual time, then real HTTP), manifests through everything that a row meets: reading,
pictures, the journal's record, the Parquet part.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError, UsageError
from captionmill.nouns.rows import HttpAnswer, Outcome, Row
from captionmill.pictures.prepare import PicturePreparer
from captionmill.rules.request import RequestBuilder
from captionmill.sources.manifest import Manifest
from captionmill.store import parts
from captionmill.vision.sizes import picture_bounds
from commands import KEY, MODEL, captionmill, draw_pictures, results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lying_server import LyingServer
from scripted_chat import ScriptedChat, completion, good

CONFIG = RunConfig(model="gpt-4o")


def some(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# ------------------------------------------------------------------------------- answers

long = st.sampled_from(["x", "[", "9"]).flatmap(
    lambda letter: st.sampled_from([300, 5000]).map(lambda n: letter * n)
)
text = st.text(max_size=12) | st.sampled_from(["\ud83d", "\0", "rate_limit", "额度", "1e999"]) | long
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63, -(2**63), 0, -1])
    | st.just(400).map(lambda digits: 10**digits)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
deep = st.sampled_from([100, 300, 600, 900]).map(lambda depth: json.loads("[" * depth + "]" * depth))
PLACES = (
    ("id",), ("created",), ("model",), ("usage",), ("error",), ("choices",), ("system_fingerprint",),
    ("usage", "prompt_tokens"), ("usage", "completion_tokens"), ("usage", "total_tokens"), ("usage", "prompt_tokens_details"),
    ("choices", 0), ("choices", 0, "index"), ("choices", 0, "message"), ("choices", 0, "finish_reason"),
    ("choices", 0, "logprobs"), ("choices", 0, "message", "content"), ("choices", 0, "message", "tool_calls"),
    ("choices", 0, "message", "refusal"),
)  # fmt: skip
ERROR_FIELDS = (
    "error",
    "message",
    "type",
    "code",
    "param",
    "status",
    "detail",
    "details",
    "metadata",
    "innererror",
    "msg",
)


@st.composite
def odd_completions(draw: st.DrawFn) -> bytes:
    """A good answer with up to three fields replaced by anything."""
    content = json.loads(completion("a cat"))
    for place in draw(st.lists(st.sampled_from(PLACES), max_size=3)):
        target = content
        for step in place[:-1]:
            target = (
                target[step]
                if isinstance(target, dict) and step in target
                else (target[0] if target and isinstance(target, list) else None)
            )
        if isinstance(target, dict):
            target[place[-1]] = draw(values | deep)
        elif isinstance(target, list) and target:
            target[0] = draw(values)
    return json.dumps(content).encode()


bodies = st.one_of(
    odd_completions(),
    st.dictionaries(st.sampled_from(ERROR_FIELDS), values | deep, max_size=4)
    .flatmap(lambda inner: st.sampled_from([inner, {"error": inner}, [{"error": inner}]]))
    .map(lambda content: json.dumps(content).encode()),
    st.binary(max_size=60),
    st.sampled_from([b"", b"null", b"[]", b"<html>", completion()[:90]]),
    long.map(lambda text: b'{"choices":' + text.encode() + b"}"),
    odd_completions().flatmap(lambda body: st.integers(0, len(body)).map(lambda cut: body[:cut])),
)
HEADER_NAMES = (
    "retry-after", "retry-after-ms", "date", "location", "content-type", "x-should-retry", "x-oneapi-request-id",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
)  # fmt: skip
header_values = st.text(st.characters(codec="latin-1", categories=("L", "N", "P", "Zs")), max_size=20) | st.sampled_from(
    ["0", "-1", "1", "nan", "inf", "1e400", "9" * 400, "6m0s", "1m26.4s", "٣", "²", "Fri, 31 Dec 9999 23:59:59 GMT",
     "Mon, 01 Jan 2024 00:00:00 +9999", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "46s", "0.0000001", "1_0"]
)  # fmt: skip
headers = st.dictionaries(st.sampled_from(HEADER_NAMES), header_values, max_size=4)
statuses = st.sampled_from(
    [200, 200, 200, 201, 204, 302, 400, 401, 402, 403, 404, 408, 413, 429, 429, 500, 502, 503, 524, 529, 999]
)


def check_run(answers: list[HttpAnswer]) -> None:
    """Every row ends answered or failed, or the run stops with a word; what is recorded fits into a part."""
    bench = Bench(
        ScriptedChat(itertools.chain(answers, itertools.repeat(good()))), 12, concurrency=3, max_retries=2
    ).run()
    tally = bench.tally
    assert tally.answered + tally.failed == 12 or bench.runner.stopped_by is not None
    records = [parts.to_record(outcome, "gpt-4o") for outcome in bench.outcomes.values()]
    assert parts.to_table(records).num_rows == tally.answered + tally.failed


@given(st.lists(st.builds(HttpAnswer, statuses, headers, bodies), min_size=1, max_size=12))
@some(60)
def test_no_answer_crashes_a_run(answers):
    """Odd completions, errors in every envelope, noise, half bodies, headers of every sort."""
    check_run(answers)


@pytest.mark.slow
@given(st.lists(st.builds(HttpAnswer, statuses, headers, bodies), min_size=1, max_size=12))
@some(2000)
def test_no_answer_of_thousands_crashes_a_run(answers):
    """The same, for longer."""
    check_run(answers)


# ------------------------------------------------------------------------------- manifests

cells = text | st.sampled_from(
    [
        "p/0.png",
        "../x.png",
        "a\0b.png",
        "p",
        "",
        "[",
        '["p/0.png","p/1.png"]',
        "http://[",
        "x" * 300,
        "{",
        "{{a}}",
        "CON",
    ]
)
columns = st.sampled_from(
    ["id", "image", "images", "file_name", "path", "prompt", "category", "a\0b", "\ud800", ""]
)


@st.composite
def csv_bytes(draw: st.DrawFn) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])))
    writer.writerow(["image", *draw(st.lists(columns, max_size=3, unique=True))])
    for row in draw(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=4)):
        writer.writerow(row)
    return file.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")


json_cells = cells | values | st.lists(cells, max_size=3) | deep
json_rows = st.dictionaries(columns, json_cells, max_size=3).flatmap(
    lambda row: st.builds(
        lambda image: row | {"image": image}, cells | st.lists(cells, min_size=1, max_size=3) | values
    )
)
jsonl_bytes = st.lists(json_rows.map(json.dumps) | st.text(max_size=20), max_size=4).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)
_NOW = datetime.datetime(2026, 1, 1)
ODD_COLUMNS = [
    pa.array([b"\xff\xfe", None]), pa.array([1, 2**62]), pa.array([1.5, float("nan")]), pa.array([True, None]),
    pa.array([_NOW, None], pa.timestamp("ns")), pa.array([2**45, -(2**45)], pa.timestamp("s")),
    pa.array([2**62, 0], pa.timestamp("us", "UTC")), pa.array([0, 1], pa.timestamp("ms", "Mars/Olympus")),
    pa.array([2**31 - 1, 0], pa.date32()), pa.array([2**40, 0], pa.duration("s")), pa.array([[], None], pa.list_(pa.null())),
    pa.array([None, None], pa.null()), pa.array(["p/0.png", "p/1.png"]).dictionary_encode(),
    pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())), pa.array([[(b"\xff", 1)], []], pa.map_(pa.binary(), pa.int8())),
    pa.array([{"a": "p/0.png"}, {"a": None}]), pa.array([["p/0.png"], ["p/1.png", "p/0.png"]]),
    pa.array([b"p/0.png", b"\xff"]).view(pa.string()), pa.array(["p/0.png", "missing.png"]), pa.array(["1", "2"]),
    pa.array(["1", "1"]), pa.array([1, 2], pa.decimal128(38, 10)), pa.array([1, 2], pa.time64("ns")),
]  # fmt: skip


@st.composite
def parquet_bytes(draw: st.DrawFn) -> bytes:
    names = [
        "image",
        *draw(
            st.lists(st.sampled_from(["id", "prompt", "category", "images", "path"]), max_size=3, unique=True)
        ),
    ]
    table = pa.table({name: draw(st.sampled_from(ODD_COLUMNS)) for name in names})
    file = io.BytesIO()
    pq.write_table(table, file)
    raw = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 3)) if draw(st.booleans()) else 0):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 5)) == 5 else raw)


manifests = st.one_of(
    st.tuples(st.just(".csv"), csv_bytes() | st.binary(max_size=60)),
    st.tuples(st.just(".jsonl"), jsonl_bytes | st.binary(max_size=60)),
    st.tuples(st.just(".parquet"), parquet_bytes()),
)


def check_manifest(folder: Path, name: str, content: bytes, prompt: str) -> None:
    """One line that says what is wrong; or rows whose pictures are prepared or refused, and which fit into a part."""
    path = folder / f"m{name}"
    path.write_bytes(content)
    manifest = Manifest(path, prompt)
    try:
        survey = manifest.survey()
    except UsageError as error:
        assert str(error)
        return
    try:
        rows = list(manifest.rows())
    except (
        UsageError
    ) as error:  # the survey leaves out columns of picture bytes: damage in one stops the run, resumable
        assert name == ".parquet"
        assert str(path) in str(error)
        return
    assert len(rows) == survey.total == len({row.id for row in rows})
    records = [_record(row) for row in rows]
    assert parts.to_table(records)["id"].to_pylist() == [row.id for row in rows]


def _record(row: Row) -> str:
    preparer = PicturePreparer(CONFIG, picture_bounds(CONFIG))
    try:
        pictures = preparer.prepare_row(row)
    except RowError:
        return parts.to_record(Outcome(row, 1.0, 2.0, 0), "gpt-4o")
    RequestBuilder(CONFIG, "gpt-4o").build(row, pictures)
    return parts.to_record(Outcome(row, 1.0, 2.0, 1, pictures=pictures), "gpt-4o")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    draw_pictures(folder / "p", 2)
    return folder


prompts = st.sampled_from(["p", "{category} {a}", "{", '{"a": {category}}', "{{category}} {category}", "{}"])


@given(manifests, prompts)
@some(120)
def test_no_manifest_crashes_a_run(folder, manifest, prompt):
    """CSV, JSONL and Parquet of every type, whole and damaged."""
    check_manifest(folder, *manifest, prompt)


@pytest.mark.slow
@given(manifests, prompts)
@some(4000)
def test_no_manifest_of_thousands_crashes_a_run(folder, manifest, prompt):
    """The same, for longer."""
    check_manifest(folder, *manifest, prompt)


# ------------------------------------------------------------------------------- over real HTTP


def odd_answer(chance: random.Random) -> bytes:
    """What goes over the wire: mostly something like HTTP."""
    body = chance.choice(
        [completion(), completion()[: chance.randint(0, 300)], b"", b"<html>", chance.randbytes(50), b"[" * 5000,
         json.dumps({"error": {"message": chance.choice(["x", None, 5, ["y"], f"no key {KEY}"]), "code": chance.choice([None, 1, "rate_limit"])}}).encode(),
         json.dumps(json.loads(completion()) | {chance.choice(["usage", "choices", "id", "created"]): chance.choice([None, [], {}, "x", 10**30])}).encode()]
    )  # fmt: skip
    status = chance.choice(
        ["200 OK"] * 6 + ["400 Bad", "429 Slow", "500 Broken", "503", "302 There", "200", "abc", "99 Odd"]
    )
    length = chance.choice([len(body)] * 8 + [0, len(body) // 2, -1, 2**70])
    more = chance.choice(
        ["", "", "Retry-After: 0\r\n", "Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n", "Content-Type: ;;\r\n", "X: " + "y" * 9000 + "\r\n",
         "Transfer-Encoding: chunked\r\n", "Content-Type: text/html; charset=none\r\n", "Location: \r\n", "Set-Cookie: a\r\n", ": \r\n", "X\r\n", "Connection: close\r\n"]
    )  # fmt: skip
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n".encode() + body


def run_against_odd_answers(folder: Path, seed: int) -> None:
    """Most answers are good, so that it goes on; the others anything, the key in their words too. Exit 0, 1 or 3, what is
    there can be read, and the key stands in no file, log, column or page."""
    chance, good_answer = (
        random.Random(seed),
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(completion()) + completion(),
    )
    draw_pictures(folder / "p", 40)
    with LyingServer(
        lambda body, n: odd_answer(chance) if chance.random() < 0.5 else good_answer
    ).open() as server:
        done = captionmill(
            "caption", "p", *MODEL, "-o", "run", "--concurrency", 8, "--max-retries", 2, "--timeout", 2, "--read-timeout", 0.5,
            "--max-wait", 1, "--debug-log", "log", "--rows-per-part", 7, base_url=server.base_url, cwd=folder,
        )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    assert "Traceback" not in done.stderr + (folder / "log").read_text(), seed
    assert results(folder / "run")["id"].is_unique
    for command in ("report", "gallery"):
        shown = captionmill(command, "run", cwd=folder)
        assert (shown.returncode, KEY in shown.stdout + shown.stderr) == (0, False), seed
    assert KEY not in done.stdout + done.stderr
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == [], seed
    assert captionmill("status", "--check", "run", cwd=folder).returncode == 0


def test_odd_answers_over_the_wire(tmp_path):
    """The real command against a server whose every second answer is odd."""
    run_against_odd_answers(tmp_path, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_more_odd_answers_over_the_wire(tmp_path, seed):
    """Ten more of them."""
    run_against_odd_answers(tmp_path, seed)
