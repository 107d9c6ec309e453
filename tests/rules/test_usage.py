"""Usage that cannot be true: said once with figures, in the bar, at the end, and a reason to stop where asked."""

from __future__ import annotations

import numpy as np
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.rows import TokenEstimate, Usage
from captionmill.rules.usage import UsageWatch, is_dropped, is_inflated
from commands import MODEL, captionmill, draw_pictures, results, stats
from hypothesis import given
from hypothesis import strategies as st
from lying_server import LyingServer, http
from scripted_chat import completion

BASE64 = 200_000


def estimate(text: int = 13, pictures: int = 765) -> TokenEstimate:
    return TokenEstimate(text + pictures, text + pictures, 100, 100, pictures)


def findings(reported: list[int | None], of: TokenEstimate | None = None) -> list[str]:
    """What the watch says while answers report these prompt tokens."""
    watch = UsageWatch()
    said = [watch.note(of or estimate(), Usage(prompt_tokens=tokens), BASE64) for tokens in reported]
    return [text for text in said if text]


@pytest.mark.parametrize(
    ("text", "pictures", "reported", "expected"),
    [
        (100, 420, 210, True),  # 1.5 times the text and a template, where pictures have at least twice that
        (100, 420, 211, False),
        (100, 419, 210, False),
        (300, 10, 99, True),  # less than a third of the text: another request was counted
        (300, 10, 100, False),
    ],
)
def test_where_a_picture_counts_as_dropped(text, pictures, reported, expected):
    """The text alone with its tolerance; or less than any count of the text could give."""
    assert is_dropped(text, pictures, reported) is expected


@pytest.mark.parametrize(
    ("reported", "characters", "expected"),
    [(8000, 64_000, True), (7999, 60_000, False), (8000, 64_001, False), (20_000, 200_000, False)],
)
def test_where_base64_counts_as_text(reported, characters, expected):
    """Eight times the formula of 1,000 tokens, and a token for eight characters at least."""
    assert is_inflated(200, 800, reported, characters) is expected


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 4), min_size=1))
def test_a_report_has_the_rules_of_a_run(answers):
    """Whole columns give what each answer gives alone."""
    text, pictures, reported, characters = np.array(answers, dtype=np.float64).T
    assert is_dropped(text, pictures, reported).tolist() == [is_dropped(*a[:3]) for a in answers]
    assert is_inflated(text, pictures, reported, characters).tolist() == [is_inflated(*a) for a in answers]


@pytest.mark.parametrize("tokens", [13, 46, 79])
def test_a_dropped_picture_is_seen(tokens):
    """Prompt tokens near the text alone: the model was shown nothing. Once, however often."""
    (text,) = findings([tokens] * 50)
    assert f"{tokens} prompt tokens" in text
    assert "text alone is about 13 and the picture about 765" in text


def test_base64_counted_as_text_is_seen():
    """Tens of times too many."""
    (text,) = findings([70_000] * 50)
    assert "70,000 prompt tokens" in text
    assert "90 times" in text


@pytest.mark.parametrize(
    "reported",
    [
        [778] * 9,  # as the formula says
        [268] * 9,  # a family that counts a third
        [90] * 9,  # a small model with 64 tokens a picture
        [5000] * 9,  # an open model with many patches
        [13, 13, 778, 13, 13, 778] * 3,  # never three in a row
        [None, 0] * 9,
        [13, 70_000] * 9,
    ],
)
def test_what_models_really_count_is_no_finding(reported):
    """Families differ by a factor of five either way; one odd answer is no pattern."""
    assert findings(reported) == []


def test_a_long_text_hides_a_picture():
    """Where the text is roughly counted and large, nothing can be said; nor of a row without pictures."""
    assert findings([2000] * 9, estimate(text=2000)) == []
    assert len(findings([20] * 9, estimate(text=2000))) == 1  # less than the text alone
    assert findings([13] * 9, estimate(pictures=0)) == []


@pytest.mark.parametrize(
    ("tokens", "word"), [(15, "may not be shown"), (50_000, "counted, and billed, as text")]
)
def test_a_run_says_it_and_goes_on(tmp_path, tokens, word):
    """By default a line at once, and again in the summary; every row is answered."""
    draw_pictures(tmp_path / "p", 12)
    with LyingServer(lambda body, n: http(completion("A red car", tokens))).open() as server:
        done = captionmill("caption", "p", *MODEL, "-o", "run", base_url=server.base_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(word) == 2
    assert len(results(tmp_path / "run")) == 12


def test_a_run_can_stop_on_it(tmp_path):
    """--on-usage-anomaly stop: what was paid is saved, nothing more is sent, exit 3, and it can be resumed."""
    draw_pictures(tmp_path / "p", 60)
    arguments = ("caption", "p", *MODEL, "-o", "run", "--concurrency", 2, "--on-usage-anomaly", "stop")
    with LyingServer(lambda body, n: http(completion("A red car", 15))).open() as server:
        done = captionmill(*arguments, base_url=server.base_url, cwd=tmp_path)
        assert server.requests < 10
    assert done.returncode == 3, done.stderr
    assert "stopped: " in done.stderr
    assert "may not be shown the pictures" in done.stderr
    saved = len(results(tmp_path / "run"))
    assert saved == server.requests
    with serving(EndpointSettings()) as url:
        assert captionmill(*arguments, base_url=url, cwd=tmp_path).returncode == 0
        assert stats(url)["answers"] == 60 - saved


def test_one_endpoint_of_several_is_disabled_for_it(tmp_path):
    """The others do the rest."""
    draw_pictures(tmp_path / "p", 40)
    with (
        LyingServer(lambda body, n: http(completion("A red car", 15))).open() as lying,
        serving(EndpointSettings()) as url,
    ):
        (tmp_path / "run.toml").write_text(
            'model = "gpt-4o"\non_usage_anomaly = "stop"\n'
            + "".join(f'[[endpoint]]\nbase_url = "{u}"\nconcurrency = 2\n' for u in (lying.base_url, url))
        )
        done = captionmill("caption", "p", "--config", "run.toml", "-o", "run", cwd=tmp_path)
        assert lying.requests < 12
    assert done.returncode == 0, done.stderr
    assert "endpoint disabled: " in done.stderr
    assert len(results(tmp_path / "run")) == 40


def test_status_shows_it_while_the_run_goes_on(tmp_path):
    """In the state that `status --json` gives."""
    from captionmill.wiring.live import EndpointState

    state = EndpointState("a/v1", "m", 1, 2, None, None, 0.0, False, None, "15 prompt tokens are reported")
    assert str(state).endswith("; 15 prompt tokens are reported")
