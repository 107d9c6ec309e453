"""`captionmill models`, and what is said where a model's name is wrong."""

from __future__ import annotations

import json

import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.jobs.__main__ import run_job
from captionmill.nouns.address import Address, chat_completions_url
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.model_list import nearest, read_models
from commands import captionmill, draw_pictures

NAMES = ("gpt-4o", "gpt-4o-mini", "qwen2.5-vl")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"data": [{"id": "b"}, {"id": "a"}]}, ["a", "b"]),
        ({"models": [{"name": "a"}, {"model": "b"}]}, ["a", "b"]),
        ([{"id": "a"}, "b"], ["a", "b"]),
        ({"data": [{"id": 5}, None, {"id": "\x1b[2J"}]}, []),
        ("none", []),
    ],
)
def test_lists_in_every_shape(body, names):
    """OpenAI's, Ollama's, a plain list; nothing that a terminal would obey."""
    assert read_models(HttpAnswer(200, {}, json.dumps(body).encode())) == names


def test_the_nearest_name():
    """Without the prefix of a router and in any case; none where nothing is like it."""
    assert nearest(NAMES, "gpt4o") == "gpt-4o"
    assert nearest(["openai/gpt-4o", "x"], "GPT-4o") == "openai/gpt-4o"
    assert nearest(NAMES, "zzz") is None


def test_where_the_list_lies():
    """Beside the completions, with Azure's query."""
    azure = "https://me.openai.azure.com/openai/deployments/d?api-version=1"
    assert Address(chat_completions_url("http://h.test"), None).models_url == "http://h.test/v1/models"
    assert (
        Address(chat_completions_url(azure), None).models_url
        == "https://me.openai.azure.com/openai/models?api-version=1"
    )


def test_the_command_lists_price_and_image_rule(monkeypatch, capsys):
    """Of each model; a word selects some."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with serving(EndpointSettings(models=NAMES)) as url:
        assert run_job("models", ["gpt", "--base-url", url, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["models"]
        assert run_job("models", ["--base-url", url]) == 0
    assert [(m["model"], m["image_rule"]) for m in found] == [
        ("gpt-4o", "openai tiles"),
        ("gpt-4o-mini", "openai tiles"),
    ]
    assert (found[0]["input"], found[0]["output"]) == ("2.5", "10")
    assert "qwen2.5-vl" in capsys.readouterr().out


def test_a_refused_list_is_said(monkeypatch, capsys):
    """Exit 3 with the server's words, without the key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key")
    with serving(EndpointSettings(key="other")) as url:
        assert run_job("models", ["--base-url", url]) == 3
    said = capsys.readouterr().err
    assert "Incorrect API key" in said
    assert "sk-wrong-key" not in said


def test_an_unknown_model_stops_and_names_the_nearest(tmp_path):
    """Asked once, after the stop."""
    draw_pictures(tmp_path / "p", 4)
    with serving(EndpointSettings(models=NAMES)) as url:
        done = captionmill("caption", "p", "--model", "gpt4o", "-o", "run", base_url=url, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "did you mean --model gpt-4o?" in done.stderr


@pytest.mark.parametrize(
    "name", ["OPENAI_API_BASE", "OPENAI_API_BASE_URL", "OPENAI_BASE", "openai_api_base", "OPENAI_HOST"]
)
def test_the_address_of_another_program_is_not_passed_over(monkeypatch, capsys, tmp_path, name):
    """Without OPENAI_BASE_URL key and pictures would go to api.openai.com: refused, with the variable's name."""
    draw_pictures(tmp_path / "p", 1)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    arguments = [str(tmp_path / "p"), "--model", "m", "-o", str(tmp_path / "run")]
    assert run_job("caption", arguments) == 2
    assert f"{name} is set" in capsys.readouterr().err
