"""Flags, TOML and environment -> one checked configuration, and a clear line for everything that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.jobs.__main__ import COMMANDS, GROUPS, main
from captionmill.jobs.arguments import add_settings, read_settings
from captionmill.jobs.gallery import ROWS_PER_PAGE
from captionmill.jobs.parser import Parser
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import UsageError
from captionmill.pages.selection import View
from captionmill.wiring.addresses import default_run_path, read_addresses
from commands import captionmill, draw_pictures, environment


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
    assert "--prompt and --prompt-file" in complaint("--model", "m", "--prompt", "x", "--prompt-file", "y")
    assert "cannot be read" in complaint("--model", "m", "--prompt-file", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ((), ("--model", "gpt-4o")),
        (("--model", "m", "--temprature", "1"), ("'--temprature'", "--temperature?", "--help-all")),
        (("--model", "m", "--temperature", "3"), ("--temperature: ", "'3'", "equal to 2")),
        (("--model", "m", "--tpm", "fast"), ("--tpm: ", "'fast'", "integer")),
        (("--model", "m", "--tools", "{"), ("--tools: ", "JSON", "'{'")),
        (("--model", "m", "--param", "top_k"), ("--param 'top_k'", "NAME=JSON")),
        (("--model", "m", "--param", "stream=true"), ("--param: ", "stream")),
        (("--model", "m", *(["--stop", "x"] * 5)), ("--stop: ", "1 to 4")),
        (("--model", "m", "--detail", "hi"), ("--detail: ", "'auto', 'low', 'high' or 'original'")),
        (("--model", "m", "--background", "white"), ("--background: ", "'white'", "#rrggbb")),
        (("--model",), ("--model", "expected one argument")),
        (("--config", "none.toml"), ("none.toml: no such file",)),
    ],
)
def test_a_wrong_flag_is_one_clear_line(argv, parts):
    """The flag, what it got, and what is allowed."""
    message = complaint(*argv)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('model = "m"\nmodl = "x"\n', ("run.toml:2: modl: ", "model?")),
        ('model = "m"\n\ntpm = "many"\n', ("run.toml:3: tpm: ", "'many'")),
        ('model = "m"\n[limits]\ntpm = 1\n', ("run.toml:2: limits: ",)),
        ('model = "m\n', ("run.toml: ", "TOML")),
        ('model = "m"\napi_key = "sk-1"\n', ("run.toml:2: api_key: ", "api_key_env?")),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path, text, parts):
    """Unknown key or wrong type: the file, the line, the key, and the nearest name."""
    message = complaint(*toml(tmp_path, text))
    assert [part for part in parts if part not in message] == [], message


def test_all_mistakes_at_once(tmp_path):
    """One line each, so that one start shows them all."""
    assert len(complaint("--temperature", "9", "--top-p", "2").splitlines()) == 3


def read_one(config):
    (endpoint,) = read_addresses(config)
    return endpoint


def test_the_endpoint_and_its_key(monkeypatch):
    """Flag over environment over default; a key is needed except on this machine."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RELAY_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY"):
        read_one(parse("--model", "m"))
    assert read_one(parse("--model", "m", "--base-url", "http://localhost:11434")).key is None
    monkeypatch.setenv("RELAY_KEY", " sk-1 ")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://relay.test")
    endpoint = read_one(parse("--model", "m", "--api-key-env", "RELAY_KEY"))
    assert (endpoint.url, endpoint.key) == ("https://relay.test/v1/chat/completions", "sk-1")
    monkeypatch.setenv("RELAY_KEY", "sk-1\nsk-2")
    with pytest.raises(UsageError, match="RELAY_KEY has characters"):
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
    endpoints = read_addresses(config)
    assert [e.key for e in endpoints] == ["sk-1", "sk-2"]
    assert [e.name for e in endpoints] == [
        "one.test/v1/chat/completions (KEY_ONE)",
        "one.test/v1/chat/completions (KEY_TWO)",
    ]
    monkeypatch.delenv("KEY_TWO")
    with pytest.raises(UsageError, match="variable KEY_TWO"):
        read_addresses(config)


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        ('tpn = 5\n', (), "run.toml:13: tpn of endpoint 2: "),
        ('tpm = "many"\n', (), "run.toml:13: tpm of endpoint 2: "),
        ('concurrency = 0\n', (), "run.toml:13: concurrency of endpoint 2: "),
        ("", ("--tpm", "100"), "--tpm: with [[endpoint]]"),
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
        assert "NAME of a variable" in said
        assert "5d1c9e7a" not in said


def test_single_brackets_show_nothing_of_the_entry(tmp_path):
    """[endpoint] instead of [[endpoint]]: the line and what is meant, not what stands there."""
    said = complaint(*toml(tmp_path, 'model = "m"\n[endpoint]\napi_key = "sk-5d1c9e7a"\n'))
    assert "run.toml:2: endpoint: " in said
    assert "[[endpoint]]" in said
    assert "5d1c9e7a" not in said


def test_the_run_folder_is_named_after_the_source(tmp_path):
    """photos -> photos-captions, data.csv -> data-captions, a trailing slash or a dot changes nothing."""
    (tmp_path / "photos.old").mkdir()
    assert default_run_path(tmp_path / "photos.old") == Path("photos.old-captions")
    (tmp_path / "data.csv").touch()
    assert default_run_path(tmp_path / "data.csv") == Path("data-captions")


def helped(capsys, *argv: str) -> str:
    """What a help prints; it ends with exit code 0."""
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    """The flags that a help explains, each at the start of its entry."""
    entries = re.findall(r"^  (-.*)$", text, re.M)
    return {flag for entry in entries for flag in re.findall(r"--[a-z-]+", entry.split("  ")[0])}


MOST_NEEDED = {
    *("--help", "--help-all", "--output", "--config", "--limit", "--retry-failed"),
    *("--model", "--prompt", "--prompt-file", "--max-tokens", "--base-url", "--api-key-env"),
    *("--tpm", "--rpm", "--concurrency", "--budget-usd", "--labels", "--schema"),
}


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_both_helps(command, flag, capsys):
    """They begin with the command as it is typed, and name each other."""
    text = helped(capsys, command, flag)
    assert text.startswith(f"usage: captionmill {command}")
    assert {"--help", "--help-all"} <= flags_in(text)


def test_help_shows_the_settings_that_most_people_need(capsys):
    """`caption --help` has these and no others, and says how many more --help-all has; `plan` has its own beside them."""
    short, full = helped(capsys, "caption", "--help"), helped(capsys, "caption", "--help-all")
    assert flags_in(short) == MOST_NEEDED
    hidden = {flag.replace("--no-", "--") for flag in flags_in(full)} - MOST_NEEDED
    assert re.findall(r"caption --help-all .*?(\d+)", short) == [str(len(hidden))]
    more = {"--sample", "--compare", "--calibrate", "--json"}
    assert flags_in(helped(capsys, "plan", "--help")) == MOST_NEEDED | more


def test_help_all_shows_every_setting(capsys):
    """A setting that is written once in the configuration has its flag, its text and its place in a group."""
    names = set(RunConfig.model_fields) - {"endpoint", "prices"}
    assert {f"--{n.replace('_', '-')}" for n in names} <= flags_in(helped(capsys, "caption", "--help-all"))
    assert [n for n in names if not RunConfig.model_fields[n].description] == []


def test_help_groups_the_commands(capsys):
    """work, look, serve and mend, each with its commands below it; every command is in one group."""
    assert main(["--help"]) == 0
    blocks = [block for block in capsys.readouterr().out.split("\n\n") if ":\n" in block]
    shown = {block.split(":")[0]: re.findall(r"^  (\w+) ", block, re.M) for block in blocks}
    assert [*shown] == ["work", "look", "serve", "mend"]
    assert shown == {title: list(commands) for title, commands in GROUPS.items()}
    assert sorted(COMMANDS) == sorted(name for names in shown.values() for name in names)


def test_the_page_length_in_the_help_is_the_real_one():
    """The gallery's help does not import the gallery, so its default stands there again."""
    assert View().rows_a_page == ROWS_PER_PAGE


# ------------------------------------------------------------------------------- what a command imports

HEAVY = [
    "pandas",
    "matplotlib",
    "pyarrow",
    "numpy",
    "PIL",
    "aiohttp",
    "genai_prices",
    "jinja2",
    "tqdm",
    "asyncio",
]


def loaded(*argv: object, cwd: Path | None = None, base_url: str | None = None) -> set[str]:
    """The modules that a command of its own process has loaded at its end."""
    script = (
        "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr));"
        " from captionmill.jobs.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", script, *map(str, argv)]
    done = subprocess.run(
        line, cwd=cwd, env=environment(base_url), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    "argv", [("--help",), ("--version",), *((c, h) for c in COMMANDS for h in ("--help", "--help-all"))]
)
def test_a_help_loads_no_heavy_library(argv):
    """It is there at once: the settings need pydantic, and only where a command has them."""
    modules = loaded(*argv)
    assert modules & set(HEAVY) == set()
    assert ("pydantic" in modules) == (argv[0] in ("caption", "label", "plan"))


def test_the_caption_path_loads_neither_pandas_nor_matplotlib(tmp_path):
    """Not on a first start, and not where answers of an earlier one are read again."""
    draw_pictures(tmp_path / "p", 3)
    arguments = ("caption", "p", "--model", "gpt-4o", "--max-tokens", 60, "--budget-usd", 1, "-o", "run")
    with serving(EndpointSettings()) as url:
        for more in (("--limit", 2), ()):
            modules = loaded(*arguments, *more, cwd=tmp_path, base_url=url)
            assert "pyarrow" in modules
            assert modules & {"pandas", "matplotlib", "jinja2"} == set()


def test_what_reads_a_run_loads_what_it_needs(tmp_path):
    """`status` needs neither settings nor plots nor a loop, and no command needs pandas, which pyarrow would load."""
    draw_pictures(tmp_path / "p", 2)
    with serving(EndpointSettings()) as url:
        done = captionmill("caption", "p", "--model", "gpt-4o", "-o", "run", base_url=url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    absent = {
        "pandas",
        "matplotlib",
        "jinja2",
        "aiohttp",
        "PIL",
        "genai_prices",
        "pydantic",
        "asyncio",
        "tqdm",
    }
    assert loaded("status", "run", cwd=tmp_path) & absent == set()
    for command in ("report", "gallery"):
        assert loaded(command, "run", cwd=tmp_path) & {"pandas", "aiohttp"} == set()


def test_pandas_can_be_imported_after_a_command():
    """It is held back while a command works, not for the process around it."""
    script = (
        "from captionmill.jobs.__main__ import run_job; from captionmill.jobs.no_pandas import without_pandas; import pyarrow as pa\n"
        "with without_pandas():\n    pa.scalar('x')\n    import sys; assert 'pandas' not in sys.modules\n"
        "print(pa.table({'a': [1, 2]}).to_pandas().a.sum())"
    )
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


def test_unknown_commands(capsys):
    """A typo gets its suggestion; no command at all gets the list. Exit 2."""
    assert main(["captoin"]) == 2
    assert "did you mean caption?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0
