"""The walks of the README, each once, whole: the real command against the built-in endpoint."""

from __future__ import annotations

import json
import re
import signal
import time

import pandas as pd
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from commands import (
    KEY,
    MODEL,
    captionmill,
    draw_pictures,
    results,
    start,
    stats,
    wait_for_answers,
    wait_for_live,
)


def test_walk_1_a_row(tmp_path):
    """A CSV row becomes one Parquet row: prompt filled, picture upright, answer, usage, cost, times."""
    draw_pictures(tmp_path / "images", 3)
    (tmp_path / "m.csv").write_text(
        "id,image,kind\na,images/0.png,red\nb,images/1.png,blue\nc,images/none.png,x\n"
    )
    with serving(EndpointSettings(keeps_ledger=True)) as url:
        done = captionmill(
            "caption", "m.csv", *MODEL, "--prompt", "A {kind} picture?", "--system", "Be brief.",
            "--max-tokens", 200, "--temperature", 0.2, "-o", "run", base_url=url, cwd=tmp_path,
        )  # fmt: skip
        assert stats(url)["answers"] == 2
    assert done.returncode == 1, done.stderr
    table = results(tmp_path / "run").set_index("id").sort_index()
    assert list(table.index) == ["a", "b"]
    row = table.loc["a"]
    assert (row["prompt"], json.loads(row["extra"]), list(row["image"])) == (
        "A red picture?", {"kind": "red"}, ["images/0.png"],
    )  # fmt: skip
    assert "64 x 48 pixels" in row["content"]
    assert (row["finish_reason"], row["finish"], row["status"], row["attempts"]) == (
        "stop",
        "stop",
        "answered",
        1,
    )
    assert row["prompt_tokens"] + row["completion_tokens"] == row["total_tokens"]
    expected = (row["prompt_tokens"] * 2.5 + row["completion_tokens"] * 10) / 1e6
    assert float(row["cost_usd"]) == pytest.approx(expected)
    assert (row["model"], row["model_requested"], row["sent_mime"]) == ("gpt-4o", "gpt-4o", "image/png")
    assert row["endpoint"].endswith("/v1/chat/completions")
    failures = pd.read_parquet(tmp_path / "run/failures.parquet")
    assert list(failures["error_kind"]) == ["image_missing"]
    assert "images/none.png: no such file" in failures["error_message"][0]
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["answer_settings"]["temperature"] == 0.2
    assert run["rows"] == 3


def test_walk_2_a_429(tmp_path):
    """A limit below what is asked: the run takes its time, every row is answered, hardly a 429.

    Where no limit was given and the quota is empty, 429s come, and no row fails for them.
    """
    draw_pictures(tmp_path / "p", 36)
    # 255 tokens a picture and 20 of text and answer: 36 rows are 9,900 tokens
    with serving(EndpointSettings(tokens_per_minute=9_000)) as url:
        done = captionmill("caption", "p", *MODEL, "--max-tokens", 10, "--prompt", "Colour?", "-o", "run",
                           "--tpm", 9000, base_url=url, cwd=tmp_path)  # fmt: skip
        counts = stats(url)["by_status"]
    assert done.returncode == 0, done.stderr
    assert counts["200"] == len(results(tmp_path / "run")) == 36
    assert counts.get("429", 0) <= 1
    with serving(EndpointSettings(tokens_per_minute=200_000, starts_empty=True)) as url:
        done = captionmill("caption", "p", *MODEL, "--max-tokens", 10, "--prompt", "Colour?", "-o", "unknown",
                           "--concurrency", 8, base_url=url, cwd=tmp_path)  # fmt: skip
        counts = stats(url)["by_status"]
    assert done.returncode == 0, done.stderr
    assert counts["429"] >= 1
    assert counts["200"] == len(results(tmp_path / "unknown")) == 36


def test_walk_3_a_crash_and_the_next_start(tmp_path):
    """kill -9 twice in the middle, the same line again: every row once, at most what was in flight paid twice."""
    draw_pictures(tmp_path / "p", 400)
    arguments = ("caption", "p", *MODEL, "-o", "run", "--concurrency", 16, "--rows-per-part", 50)
    with serving(EndpointSettings(latency_seconds=0.15, keeps_ledger=True)) as url:
        for answers in (100, 250):
            running = start(*arguments, base_url=url, cwd=tmp_path)
            wait_for_answers(url, answers)
            running.send_signal(signal.SIGKILL)
            running.communicate()
            results(tmp_path / "run")  # readable and without duplicates right after the crash
            status = captionmill("status", "run", "--json", cwd=tmp_path)
            assert json.loads(status.stdout)["is_running"] is False
        done = captionmill(*arguments, base_url=url, cwd=tmp_path)
        account = stats(url)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "run")) == 400
    assert account["distinct_requests_answered"] == 400
    assert account["answered_again"] <= 2 * 16
    assert "finished before" in done.stderr


def test_walk_4_a_cost_report(tmp_path):
    """Report and pages of a finished run: dollars by model, no price where there is none."""
    draw_pictures(tmp_path / "p", 5)
    with serving(EndpointSettings()) as url:
        captionmill("caption", "p", *MODEL, "-o", "run", base_url=url, cwd=tmp_path)
        captionmill("caption", "p", "--model", "no-such-model", "-o", "other", base_url=url, cwd=tmp_path)
    report = captionmill("report", "run", cwd=tmp_path)
    assert report.returncode == 0
    table = results(tmp_path / "run")
    total = sum(table["cost_usd"])
    assert f"${total:,.6f} in total" in report.stdout
    assert f"{table['prompt_tokens'].sum():,}" in report.stdout
    lines = captionmill("report", "run", "--csv", cwd=tmp_path).stdout.splitlines()
    assert lines[1].startswith("gpt-4o,5,")
    assert lines[1].endswith(f",0,{total},USD")
    other = captionmill("report", "other", cwd=tmp_path).stdout
    assert "no price" in other
    assert "dollars  " not in other.splitlines()[-1]
    assert (tmp_path / "run/report.html").exists()
    gallery = captionmill("gallery", "run", cwd=tmp_path)
    assert gallery.stdout.strip() == "run/gallery/index.html"


# ------------------------------------------------------------------------------- the same command again


TWO_ENDPOINTS = """
model = "gpt-4o"
{first}
[[endpoint]]
base_url = "{one}"
api_key_env = "KEY_ONE"
price = {{ input = 1000, output = 0 }}
[[endpoint]]
base_url = "{two}"
api_key_env = "KEY_TWO"
model = "vision-large"
"""


def test_two_endpoints_and_one_that_refuses(tmp_path):
    """Both share the rows, each asked for its own model at its own price; the wrong key disables its endpoint with a line."""
    draw_pictures(tmp_path / "p", 60)
    keys = {"KEY_ONE": "sk-one-5d1c9e7a", "KEY_TWO": "sk-two-5d1c9e7a", "KEY_BAD": "sk-bad-5d1c9e7a"}
    one, two, bad = (
        EndpointSettings(key=keys["KEY_ONE"], latency_seconds=0.2),
        EndpointSettings(key=keys["KEY_TWO"], latency_seconds=0.2, models=("vision-large",)),
        EndpointSettings(key="another"),
    )
    with serving(one) as first, serving(two) as second, serving(bad) as third:
        entry = f'[[endpoint]]\nbase_url = "{third}"\napi_key_env = "KEY_BAD"'
        (tmp_path / "run.toml").write_text(TWO_ENDPOINTS.format(one=first, two=second, first=entry))
        done = captionmill(
            "caption",
            "p",
            "--config",
            "run.toml",
            "-o",
            "run",
            "--debug-log",
            "debug.log",
            cwd=tmp_path,
            **keys,
        )
        answers = stats(first)["answers"], stats(second)["answers"]
        assert stats(third)["by_status"] == {"401": stats(third)["by_status"]["401"]}
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("endpoint disabled: ") == 1
    table = results(tmp_path / "run")
    names = [url.removeprefix("http://") + "/chat/completions" for url in (first, second)]
    assert [int((table["endpoint"] == name).sum()) for name in names] == list(answers)
    assert min(answers) >= 10
    assert set(table.loc[table["endpoint"] == names[1], "model_requested"]) == {"vision-large"}
    mine = table[table["endpoint"] == names[0]].iloc[0]
    assert float(mine["cost_usd"]) == pytest.approx(mine["prompt_tokens"] / 1000)
    log = (tmp_path / "debug.log").read_text()
    assert "401" in log
    assert "event loop at most" in log
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        assert not [key for key in keys.values() if key.encode() in path.read_bytes()], path


def test_no_endpoint_is_left(tmp_path):
    """All refuse: exit 3, resumable, each with its own words and what to check."""
    draw_pictures(tmp_path / "p", 20)
    with serving(EndpointSettings(key="a")) as first, serving(EndpointSettings(key="b")) as second:
        (tmp_path / "run.toml").write_text(TWO_ENDPOINTS.format(one=first, two=second, first=""))
        done = captionmill(
            "caption",
            "p",
            "--config",
            "run.toml",
            "-o",
            "run",
            cwd=tmp_path,
            KEY_ONE="x" * 12,
            KEY_TWO="y" * 12,
        )
    assert done.returncode == 3
    assert "no endpoint is left" in done.stderr
    assert "the variable KEY_ONE" in done.stderr
    assert "the variable KEY_TWO" in done.stderr


def test_status_shows_the_endpoints_of_a_run_that_goes_on(tmp_path):
    """Requests out, tokens against the limit, while the run is going on; nothing of it afterwards."""
    draw_pictures(tmp_path / "p", 400)
    with serving(EndpointSettings(latency_seconds=0.3, tokens_per_minute=60_000)) as url:
        run = start("caption", "p", *MODEL, "-o", "run", "--concurrency", 4, base_url=url, cwd=tmp_path)
        wait_for_live(tmp_path / "run", lambda endpoint: endpoint["tokens_per_minute"] == 60_000)
        state = json.loads(captionmill("status", "run", "--json", cwd=tmp_path).stdout)
        text = captionmill("status", "run", cwd=tmp_path).stdout
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    (endpoint,) = state["endpoints"]
    assert endpoint["most_in_flight"] == 4
    assert endpoint["tokens_per_minute"] == 60_000
    assert "of 4 in flight" in text
    assert not (tmp_path / "run/.live.json").exists()
    assert "endpoints" not in json.loads(captionmill("status", "run", "--json", cwd=tmp_path).stdout)


def test_a_finished_run_says_so(tmp_path):
    """Nothing is sent; exit 0."""
    draw_pictures(tmp_path / "p", 3)
    with serving(EndpointSettings()) as url:
        captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        again = captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        assert stats(url)["answers"] == 3
    assert again.returncode == 0
    assert "all 3 rows were finished before; nothing was sent" in again.stderr
    assert len(results(tmp_path / "p-captions")) == 3


def test_failed_rows_are_tried_again_when_asked(tmp_path):
    """Not by themselves; with --retry-failed, all or by kind."""
    draw_pictures(tmp_path / "p", 3)
    (tmp_path / "p/9.png").write_bytes(b"not yet a picture")
    with serving(EndpointSettings()) as url:
        first = captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        assert first.returncode == 1
        assert "--retry-failed" in first.stderr
        draw_pictures(tmp_path / "fixed", 1)
        (tmp_path / "fixed/0.png").rename(tmp_path / "p/9.png")
        for arguments, answered in ((), 3), (("--retry-failed", "timeout"), 3), (("--retry-failed",), 4):
            done = captionmill("caption", "p", *MODEL, *arguments, base_url=url, cwd=tmp_path)
            assert len(results(tmp_path / "p-captions")) == answered
    assert done.returncode == 0
    assert len(pd.read_parquet(tmp_path / "p-captions/failures.parquet")) == 0


def test_a_grown_folder_gets_its_new_rows(tmp_path):
    """A changed manifest is fine: new rows are added, the old ones are not paid again."""
    draw_pictures(tmp_path / "p", 3)
    with serving(EndpointSettings()) as url:
        captionmill("caption", "p", *MODEL, "--limit", 2, base_url=url, cwd=tmp_path)
        assert len(results(tmp_path / "p-captions")) == 2
        draw_pictures(tmp_path / "p", 5)
        captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        assert stats(url)["answers"] == 5
    assert len(results(tmp_path / "p-captions")) == 5


def test_changed_settings_are_refused(tmp_path):
    """Another model for the same folder: exit 2 and the difference by name; other limits are fine."""
    draw_pictures(tmp_path / "p", 2)
    with serving(EndpointSettings()) as url:
        captionmill("caption", "p", *MODEL, base_url=url, cwd=tmp_path)
        other = captionmill("caption", "p", "--model", "gpt-4o-mini", "--seed", 1, base_url=url, cwd=tmp_path)
        limits = captionmill(
            "caption", "p", *MODEL, "--tpm", 1000, "--timeout", 9, base_url=url, cwd=tmp_path
        )
        assert stats(url)["answers"] == 2
    assert other.returncode == 2
    assert 'model: "gpt-4o" before, "gpt-4o-mini" now' in other.stderr
    assert "seed: not set before, 1 now" in other.stderr
    assert limits.returncode == 0


# ------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(tmp_path, number):
    """What is out is answered and saved, exit 130, nothing is paid twice by the next start."""
    draw_pictures(tmp_path / "p", 120)
    arguments = ("caption", "p", *MODEL, "-o", "run", "--concurrency", 8)
    with serving(EndpointSettings(latency_seconds=0.2, keeps_ledger=True)) as url:
        running = start(*arguments, base_url=url, cwd=tmp_path)
        wait_for_answers(url, 20)
        running.send_signal(number)
        output, _ = running.communicate(timeout=30)
        assert running.returncode == 130, output
        assert "stopping: " in output
        assert "to resume" in output
        assert len(results(tmp_path / "run")) == stats(url)["answers"] < 120
        assert captionmill(*arguments, base_url=url, cwd=tmp_path).returncode == 0
        assert stats(url)["answered_again"] == 0
    assert len(results(tmp_path / "run")) == 120


def test_the_second_signal_stops_at_once(tmp_path):
    """With every request hanging, two signals end the run; what was answered is saved."""
    draw_pictures(tmp_path / "p", 20)
    with serving(EndpointSettings(faults={"hang": 1.0})) as url:
        running = start("caption", "p", *MODEL, "-o", "run", "--concurrency", 20, base_url=url, cwd=tmp_path)
        deadline = time.monotonic() + 30
        while stats(url)["most_in_flight"] < 20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        time.sleep(0.3)  # another process: it must be seen to wait
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=10)
    assert running.returncode == 130, output


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (EndpointSettings(key="another"), "Incorrect API key provided"),
        (EndpointSettings(models=("other",)), "The model `gpt-4o` does not exist"),
    ],
)
def test_a_refused_account_stops_with_exit_3(tmp_path, settings, says):
    """Bad key, unknown model: one clear message in the server's words, after a handful of requests."""
    draw_pictures(tmp_path / "p", 300)
    with serving(settings) as url:
        done = captionmill("caption", "p", *MODEL, "--concurrency", 4, base_url=url, cwd=tmp_path)
        requests = sum(stats(url)["by_status"].values())
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(says) == 1
    assert "300 rows are left" in done.stderr
    assert requests <= 12


def test_nobody_there_stops_with_exit_3(tmp_path):
    """A wrong address is said at once, not row by row."""
    draw_pictures(tmp_path / "p", 50)
    done = captionmill("caption", "p", *MODEL, base_url="http://127.0.0.1:9/v1", cwd=tmp_path)
    assert done.returncode == 3
    assert "127.0.0.1:9/v1/chat/completions: cannot connect" in done.stderr


def test_a_second_process_is_refused(tmp_path):
    """One run folder, one writer."""
    draw_pictures(tmp_path / "p", 20)
    with serving(EndpointSettings(latency_seconds=1.0)) as url:
        running = start("caption", "p", *MODEL, "-o", "run", "--concurrency", 4, base_url=url, cwd=tmp_path)
        wait_for_answers(url, 1)
        second = captionmill("caption", "p", *MODEL, "-o", "run", base_url=url, cwd=tmp_path)
        status = captionmill("status", "run", cwd=tmp_path)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert second.returncode == 3
    assert f"process {running.pid} on" in second.stderr
    assert "run: running" in status.stdout
    assert len(results(tmp_path / "run")) == 20


# ------------------------------------------------------------------------------- hostile days


def test_a_server_with_every_fault(tmp_path):
    """500, HTML 503, stray 429, resets, half answers, empty answers: every row answered, none twice."""
    draw_pictures(tmp_path / "p", 100)
    faults = {"500": 0.05, "503": 0.05, "429": 0.02, "reset": 0.05, "truncate": 0.03, "empty": 0.03}
    with serving(EndpointSettings(faults=faults, seed=5, keeps_ledger=True)) as url:
        done = captionmill(
            "caption", "p", *MODEL, "-o", "run", "--concurrency", 16, base_url=url, cwd=tmp_path
        )
        if done.returncode == 1:  # twice empty is a failed row
            done = captionmill(
                "caption", "p", *MODEL, "-o", "run", "--retry-failed", base_url=url, cwd=tmp_path
            )
        account = stats(url)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "run")) == 100
    assert account["answered_again"] == 0
    assert results(tmp_path / "run")["attempts"].max() > 1


def test_the_key_is_nowhere(tmp_path):
    """After success, refusal and failure: in no file, no line of output, no column."""
    draw_pictures(tmp_path / "p", 5)
    (tmp_path / "p/bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    outputs = []
    for settings in (EndpointSettings(), EndpointSettings(key="x"), EndpointSettings(faults={"reset": 1.0})):
        with serving(settings) as url:
            done = captionmill("caption", "p", *MODEL, "--max-retries", 0, base_url=url, cwd=tmp_path)
            outputs.append(done.stdout + done.stderr)
    for job in ("report", "gallery", "status"):
        done = captionmill(job, "p-captions", cwd=tmp_path)
        outputs.append(done.stdout + done.stderr)
    assert not any(KEY in text for text in outputs)
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) > 10
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []


def test_the_demo(tmp_path):
    """One command, no key, no network: answers, report, Parquet, pages."""
    done = captionmill("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = results(tmp_path / "demo-captions")
    assert len(table) == 12
    phone = table.set_index("id").loc["phone.jpg"]
    assert (phone["sent_width"], phone["sent_height"]) == (600, 800)
    assert "a portrait picture" in phone["content"]
    assert "broken.jpg" in done.stderr
    for name in ("results", "report.html", "gallery/index.html", "failures.parquet"):
        assert (tmp_path / "demo-captions" / name).exists()
        assert f"demo-captions/{name}" in done.stdout


def test_the_bar_on_a_terminal(tmp_path):
    """A terminal gets a bar with rows, tokens a minute against the limit, and dollars: spent, to come, left."""
    import os
    import pty
    import subprocess
    import termios

    from commands import command, environment

    draw_pictures(tmp_path / "p", 30)
    with serving(EndpointSettings(latency_seconds=0.5)) as url:
        primary, secondary = pty.openpty()
        termios.tcsetwinsize(secondary, (40, 160))
        running = subprocess.Popen(
            command("caption", "p", *MODEL, "--concurrency", 8, "--tpm", 500_000, "--budget-usd", 90),
            env=environment(url), cwd=tmp_path, stdout=secondary, stderr=secondary,
        )  # fmt: skip
        os.close(secondary)
        shown = b""
        while True:
            try:
                chunk = os.read(primary, 65536)
            except OSError:  # the other end has closed
                break
            if not chunk:
                break
            shown += chunk
        os.close(primary)
        assert running.wait() == 0
    text = shown.decode()
    assert re.search(r"\d+/30 ", text)
    assert re.search(
        r"[\d,]+/500,000 tok/min, \$0\.\d+ spent, ~\$0\.\d+ to come, \$\d+\.\d+ of the budget left", text
    )
