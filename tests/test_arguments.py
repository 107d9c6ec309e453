"""Flags, TOML and environment -> one checked configuration, and a clear line for everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from captionmill.jobs.__main__ import COMMANDS, main
from captionmill.jobs.arguments import Parser, add_settings, default_run_path, read_endpoints, read_settings
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import UsageError


def parse(*argv: str) -> RunConfig:
    parser = Parser(prog="test")
    add_settings(parser)
    return read_settings(parser.parse(list(argv)))


def complaint(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    return str(caught.value)


def toml(tmp_path: Path, text: str) -> tuple[str, str]:
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    return "--config", str(tmp_path / "run.toml")


def test_flags_by_their_api_names():
    """Numbers, JSON, repeated flags and any other parameter."""
    config = parse(
        "--model", "m", "--temperature", "0.2", "--stop", "a", "--stop", "b", "--logprobs", "--max-tokens", "9",
        "--response-format", '{"type": "json_object"}', "--tools", '[{"type": "function"}]', "--tool-choice", "auto",
        "--logit-bias", '{"5": -100}', "--param", "top_k=40", "--param", 'x={"a": [1]}', "--tpm", "300000",
    )  # fmt: skip
    assert (config.temperature, config.stop, config.logprobs, config.max_tokens) == (0.2, ["a", "b"], True, 9)
    assert (config.response_format, config.tool_choice) == ({"type": "json_object"}, "auto")
    assert (config.logit_bias, config.param) == ({"5": -100}, {"top_k": 40, "x": {"a": [1]}})
    assert config.tpm == 300_000
    assert parse("--model", "m", "--tool-choice", '{"type": "function"}').tool_choice == {"type": "function"}


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    """The same names in TOML; a BOM is no obstacle."""
    config = parse(
        *toml(tmp_path, '\ufeffmodel = "a"\ntpm = 5\nmax_side = 1024\nstop = ["x"]\n'), "--tpm", "7"
    )
    assert (config.model, config.tpm, config.max_side, config.jpeg_quality) == ("a", 7, 1024, 85)


def test_a_prompt_from_a_file(tmp_path):
    """--prompt-file, in TOML relative to the TOML; both ways at once are refused."""
    (tmp_path / "p.txt").write_text("What is this?\n", encoding="utf-8")
    assert parse("--model", "m", "--prompt-file", str(tmp_path / "p.txt")).prompt == "What is this?"
    assert parse(*toml(tmp_path, 'model = "m"\nprompt_file = "p.txt"\n')).prompt == "What is this?"
    assert "give one of them" in complaint("--model", "m", "--prompt", "x", "--prompt-file", "y")
    assert "cannot be read" in complaint("--model", "m", "--prompt-file", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "--model is needed, for example --model gpt-4o"),
        (
            ("--model", "m", "--temprature", "1"),
            "unknown argument '--temprature'; did you mean --temperature?",
        ),
        (
            ("--model", "m", "--temperature", "3"),
            "--temperature: Input should be less than or equal to 2 (got '3'",
        ),
        (("--model", "m", "--tpm", "fast"), "--tpm: Input should be a valid integer"),
        (("--model", "m", "--tools", "{"), "--tools: not JSON"),
        (("--model", "m", "--param", "top_k"), "--param 'top_k': NAME=JSON is needed"),
        (("--model", "m", "--param", "stream=true"), "--param: stream: set by a flag of its own"),
        (("--model", "m", *(["--stop", "x"] * 5)), "--stop: 1 to 4 sequences are allowed"),
        (("--model", "m", "--detail", "hi"), "--detail: Input should be 'auto', 'low', 'high' or 'original'"),
        (("--model", "m", "--background", "white"), "--background: String should match pattern"),
        (("--model",), "expected one argument"),
        (("--config", "none.toml"), "none.toml: no such file"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(argv, says):
    """The flag, what it got, and what is allowed."""
    message = complaint(*argv)
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('model = "m"\nmodl = "x"\n', "run.toml:2: modl: no setting of this name; did you mean model?"),
        ('model = "m"\n\ntpm = "many"\n', "run.toml:3: tpm: Input should be a valid integer"),
        ('model = "m"\n[limits]\ntpm = 1\n', "run.toml:2: limits: no setting of this name"),
        ('model = "m\n', "broken TOML"),
        (
            'model = "m"\napi_key = "sk-1"\n',
            "run.toml:2: api_key: no setting of this name; did you mean api_key_env?",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path, text, says):
    """Unknown key or wrong type: the file, the line, the key."""
    assert says in complaint(*toml(tmp_path, text))


def test_all_mistakes_at_once(tmp_path):
    """One line each, so that nobody finds them one start at a time."""
    assert len(complaint("--temperature", "9", "--top-p", "2").splitlines()) == 3


def read_one(config):
    (endpoint,) = read_endpoints(config)
    return endpoint


def test_the_endpoint_and_its_key(monkeypatch):
    """Flag over environment over default; a key is needed except on this machine."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RELAY_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="set the variable OPENAI_API_KEY"):
        read_one(parse("--model", "m"))
    assert read_one(parse("--model", "m", "--base-url", "http://localhost:11434")).key is None
    monkeypatch.setenv("RELAY_KEY", " sk-1 ")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://relay.test")
    endpoint = read_one(parse("--model", "m", "--api-key-env", "RELAY_KEY"))
    assert (endpoint.url, endpoint.key) == ("https://relay.test/v1/chat/completions", "sk-1")
    monkeypatch.setenv("RELAY_KEY", "sk-1\nsk-2")
    with pytest.raises(UsageError, match="characters that no key has"):
        read_one(parse("--model", "m", "--api-key-env", "RELAY_KEY"))


TWO = """
model = "gpt-4o"
[[endpoint]]
base_url = "https://one.test"
api_key_env = "KEY_ONE"
tpm = 200_000
[[endpoint]]
base_url = "https://one.test/v1"
api_key_env = "KEY_TWO"
model = "vision-large"
price = { input = 1.5, output = 6 }
weight = 0.5
"""


def test_several_endpoints(tmp_path, monkeypatch):
    """Each has its address, key, model, limits, price; those at one address are told apart by their variable."""
    monkeypatch.setenv("KEY_ONE", "sk-1")
    monkeypatch.setenv("KEY_TWO", "sk-2")
    config = parse(*toml(tmp_path, TWO))
    one, two = config.endpoints()
    assert (one.model, one.tpm, one.price, one.weight) == ("gpt-4o", 200_000, None, 1)
    assert (two.model, two.tpm, str(two.price.input), two.weight) == ("vision-large", None, "1.5", 0.5)
    endpoints = read_endpoints(config)
    assert [e.key for e in endpoints] == ["sk-1", "sk-2"]
    assert [e.name for e in endpoints] == [
        "one.test/v1/chat/completions (KEY_ONE)",
        "one.test/v1/chat/completions (KEY_TWO)",
    ]
    monkeypatch.delenv("KEY_TWO")
    with pytest.raises(UsageError, match="set the variable KEY_TWO"):
        read_endpoints(config)


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        ('tpn = 5\n', (), "run.toml:13: tpn of endpoint 2: no setting of this name; did you mean tpm?"),
        ('tpm = "many"\n', (), "run.toml:13: tpm of endpoint 2: "),
        ('concurrency = 0\n', (), "run.toml:13: concurrency of endpoint 2: "),
        ("", ("--tpm", "100"), "--tpm: with [[endpoint]] entries each has its own"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_line(tmp_path, text, flags, says):
    """Mistakes inside [[endpoint]], and a limit beside it that could mean each or the sum."""
    assert says in complaint(*toml(tmp_path, TWO + text), *flags)


def test_a_key_in_the_place_of_its_variable_is_not_repeated(tmp_path):
    """api_key_env = "sk-..." is refused without showing it, as a flag and in an entry."""
    entry = toml(tmp_path, 'model = "m"\n[[endpoint]]\napi_key_env = "sk-5d1c9e7a"\n')
    named = ("--model", "m", "--api-key-env", "gsk_5d1c9e7aAbCdEfGhIjKl")  # could be the name of a variable
    for argv in (("--model", "m", "--api-key-env", "sk-5d1c9e7a"), named, entry):
        said = complaint(*argv)
        assert "the NAME of a variable is needed here" in said
        assert "5d1c9e7a" not in said


def test_single_brackets_show_nothing_of_the_entry(tmp_path):
    """[endpoint] instead of [[endpoint]]: the line and what is meant, not what stands there."""
    said = complaint(*toml(tmp_path, 'model = "m"\n[endpoint]\napi_key = "sk-5d1c9e7a"\n'))
    assert "run.toml:2: endpoint: a list is needed" in said
    assert "5d1c9e7a" not in said


def test_the_run_folder_is_named_after_the_source(tmp_path):
    """photos -> photos-captions, data.csv -> data-captions, a trailing slash or a dot changes nothing."""
    (tmp_path / "photos.old").mkdir()
    assert default_run_path(tmp_path / "photos.old") == Path("photos.old-captions")
    (tmp_path / "data.csv").touch()
    assert default_run_path(tmp_path / "data.csv") == Path("data-captions")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    """--help shows the command as it is typed."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: captionmill {command}" in capsys.readouterr().out


def test_help_shows_every_setting(capsys):
    """A setting that is written once in the configuration has its flag and its text."""
    with pytest.raises(SystemExit):
        main(["caption", "--help"])
    text = capsys.readouterr().out
    flags = set(re.findall(r"--([a-z-]+)", text))
    assert {
        n.replace("_", "-") for n in set(RunConfig.model_fields) - {"endpoint", "prices"}
    } - flags == set()


def test_unknown_commands(capsys):
    """A typo gets its suggestion; no command at all gets the list. Exit 2."""
    assert main(["captoin"]) == 2
    assert "did you mean caption?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0
