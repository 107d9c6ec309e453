"""The small pure rules: tokens, the request body, backoff, prices."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from captionmill.nouns.config import API_ORDER, ChatSettings
from captionmill.nouns.rows import Row, Usage
from captionmill.rules.backoff import Backoff
from captionmill.rules.request import RequestBuilder
from captionmill.rules.tokens import TokenEstimator, text_tokens, tokens_of_length
from hypothesis import given
from hypothesis import strategies as st
from scripted_chat import PICTURE


class EveryPicture255:
    """A model for which every picture is worth 255 tokens."""

    def tokens(self, width: int, height: int, detail: str | None) -> int:
        return 255


# ------------------------------------------------------------------------------- tokens


def test_text_tokens():
    """Four characters a token; one each in scripts that need it."""
    assert text_tokens("") == 0
    assert text_tokens("Describe this image.") == 5
    assert text_tokens("描述一下这张图片") == 8
    assert text_tokens("猫 cat") == 2
    assert text_tokens("café au") == 2  # Latin letters are not wide


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_tokens_by_lengths(narrow, wide):
    """Rounded up, for one text as for a column of them; null has none."""
    assert tokens_of_length(narrow + wide, wide) == math.ceil(narrow / 4) + wide
    column = np.array([narrow + wide, 0], dtype=np.float64), np.array([wide, 0], dtype=np.float64)
    assert tokens_of_length(*column).tolist() == [math.ceil(narrow / 4) + wide, 0]


def test_an_estimate_counts_all_that_may_be_charged():
    """System message, prompt, every picture, and the longest answer n times."""
    chat = ChatSettings(model="m", system="four" * 10, max_tokens=100, n=2)
    estimate = TokenEstimator(chat, EveryPicture255()).estimate("x" * 40, [(512, 512), (512, 512)])
    assert (estimate.formula, estimate.prompt, estimate.longest_answer) == (530, 530, 200)
    assert estimate.likely_answer == 200  # nothing is known yet


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_an_estimate_learns_what_the_endpoint_counts(factor):
    """Ten answers at three times or a third of the formula: the next estimate is within 2 %, outliers or not."""
    estimator = TokenEstimator(ChatSettings(model="m", max_tokens=500), EveryPicture255())
    for number in range(40):
        estimate = estimator.estimate("p" * 40, [(1024, 1024)])
        odd = 50 if number % 9 == 4 else 1  # a relay that now and then counts the base64 as text
        estimator.learn(estimate, Usage(int(estimate.formula * factor * odd), 80))
    learned = estimator.estimate("p" * 40, [(1024, 1024)])
    assert learned.prompt == pytest.approx(learned.formula * factor, rel=0.02)
    assert learned.likely_answer == 88
    assert learned.longest_answer == 500


@pytest.mark.parametrize(
    ("reported_ratios", "worst_ratio"), [([], 1.25), ([0.5] * 4, 1.25), ([2.0] * 4, 2.0), ([2.0, 3.0, 2.0, 2.0, 2.0], 3.0),
     ([0.5] * 5, 1.0)]
)  # fmt: skip
def test_the_most_that_a_prompt_may_take(reported_ratios, worst_ratio):
    """The formula times the worst ratio of late, at least 1.25 before five answers and 1 after; 5 % more; 64 tokens."""
    estimator = TokenEstimator(ChatSettings(model="m"), EveryPicture255())
    for ratio in reported_ratios:
        estimate = estimator.estimate("p" * 180, [(512, 512)])
        estimator.learn(estimate, Usage(int(estimate.formula * ratio), 10))
    estimate = estimator.estimate("p" * 180, [(512, 512)])
    assert estimate.formula == 300
    assert estimate.most_prompt == math.ceil(300 * worst_ratio * 1.05) + 64


def test_size_classes_learn_apart():
    """A model that counts every picture alike: small ones cost more than the formula, large ones less."""
    estimator = TokenEstimator(ChatSettings(model="m"), EveryPicture255())
    for size in [(300, 300), (2048, 4096)] * 20:
        estimator.learn(estimator.estimate("", [size]), Usage(800, 10))
    for size in ((300, 300), (2048, 4096)):
        assert estimator.estimate("", [size]).prompt == pytest.approx(800, rel=0.01)


def test_answers_without_usage_teach_nothing():
    """Zero and missing counts are no measurement."""
    estimator = TokenEstimator(ChatSettings(model="m"), EveryPicture255())
    for _ in range(20):
        estimator.learn(estimator.estimate("", [(512, 512)]), Usage(0, None))
        estimator.learn(estimator.estimate("", [(512, 512)]), Usage())
    assert estimator.estimate("", [(512, 512)]).prompt == 255


def test_what_is_held_back_for_a_prompt_has_a_margin():
    """The most that was lately reported for a token of the formula (1.25 before five answers), 5 %, 64 for a template."""
    estimator = TokenEstimator(ChatSettings(model="m", max_tokens=500), EveryPicture255())

    def most() -> tuple[int, int | None]:
        estimate = estimator.estimate("p" * 180, [(1024, 1024)])
        return estimate.formula, estimate.most_prompt

    assert most() == (300, 458)  # 300 x 1.25 x 1.05 = 393.75
    for reported in (300, 600, 300, 300, 300):
        estimator.learn(estimator.estimate("p" * 180, [(1024, 1024)]), Usage(reported, 80))
    assert most() == (300, 694)  # 300 x 2 x 1.05


# ------------------------------------------------------------------------------- a row


def test_a_row_is_told_by_what_it_asks():
    """Prompt, pictures and their order are its content; where they lie, its id and its other columns are not."""
    row = Row("1", ("a.jpg", "b.jpg"), ("/x/a.jpg", "/x/b.jpg"), "What?", "{}")
    assert replace(row, id="2", paths=("/y/a.jpg", "/y/b.jpg"), extra=None).content_hash == row.content_hash
    others = [
        replace(row, prompt="Which?"),
        replace(row, prompt=""),
        replace(row, images=("b.jpg", "a.jpg")),
        replace(row, images=("a.jpg",)),
        replace(row, images=("a.jpgb.jpg",)),
    ]
    assert len({other.content_hash for other in (row, *others)}) == 6


# ------------------------------------------------------------------------------- the request


def body(chat: ChatSettings, row: Row, pictures=(PICTURE,)) -> dict:
    return json.loads(RequestBuilder(chat, chat.model).build(row, pictures))


def test_the_body_is_the_one_of_the_api_page():
    """Model, text then pictures in their order as data URLs, and only the parameters that were set."""
    row = Row("1", ("a.jpg", "b.png"), ("a", "b"), '描述一下 "this"\n')
    png = PICTURE.__class__(b"UE5H", "image/png", 1, 1, 3, "0" * 64)
    assert body(ChatSettings(model="gpt-4-turbo", max_tokens=2000), row, (PICTURE, png)) == {
        "model": "gpt-4-turbo",
        "max_tokens": 2000,
        "stream": False,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": '描述一下 "this"\n'},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,UE5H"}},
                ],
            }
        ],
    }


def test_every_parameter_goes_by_its_api_name():
    """All of the page's parameters, `detail` inside the picture, others through param, system first."""
    given_parameters = {
        "temperature": 0.2, "top_p": 0.9, "n": 2, "stop": ["a", "b"], "max_tokens": 5,
        "max_completion_tokens": 6, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"50256": -100},
        "user": "me", "response_format": {"type": "json_object"}, "seed": 7, "logprobs": True,
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto",
    }  # fmt: skip
    assert set(given_parameters) == set(API_ORDER)
    chat = ChatSettings(model="m", system="Be brief.", detail="low", param={"top_k": 40}, **given_parameters)
    sent = body(chat, Row("1", ("a",), ("a",), "p"))
    assert {k: sent[k] for k in given_parameters} == given_parameters
    assert sent["top_k"] == 40
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["messages"][1]["content"][1]["image_url"] == {
        "url": "data:image/jpeg;base64,QUJD",
        "detail": "low",
    }


@given(st.text(st.characters(), max_size=40), st.text(max_size=10))
def test_any_prompt_is_valid_json(prompt, system):
    """Quotes, control characters, emoji and halves of them never break the body."""
    sent = body(ChatSettings(model="m", system=system or None), Row("1", ("a",), ("a",), prompt))
    assert sent["messages"][-1]["content"][0]["text"] == prompt


# ------------------------------------------------------------------------------- retry


def test_backoff_grows_to_a_minute():
    """Half a second, doubling, at most a minute, and jitter only shortens, down to half."""
    chance = random.Random(1)
    for attempt in range(1, 40):
        longest = min(0.5 * 2 ** (attempt - 1), 60)
        waits = [Backoff(chance).seconds(attempt) for _ in range(100)]
        assert longest / 2 <= min(waits) < 0.6 * longest
        assert 0.9 * longest < max(waits) <= longest


def test_rows_refused_together_come_back_apart():
    """After a pause that the server asked for: from at once to the backoff, and never above twice the pause and half a second."""
    backoff = Backoff(random.Random(1))
    waits = [backoff.scatter_seconds(20, 0.0) for _ in range(200)]
    assert 0.0 <= min(waits) < 0.05
    assert 0.45 < max(waits) <= 0.5
    assert max(backoff.scatter_seconds(1, 100.0) for _ in range(200)) <= 0.5


def test_tools_and_schemas_count_in_the_prompt():
    """They are sent with every row and billed as text."""
    from captionmill.nouns.config import RunConfig
    from captionmill.rules.tokens import fixed_tokens

    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"description": "x" * 400}}}
    tools = [{"type": "function", "function": {"name": "f", "description": "y" * 800}}]
    assert fixed_tokens(RunConfig(model="m")) == 0
    assert 100 <= fixed_tokens(RunConfig(model="m", response_format=schema)) <= 130
    assert 200 <= fixed_tokens(RunConfig(model="m", tools=tools)) <= 230
    assert fixed_tokens(RunConfig(model="m", response_format={"type": "json_object"})) == 0
