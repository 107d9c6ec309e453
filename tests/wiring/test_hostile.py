"""Lying servers and bad days, against the real command: nothing lost, no traceback, the right exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.jobs.__main__ import run_job
from commands import (
    KEY,
    MODEL,
    captionmill,
    command,
    draw_pictures,
    environment,
    results,
    start,
    stats,
    wait_for_answers,
    wait_for_live,
)
from lying_server import LyingServer, http
from scripted_chat import completion


def caption(folder: Path, server: LyingServer, *more: object) -> subprocess.CompletedProcess[str]:
    done = captionmill("caption", "p", *MODEL, "-o", "run", *more, base_url=server.base_url, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def usage(**counts: object) -> dict:
    return json.loads(completion()) | {"usage": counts}


@pytest.mark.parametrize(
    "odd",
    [
        usage(prompt_tokens=9 * 10**15, completion_tokens=5, total_tokens=1),
        usage(prompt_tokens=9e18, completion_tokens=9e18),
        usage(prompt_tokens=-5, completion_tokens="many"),
        json.loads(completion()) | {"created": 10**30},
        json.loads(
            completion(choices=[{"index": 3_000_000_000, "message": {"content": "a"}}, {"index": -(2**62)}])
        ),
        json.loads(completion(choices=[{"index": 0, "message": {"content": "half \ud83d of\u0000 it"}}])),
    ],
)
def test_one_odd_answer_does_not_block_the_dataset(tmp_path, odd):
    """Numbers beyond every column, half an emoji: the row is kept, and so are all the others."""
    draw_pictures(tmp_path / "p", 12)
    lying = LyingServer(lambda body, n: http(json.dumps(odd).encode() if n == 3 else completion()))
    with lying.open() as server:
        done = caption(tmp_path, server, "--rows-per-part", 4)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "run")) == 12


def test_a_usage_of_zeros_is_no_usage(tmp_path):
    """A relay that counted nothing gives no tokens and no price, and its zeros do not refund the limit."""
    draw_pictures(tmp_path / "p", 3)
    zeros = json.dumps(usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)).encode()
    with LyingServer(lambda body, n: http(zeros)).open() as server:
        assert caption(tmp_path, server).returncode == 0
    table = results(tmp_path / "run")
    assert set(table["usage_source"]) == {"missing"}
    assert table["cost_usd"].isna().all()
    assert table["prompt_tokens"].isna().all()


def test_a_paid_but_empty_answer_is_not_bought_again(tmp_path):
    """Its prompt was counted: it is an answer, however useless."""
    draw_pictures(tmp_path / "p", 2)
    with LyingServer(lambda body, n: http(completion("", 400, 0))).open() as server:
        assert caption(tmp_path, server).returncode == 0
        assert server.requests == 2


ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)


@pytest.mark.parametrize(
    "wire",
    [
        http(json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), "400 Bad Request"),
        http(b'{"error":{"message":"bad key %b"}}' % ESCAPED.encode(), "400 Bad Request"),
        http(completion("@").replace(b"@", ESCAPED.encode())),
        http(json.dumps(json.loads(completion(f"your key is {KEY}"))).encode("utf-16-le")),
        f"HTTP/1.1 200 OK\r\nX-Echo \0{KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 2x0 {KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
        http(b"", "302 Found", f"Location: http://else.test/?key={KEY}\r\n"),
    ],
)
def test_a_server_that_repeats_the_key_gives_it_to_nobody(tmp_path, capsys, wire):
    """In whatever disguise it comes back: not on the terminal, in no file, in no column."""
    draw_pictures(tmp_path / "p", 2)
    with LyingServer(lambda body, n: wire).open() as server:
        done = caption(tmp_path, server, "--max-retries", 0, "--debug-log", "log")
    for job in ("report", "gallery", "status"):
        assert run_job(job, [str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert KEY not in done.stdout + done.stderr + said.out + said.err
    assert (tmp_path / "log").exists() and (tmp_path / "run/report.html").exists()
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []
    for table in ("results", "failures.parquet"):
        assert KEY not in pd.read_parquet(tmp_path / "run" / table).to_string()


@pytest.mark.slow
def test_the_key_is_not_in_the_state_of_a_run_that_goes_on(tmp_path):
    """An endpoint that repeats it is disabled with its own words: neither `status` nor the file behind it has the key."""
    draw_pictures(tmp_path / "p", 60)
    repeats = http(json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), "401 Unauthorized")
    with (
        LyingServer(lambda body, n: repeats).open() as server,
        serving(EndpointSettings(latency_seconds=0.5)) as url,
    ):
        entries = (f'[[endpoint]]\nbase_url = "{each}"\n' for each in (server.base_url, url))
        (tmp_path / "run.toml").write_text("\n".join(entries))
        arguments = ("caption", "p", *MODEL, "-o", "run", "--config", "run.toml")
        running = start(*arguments, cwd=tmp_path)
        wait_for_live(tmp_path / "run", lambda endpoint: endpoint["disabled"] is not None)
        state = (tmp_path / "run/.live.json").read_text()
        status = captionmill("status", "run", cwd=tmp_path)
        running.terminate()
        output, _ = running.communicate(timeout=30)
    assert "bad key [key]" in state
    assert KEY not in state + status.stdout + output


def test_a_short_key_does_not_eat_captions(tmp_path):
    """Ollama users write `any` or `x`: such words stay in the answers and in the errors."""
    draw_pictures(tmp_path / "p", 1)
    with LyingServer(lambda body, n: http(completion("Many people in any company"))).open() as server:
        captionmill(
            "caption", "p", *MODEL, "-o", "run", base_url=server.base_url, cwd=tmp_path, OPENAI_API_KEY="any"
        )
    assert list(results(tmp_path / "run")["content"]) == ["Many people in any company"]
    draw_pictures(tmp_path / "p", 2)
    busy = json.dumps({"error": {"message": "Too many words from your company"}}).encode()
    with LyingServer(lambda body, n: http(busy, "400 Bad Request")).open() as server:
        done = captionmill(
            "caption", "p", *MODEL, "-o", "run", base_url=server.base_url, cwd=tmp_path, OPENAI_API_KEY="any"
        )
    assert "Too many words from your company" in done.stderr
    (message,) = pd.read_parquet(tmp_path / "run/failures.parquet")["error_message"]
    assert "Too many words from your company" in message


def test_headers_that_lie(tmp_path):
    """A limit of 1, NaN, 1e400, a date beyond all calendars: the run goes on and every row is answered."""
    draw_pictures(tmp_path / "p", 8)
    lies = [
        "x-ratelimit-limit-tokens: 1\r\nx-ratelimit-remaining-tokens: 0\r\n",
        "x-ratelimit-limit-requests: nan\r\nx-ratelimit-remaining-requests: 1e400\r\n",
        "x-ratelimit-limit-tokens: 5m\r\nx-ratelimit-remaining-tokens: -7\r\n",
    ]
    late = "Retry-After: 0\r\nDate: Mon, 01 Jan 2024 00:00:00 +99999999999999999999\r\n"

    def answer(_body: bytes, number: int) -> bytes:
        if number == 2:
            return http(b"{}", "429 Too Many Requests", late)
        return http(completion(), headers=lies[1 + number % 2])

    with LyingServer(answer).open() as server:
        assert caption(tmp_path, server).returncode == 0
    assert len(results(tmp_path / "run")) == 8


def test_an_outage_is_sat_out(tmp_path):
    """The server goes away in the middle for some seconds and comes back: every row answered, none failed."""
    draw_pictures(tmp_path / "p", 60)
    slow = LyingServer(lambda body, n: time.sleep(0.05) or http(completion()))  # its own thread
    with slow.open() as server:
        running = start("caption", "p", *MODEL, "-o", "run", base_url=server.base_url, cwd=tmp_path)
        deadline = time.monotonic() + 30
        while server.requests < 15:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    wait_for_live(tmp_path / "run", lambda endpoint: endpoint["is_probing"])  # real sockets are refused
    with slow.open():
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert len(results(tmp_path / "run")) == 60
    assert len(pd.read_parquet(tmp_path / "run/failures.parquet")) == 0


@pytest.mark.slow
def test_refusals_without_a_word_of_the_limit_fail_no_row(tmp_path):
    """429 for two of three requests, no headers but Retry-After: it takes longer, nothing more."""
    draw_pictures(tmp_path / "p", 12)

    def answer(_body: bytes, number: int) -> bytes:
        return http(completion()) if number % 3 == 0 else http(b"{}", "429 Too Many", "Retry-After: 0.01\r\n")

    with LyingServer(answer).open() as server:
        assert caption(tmp_path, server, "--max-retries", 2, "--concurrency", 8).returncode == 0
    assert len(results(tmp_path / "run")) == 12


def with_open_files(
    soft: int, hard: int, folder: Path, url: str, *more: object
) -> subprocess.CompletedProcess[str]:
    """The command where so many files may be open."""
    limits = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    line = ["bash", "-c", limits, "bash", *command("caption", "p", *MODEL, "-o", "run", *more)]
    return subprocess.run(
        line, env=environment(url), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
def test_few_open_files(tmp_path):
    """The soft limit is raised; where the hard one is too low, fewer are sent at once, or a given number is refused."""
    draw_pictures(tmp_path / "p", 200)
    with serving(EndpointSettings(latency_seconds=0.1)) as url:
        refused = with_open_files(40, 90, tmp_path, url, "--concurrency", 128)
        assert refused.returncode == 2
        assert "128 requests in flight need 192 open files and this system allows 90" in refused.stderr
        fewer = with_open_files(40, 90, tmp_path, url, "--limit", 100)
        assert fewer.returncode == 0, fewer.stderr
        assert "at most 26 requests in flight" in fewer.stderr
        raised = with_open_files(40, 2000, tmp_path, url, "--concurrency", 128)
        assert raised.returncode == 0, raised.stderr
    assert len(results(tmp_path / "run")) == 200


# ------------------------------------------------------------------------------- the folder


def test_two_sources_never_share_a_run(tmp_path):
    """a/photos and b/photos have the same default name and may hold the same file names."""
    draw_pictures(tmp_path / "a/p", 2)
    draw_pictures(tmp_path / "b/p", 3)
    with serving(EndpointSettings()) as url:
        captionmill("caption", "a/p", *MODEL, base_url=url, cwd=tmp_path)
        second = captionmill("caption", "b/p", *MODEL, base_url=url, cwd=tmp_path)
        assert second.returncode == 2
        assert f"holds answers for {tmp_path}/a/p, this is {tmp_path}/b/p" in second.stderr
        assert stats(url)["answers"] == 2
        (tmp_path / "a/p").rename(tmp_path / "elsewhere")
        moved = captionmill(
            "caption", "elsewhere", *MODEL, "-o", "p-captions", "--moved", base_url=url, cwd=tmp_path
        )
    assert moved.returncode == 0
    assert "finished before" in moved.stderr


def test_a_row_that_changed_under_its_id_is_said(tmp_path):
    """The old answer stays, and the summary names the row."""
    draw_pictures(tmp_path / "p", 2)
    with serving(EndpointSettings()) as url:
        for image in ("0", "1"):
            (tmp_path / "m.csv").write_text(f"id,image\nA,p/{image}.png\n")
            done = captionmill("caption", "m.csv", *MODEL, base_url=url, cwd=tmp_path)
    assert done.returncode == 0
    assert "1 rows changed since they were answered" in done.stderr
    assert "(A)" in done.stderr


def test_a_typo_in_the_first_start_binds_nobody(tmp_path):
    """While nothing was answered, settings may change."""
    draw_pictures(tmp_path / "p", 4)
    with serving(EndpointSettings(models=("gpt-4o",))) as url:
        assert captionmill("caption", "p", "--model", "gpt-5o", base_url=url, cwd=tmp_path).returncode == 3
        assert captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path).returncode == 0


def damage_truncated_part(run: Path) -> None:
    part = run / "results/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])


def damage_empty_journal(run: Path) -> None:
    for name in ("journal.sqlite-wal", "journal.sqlite-shm"):
        (run / name).unlink(missing_ok=True)
    (run / "journal.sqlite").write_bytes(b"")


def damage_journal_page(run: Path) -> None:
    data = bytearray((run / "journal.sqlite").read_bytes())
    data[4096 : 4096 + 4096] = os.urandom(4096)
    (run / "journal.sqlite").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (damage_truncated_part, 3),
        (damage_empty_journal, 3),
        (damage_journal_page, 3),
        (lambda run: (run / "run.json").unlink(), 3),
        (lambda run: (run / "run.json").write_bytes(b"\xff"), 3),
        (lambda run: (run / "run.json").write_text('{"schema_version":1,"answer_settings":null}'), 3),
    ],
)
def test_a_damaged_run_is_refused_not_paid_again(tmp_path, damage, code):
    """A part cut short, an emptied journal, a lost run.json: said with the file, nothing sent."""
    draw_pictures(tmp_path / "p", 8)
    with serving(EndpointSettings()) as url:
        arguments = ("caption", "p", *MODEL, "-o", "run", "--rows-per-part", 4)
        assert captionmill(*arguments, base_url=url, cwd=tmp_path).returncode == 0
        damage(tmp_path / "run")
        done = captionmill(*arguments, base_url=url, cwd=tmp_path)
        assert stats(url)["answers"] == 8
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert str(Path("run")) in done.stderr


def test_a_run_folder_that_goes_away_stops_the_run(tmp_path):
    """Deleted in the middle: the next commit notices, and no more is paid for."""
    draw_pictures(tmp_path / "p", 300)
    with serving(EndpointSettings(latency_seconds=0.3)) as url:
        running = start("caption", "p", *MODEL, "-o", "run", "--concurrency", 4, base_url=url, cwd=tmp_path)
        wait_for_answers(url, 8)
        shutil.rmtree(tmp_path / "run")
        output, _ = running.communicate(timeout=60)
        assert stats(url)["answers"] < 40
    assert running.returncode == 3, output
    assert "has gone" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="needs a small file system of its own"
)
def test_a_full_disk_keeps_what_is_in_memory(tmp_path):
    """Nothing is sent while the journal cannot grow; with room again the run goes on and loses nothing."""
    draw_pictures(tmp_path / "p", 600)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", disk], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        with serving(EndpointSettings(keeps_ledger=True)) as url:
            running = start(
                "caption", "p", *MODEL, "-o", disk / "run", "--concurrency", 8, base_url=url, cwd=tmp_path
            )
            deadline, before = time.monotonic() + 40, -1
            while stats(url)["answers"] != before or before < 20:  # until it stands still
                assert time.monotonic() < deadline
                before = stats(url)["answers"]
                time.sleep(1.0)
            assert before < 600
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            output, _ = running.communicate(timeout=60)
            assert running.returncode == 0, output
            assert len(results(disk / "run")) == stats(url)["answers"] == 600
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


# ------------------------------------------------------------------------------- the command line


def test_what_cannot_be_a_run_folder_or_a_source(tmp_path):
    """A file, a name that is too long, a link to itself, bytes that are no text: exit 2, one line, nothing sent."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for arguments in (
        ("p", "-o", "file"),
        ("p", "-o", "x" * 300),
        ("p", "-o", os.fsdecode(b"bad\xff")),
        ("x" * 300,),
        ("loop",),
        ("p", "--base-url", "http://127.0.0.1:99999"),
        ("p", "--base-url", "http://127.0.0.1:abc"),
        ("p", "--max-tokens", "99999999999999999999"),
        ("p", "--timeout", "inf"),
        (),
    ):
        done = captionmill("caption", *arguments, *MODEL, base_url="http://127.0.0.1:9", cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_odd_names_in_a_folder(tmp_path):
    """[x].jpg is a path and no JSON list; a link to itself is one failed row."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "p/0.png").rename(tmp_path / "p/[Group] cover.png")
    (tmp_path / "p/self.jpg").symlink_to(tmp_path / "p/self.jpg")
    with serving(EndpointSettings()) as url:
        done = captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert list(results(tmp_path / "p-captions")["id"]) == ["[Group] cover.png"]


def test_an_id_with_a_null_character_is_refused(tmp_path):
    """SQLite would cut it, and the row would be paid for at every start."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "m.jsonl").write_text('{"id": "a\\u0000b", "image": "p/0.png"}\n')
    done = captionmill("caption", "m.jsonl", *MODEL, base_url="http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2
    assert "m.jsonl:1: the `id` holds a NUL character" in done.stderr


def test_a_kind_that_no_row_failed_with(tmp_path):
    """--retry-failed with a typo is said, with the kinds there are; a path after it is the source."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "p/bad.jpg").write_bytes(b"\xff\xd8\xff")
    with serving(EndpointSettings()) as url:
        captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        typo = captionmill("caption", "p", *MODEL, "--retry-failed", "timout", base_url=url, cwd=tmp_path)
        swapped = captionmill("caption", "--retry-failed", "p", *MODEL, base_url=url, cwd=tmp_path)
    assert typo.returncode == 2
    assert "image_format (1)" in typo.stderr
    assert swapped.returncode == 1


def test_a_closed_output_does_not_end_a_run(tmp_path):
    """`captionmill caption ... 2>&1 | true`: the run goes on to its end."""
    draw_pictures(tmp_path / "p", 10)
    with serving(EndpointSettings()) as url:
        line = " ".join([*command("caption", "p", *MODEL, "-o", "run")]) + " 2>&1 | true"
        subprocess.run(
            ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], env=environment(url), cwd=tmp_path, check=True
        )
    assert len(results(tmp_path / "run")) == 10
    helped = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m captionmill --help | head -1"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert helped.stderr == ""


def test_the_dataset_has_its_columns_from_the_first_moment(tmp_path):
    """Before the first part there are no rows, but pandas finds every column."""
    draw_pictures(tmp_path / "p", 30)
    with serving(EndpointSettings(latency_seconds=0.5)) as url:
        running = start("caption", "p", *MODEL, "-o", "run", "--concurrency", 2, base_url=url, cwd=tmp_path)
        wait_for_answers(url, 1)
        table = pd.read_parquet(tmp_path / "run/results")
        assert {"id", "content", "finish", "total_tokens", "cost_usd"} <= set(table.columns)
        running.terminate()
        running.communicate(timeout=30)


def test_no_pandas_on_the_caption_path(tmp_path):
    """Half a second of import that captioning does not need."""
    draw_pictures(tmp_path / "p", 3)
    code = (
        "import sys; from captionmill.jobs.__main__ import main; main(sys.argv[1:]);"
        "print(sorted({'pandas', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    with serving(EndpointSettings()) as url:
        done = subprocess.run(
            [sys.executable, "-c", code, "caption", "p", *MODEL],
            env=environment(url), cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
