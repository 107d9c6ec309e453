"""Answers in a form: what the endpoint takes of response_format and tools, and values that fit a schema.

By default it takes all forms. `FormSupport` makes it a server that lacks some, or a relay that drops parameters.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..labels.classes import fold
from ..labels.strict import check_strict
from .describer import PictureFacts, describe
from .refusal import BadRequest

FORMS = ("schema", "tool", "json")


@dataclass(frozen=True, slots=True)
class FormSupport:
    """forms: those it takes, the others are refused. ignored: parameters that it drops without a word, as relays do.

    label_noise: share (0 to 1) of the pictures whose class is a wrong one on purpose. seed: of that.
    """

    forms: tuple[str, ...] = FORMS
    ignored: tuple[str, ...] = ()
    label_noise: float = 0.0
    seed: int = 0

    def kept(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request without the parameters that are dropped."""
        names = {*self.ignored, *(("tool_choice",) if "tools" in self.ignored else ())}
        return {name: value for name, value in body.items() if name not in names}


ALL_FORMS = FormSupport()


def check_form(body: dict[str, Any], text: str, support: FormSupport) -> None:
    """Raises BadRequest for a form that is not supported, in the words of the servers that do so. text: of all messages."""
    wanted = body.get("response_format")
    wanted = wanted if isinstance(wanted, dict) else {}
    kind = wanted.get("type")
    if kind in ("json_schema", "json_object"):
        if {"json_schema": "schema", "json_object": "json"}[kind] not in support.forms:
            raise BadRequest("This response_format type is unavailable now", param="response_format")
        if kind == "json_schema":
            _check_schema(wanted.get("json_schema"))
        elif "json" not in text.lower():
            raise BadRequest(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type"
                " 'json_object'.",
                param="messages",
            )
    if body.get("tool_choice") not in (None, "auto", "none") and "tool" not in support.forms:
        raise BadRequest("tool_choice is not supported by this model.", param="tool_choice")


def _check_schema(given: Any) -> None:
    if not isinstance(given, dict) or not isinstance(given.get("schema"), dict) or not given.get("name"):
        raise BadRequest(
            "Missing required parameter: 'response_format.json_schema'.", param="response_format"
        )
    if given.get("strict") and (problems := check_strict(given["schema"])):
        raise BadRequest(
            f"Invalid schema for response_format '{given['name']}': {problems[0]}",
            "invalid_json_schema",
            "response_format",
        )


def schema_in_text(text: str) -> dict[str, Any] | None:
    """The last line of a prompt that is a JSON schema of an object; None where there is none."""
    for line in reversed(text.splitlines()):
        if line.startswith("{") and '"properties"' in line:
            try:
                schema = json.loads(line)
            except ValueError:
                continue
            if isinstance(schema, dict):
                return schema
    return None


def fill(schema: dict[str, Any], measured: Sequence[PictureFacts], variant: int, support: FormSupport) -> Any:
    """A value that fits a JSON schema: measurements where a name or an enum asks for one, descriptions for other text.

    An enum gets the first of shape, brightness and colours that it names, else its first value. variant: another
    wording of descriptions.
    """
    if "enum" in schema:
        return _pick(schema["enum"], measured, support)
    if "const" in schema:
        return schema["const"]
    if schema.get("anyOf"):
        forms = [form for form in schema["anyOf"] if form.get("type") != "null"]
        return fill((forms or schema["anyOf"])[0], measured, variant, support)
    kind = schema.get("type", "object")
    kind = next((k for k in kind if k != "null"), "null") if isinstance(kind, list) else kind
    if kind == "object":
        return _object(schema, measured, variant, support)
    if kind == "array":
        items = schema.get("items") or {"type": "string"}
        if "enum" in items:
            return [value for value in items["enum"] if fold(str(value)) in _words(measured)]
        return [fill(items, measured, variant, support)]
    plain = {
        "integer": len(measured),
        "number": measured[0].brightness if measured else 0.0,
        "boolean": bool(measured),
        "null": None,
    }
    if kind in plain:
        return plain[kind]
    return describe(measured[0], variant) if measured else "no picture"


def _object(
    schema: dict[str, Any], measured: Sequence[PictureFacts], variant: int, support: FormSupport
) -> dict[str, Any]:
    facts: dict[str, Any] = measured[0].facts() if measured else {}
    return {
        name: facts[name]
        if name in facts and "enum" not in inner
        else fill(inner, measured, variant, support)
        for name, inner in (schema.get("properties") or {}).items()
    }


def _words(measured: Sequence[PictureFacts]) -> list[str]:
    """What was measured in the first picture, in folded words."""
    if not measured:
        return []
    first = measured[0]
    return [fold(word) for word in (first.shape, first.brightness_word, *first.colours)]


def _pick(values: list[Any], measured: Sequence[PictureFacts], support: FormSupport) -> Any:
    by_word = {fold(str(value)): number for number, value in enumerate(values) if value is not None}
    number = next((by_word[word] for word in _words(measured) if word in by_word), 0)
    chance = random.Random(f"{support.seed} {measured}")  # the same picture gets the same answer
    if support.label_noise and chance.random() < support.label_noise:
        others = [n for n, value in enumerate(values) if n != number and value is not None]
        number = chance.choice(others or [number])
    return values[number]
