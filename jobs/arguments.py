"""Flags and TOML -> one checked RunConfig. Both are made from the settings in nouns/config.py.

A flag wins over the file, the file over the default. Each mistake is one line with the flag, or with the
key and its line in the file.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from captionmill.nouns.config import GROUPS, EndpointEntry, Price, PriceTable, RunConfig
from captionmill.nouns.errors import UsageError
from captionmill.wiring.addresses import default_run_path
from pydantic import ValidationError

from .parser import Parser, user_path
from .schema_file import read_schema

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_WORD = re.compile(r"[A-Za-z][\w./-]*")  # of --param: text, since as JSON it would be a mistake
_JSON_SETTINGS = frozenset({"logit_bias", "label_schema", "response_format", "tools", "tool_choice"})
_REPEATED_SETTINGS = frozenset({"stop", "param"})
_SWITCHES = frozenset(
    {"logprobs", "multi", "coerce", "keep_thinking", "strip_metadata", "allow_outside", "allow_remote"}
)


def add_source(parser: Parser) -> None:
    """Add SOURCE and -o."""
    parser.add_argument(
        "source",
        type=user_path,
        nargs="?",
        help="a folder, or a .csv, .tsv, .json, .jsonl or .parquet manifest",
    )
    parser.add_argument(
        "-o", "--output", type=user_path, metavar="RUN", help="the run folder [SOURCE's name + -captions]"
    )


def add_resume_flags(parser: Parser) -> None:
    """Add the flags that say what of an earlier start is asked again."""
    parser.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="KIND,...",
        help="retry failed rows: all of them, or only these error kinds (`captionmill status` lists them)",
    )
    parser.rare(
        parser.add_argument("--moved", action="store_true", help="accept that the source has a new path")
    )


def read_retry_failed(arguments: argparse.Namespace) -> frozenset[str] | None:
    """Error kinds of the failed rows to retry; empty for all kinds, None for no retry."""
    kinds: str | None = arguments.retry_failed
    # in `--retry-failed SOURCE`, argparse takes the path for the kinds
    if arguments.source is None and kinds and Path(kinds).exists():
        arguments.source, kinds = Path(kinds), ""
    return None if kinds is None else frozenset(k.strip() for k in kinds.split(",") if k.strip())


def read_source(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Source and run folder. Call it after `read_settings`: the TOML file may name the folder.

    Raises UsageError if no source was given.
    """
    source: Path | None = arguments.source
    if source is None:
        raise UsageError("SOURCE is needed: a folder, or a .csv, .tsv, .json, .jsonl or .parquet manifest")
    return source, arguments.output or default_run_path(source)


def add_settings(parser: Parser) -> None:
    """Add one flag per setting, in the groups of the configuration, and --prompt-file and --config."""
    for title, group in GROUPS:
        section = parser.add_argument_group(title)
        for name, setting in group.model_fields.items():
            action = section.add_argument(f"--{name.replace('_', '-')}", **_flag_options(name, setting))
            if not _is_basic(setting):
                parser.rare(action)
            if name == "labels":
                section.add_argument(
                    "--schema", metavar="FILE", help="JSON schema of the answer, or module:Model of pydantic"
                )
            if name == "prompt":
                section.add_argument(
                    "--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file"
                )
    parser.add_argument(
        "--config",
        type=user_path,
        metavar="TOML",
        help="a file with settings by the same names (flags win); also [[endpoint]] entries for several endpoints and"
        " keys, and [prices]",
    )


def _flag_options(name: str, setting: FieldInfo) -> dict[str, Any]:
    """The arguments of `add_argument` for one setting. The default stays None: only given flags count."""
    default, text = setting.get_default(), setting.description or ""
    allowed = _choices(setting.annotation)
    if not all(word in text for word in allowed):
        text += f": {', '.join(allowed)}"
    if not setting.is_required() and default is not None:
        text += f" [{default}]"
    options: dict[str, Any] = {"dest": name, "default": None, "help": text.replace("%", "%%")}
    if name in _SWITCHES:
        return options | {"action": argparse.BooleanOptionalAction}
    metavar = "NAME=VALUE" if name == "param" else name.upper()
    return options | {"metavar": metavar, "action": "append" if name in _REPEATED_SETTINGS else "store"}


def _is_basic(setting: FieldInfo) -> bool:
    """Whether --help shows the setting."""
    extra = setting.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("is_basic"))


def _choices(annotation: Any) -> list[str]:
    """The words that a setting may have: those of its Literal types."""
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    return [
        word for inner in get_args(annotation) if get_origin(inner) is Literal for word in _choices(inner)
    ]


def read_settings(arguments: argparse.Namespace) -> RunConfig:
    """The configuration of a start, from flags and TOML file. Raises UsageError with a line per mistake."""
    file, file_path = _read_toml(arguments.config)
    flags = {
        name: _flag_value(name, value)
        for _, group in GROUPS
        for name in group.model_fields
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.prompt_file is not None:
        if "prompt" in flags:
            raise UsageError("--prompt and --prompt-file: give one of them, not both")
        flags["prompt"] = _read_prompt(user_path(arguments.prompt_file))
    elif "prompt_file" in file and "prompt" not in flags and file_path is not None:
        flags["prompt"] = _read_prompt(file_path.parent / user_path(str(file["prompt_file"])))
    file.pop("prompt_file", None)
    _read_labels(arguments, flags, file, file_path)
    if "output" in file and getattr(arguments, "output", None) is None and file_path is not None:
        arguments.output = file_path.parent / user_path(str(file["output"]))
    file.pop("output", None)
    both = {"max_tokens", "max_completion_tokens"}
    if both <= file.keys() | flags.keys():
        raise UsageError(
            "--max-tokens and --max-completion-tokens: give one of them, not both (newer OpenAI models want"
            " --max-completion-tokens, most other endpoints --max-tokens)"
        )
    try:
        return RunConfig.model_validate(file | flags)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(e, flags, file_path) for e in error.errors())
        raise UsageError("\n".join(lines)) from None


def read_prices(path: Path | None) -> PriceTable | None:
    """The [prices] table of a TOML file that may hold other settings too; None if it has none.

    path: None for no file. Raises UsageError if the file or the table is broken.
    """
    file, _ = _read_toml(path)
    if "prices" not in file:
        return None
    try:
        return PriceTable.model_validate(file["prices"])
    except ValidationError as error:
        lines = (_explain_price(e | {"loc": ("prices", *e["loc"])}, path) for e in error.errors())
        raise UsageError("\n".join(dict.fromkeys(lines))) from None


def read_endpoint_prices(path: Path | None) -> dict[str, Price | None]:
    """The prices of the [[endpoint]] entries of a TOML file, by the endpoint's name in the column `endpoint`.

    path: None for no file. Raises UsageError if an entry is broken.
    """
    from captionmill.wiring.addresses import names_of

    file, _ = _read_toml(path)
    try:
        entries = [EndpointEntry.model_validate(entry) for entry in file.get("endpoint", ())]
    except ValidationError as error:
        places = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise UsageError(f"{path}: [[endpoint]]: {places}: {error.errors()[0]['msg']}") from None
    asked = [e if e.model else e.model_copy(update={"model": file.get("model")}) for e in entries]
    return {name: entry.price for name, entry in zip(names_of(asked), entries, strict=True)}


# ------------------------------------------------------------------------------- flags


def _flag_value(name: str, value: Any) -> Any:
    if name == "param":
        return dict(_parameter(text) for text in value)
    if name == "stop":
        return value if len(value) > 1 else value[0]
    if name in _JSON_SETTINGS and (name != "tool_choice" or value.lstrip().startswith("{")):
        return _json(f"--{name.replace('_', '-')}", value)
    return value


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--param {text!r}: NAME=JSON is needed, for example --param top_k=40")
    if _WORD.fullmatch(value) and value not in ("true", "false", "null", "NaN", "Infinity"):
        return name, value
    return name, _json(f"--param {name}", value)


def _json(flag: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{flag}: not JSON ({error}): {text!r:.80}") from None


# ------------------------------------------------------------------------------- files


def _read_toml(path: Path | None) -> tuple[dict[str, Any], Path | None]:
    if path is None:
        return {}, None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig")), path
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: broken TOML: {error}") from None


def _read_labels(
    arguments: argparse.Namespace, flags: dict[str, Any], file: dict[str, Any], file_path: Path | None
) -> None:
    """--schema, `schema` of the TOML, and classes that are in a file, as settings. Changes flags and file."""
    base = file_path.parent if file_path else Path()
    named, given = file.pop("schema", None), getattr(arguments, "schema", None)
    if given is not None:
        flags["label_schema"] = read_schema(str(given), Path())
    elif named is not None and "labels" not in flags:
        flags["label_schema"] = read_schema(str(named), base)
    for settings, folder in ((flags, Path()), (file, base)):
        labels = settings.get("labels")
        if isinstance(labels, str) and labels.startswith("@"):
            lines = _read_prompt(folder / labels[1:]).splitlines()
            settings["labels"] = [line.strip() for line in lines if line.strip()]
    if "labels" in flags or "label_schema" in flags:  # a flag wins over either in the file
        for name in ("labels", "label_schema"):
            file.pop(name, None)


def _read_prompt(path: Path) -> str:
    try:
        prompt = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the prompt cannot be read ({error})") from None
    if not prompt:
        raise UsageError(f"{path}: the prompt is empty")
    return prompt


# ------------------------------------------------------------------------------- messages


def _explain(error: Any, flags: dict[str, Any], file_path: Path | None) -> str:
    """One pydantic error as one line for the user."""
    location = error["loc"]
    if not location:  # about several settings together
        return str(error["msg"]).removeprefix("Value error, ")
    fields, where = RunConfig.model_fields, ""
    if location[0] == "prices":
        return _explain_price(error, file_path)
    if len(location) > 2 and location[0] == "endpoint":
        fields, name = EndpointEntry.model_fields, str(location[2])
        where = _line_in_entry(name, location[1], file_path)
    else:
        name = str(location[0])
        where = f"--{name.replace('_', '-')}" if name in flags else _line_of(name, file_path)
    flag = f"--{name.replace('_', '-')}"
    if error["type"] == "missing" and name == location[0]:
        return f"{flag} is needed, for example {flag} gpt-4o"
    if error["type"] == "extra_forbidden" and name not in fields:
        near = difflib.get_close_matches(name, [*fields, "prompt_file"], 1)
        return f"{where}: no setting of this name" + (f"; did you mean {near[0]}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    if location[0] == "endpoint" and len(location) < 3:  # the rejected value may hold a key
        return f"{where}: a list is needed: entries that begin with [[endpoint]], in double brackets"
    if name == "proxy":  # it may hold a password
        return f"{where}: {message}"
    if name == "api_key_env":  # the rejected value may be the key itself
        return f"{where}: the NAME of a variable is needed here, never the key itself"
    return f"{where}: {message} (got {error['input']!r:.60}; {fields[name].description})"


def _explain_price(error: Any, path: Path | None) -> str:
    """One pydantic error in [prices] as one line, with the model and the line where it or the table begins."""
    model = str(error["loc"][1]) if len(error["loc"]) > 1 else ""
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path else []
    number = next((n for n, line in enumerate(lines, 1) if model and model in line), None)
    where = f"{path}:{number}" if number else _line_of("prices", path)
    name = ".".join(str(part) for part in error["loc"][1:])
    message = error["msg"].removeprefix("Value error, ")
    return (
        f"{where}: prices: {f'{name}: ' if name else ''}{message} (currency, multiplier, or a model's name with"
        " { input = 2.5, output = 10.0 } per million tokens; also cached, reasoning, multiplier)"
    )


def _line_in_entry(name: str, number: int, path: Path | None) -> str:
    """File and line of `name` in the [[endpoint]] with this number, counted from 0."""
    assert path is not None  # noqa: S101  only a file has entries
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    starts = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*endpoint\s*\]\]", line)]
    start = starts[number] if number < len(starts) else 0
    found = _find_key(name, lines[start:])
    return f"{path}:{start + (found or 1)}: {name} of endpoint {number + 1}"


def _line_of(name: str, path: Path | None) -> str:
    if path is None:
        return name
    number = _find_key(name, path.read_text(encoding="utf-8-sig").splitlines())
    return f"{path}:{number}: {name}" if number else f"{path}: {name}"


def _find_key(name: str, lines: list[str]) -> int | None:
    """The line, counted from 1, in which a key or a table of this name begins; None if there is none."""
    pattern = re.compile(rf"""^\s*(\[\[?\s*)?["']?{re.escape(name)}["']?\s*[.=\]]""")
    return next((n for n, line in enumerate(lines, 1) if pattern.match(line)), None)
