"""Settings of a labelling run -> what is asked of every row, and how an answer counts. Pure.

What is sent is narrowed (`narrow`), what counts is the user's schema: each answer is validated by jsonschema. The root
that is sent is an object; for another one the value stands under the name `value`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ..nouns.config import RunConfig
from ..nouns.errors import UsageError
from ..nouns.labels import Correction, Label, LabelColumn, Reading, RequestForm, Way
from ..nouns.rows import Choice
from ..rules.tokens import text_tokens
from .classes import LabelClass, fold, read_classes
from .coerce import coerced
from .columns import column_values, columns_of
from .ladder import BY_SETTING
from .narrow import narrow, without_nulls
from .reading import Candidate, candidates, texts_of
from .strict import check_strict

_MOST_WORDS = 600  # characters of what a validator says
_NAME = "label"


def label_task(config: RunConfig, is_router: bool = False) -> LabelTask | None:
    """The task of a labelling run; None for any other.

    is_router: OpenRouter, where a provider may ignore a parameter unless it is required. Raises UsageError for classes
    or a schema that cannot be asked.
    """
    if config.labels:
        schema = _schema_of(read_classes(config.labels), bool(config.multi))
        return LabelTask(config, schema, is_router)
    return None if config.label_schema is None else LabelTask(config, config.label_schema, is_router)


def _schema_of(classes: Sequence[LabelClass], is_multi: bool) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string", "enum": [c.name for c in classes]}
    if is_multi:
        one = {"type": "array", "items": one, "uniqueItems": True}
    name = "labels" if is_multi else "label"
    return {"type": "object", "properties": {name: one}, "required": [name], "additionalProperties": False}


class LabelTask:
    """schema: the user's, in full. moved: (path, keyword) of what no strict endpoint would take."""

    def __init__(self, config: RunConfig, schema: Mapping[str, Any], is_router: bool = False) -> None:
        self.schema = schema
        self._classes = read_classes(config.labels) if config.labels else ()
        self._is_multi = bool(config.multi)
        self._coerces = bool(config.coerce)
        provider = (config.param or {}).get("provider")
        own = provider if isinstance(provider, dict) else {}
        self._more: dict[str, Any] = {"provider": {"require_parameters": True, **own}} if is_router else {}
        self._validator = _validator(schema)
        narrowed = narrow(schema)
        self.moved, self._optional = narrowed.moved, narrowed.optional
        self._is_wrapped = narrowed.schema.get("type") != "object"
        self.sent = _wrapped(narrowed.schema) if self._is_wrapped else narrowed.schema
        ways = BY_SETTING[config.structured]
        if check_strict(self.sent):  # too many classes, too deep: no endpoint would take it as strict
            ways = tuple(way for way in ways if way != "strict") or ways
        self.ways: tuple[Way, ...] = ways
        self._forms: dict[Way, RequestForm] = {}
        self._names = {fold(c.name): c.name for c in self._classes}

    # ---- asking

    def form(self, way: Way, correction: Correction | None = None) -> RequestForm:
        """What a request in this way has. correction: the turn that failed; None for the first ask."""
        if way not in self._forms:
            parameters = self._parameters(way)
            as_json = json.dumps(parameters, ensure_ascii=False)
            self._forms[way] = RequestForm(way, parameters, self._text(way), parameters_text=as_json)
        form = self._forms[way]
        return form if correction is None else replace(form, correction=correction)

    def _parameters(self, way: Way) -> dict[str, Any]:
        if way in ("strict", "schema"):
            inner: dict[str, Any] = {"name": _NAME, "schema": self.sent}
            if way == "strict":
                inner["strict"] = True
            return {"response_format": {"type": "json_schema", "json_schema": inner}, **self._more}
        if way == "tool":
            function = {"name": _NAME, "description": "Give the label of the image", "parameters": self.sent}
            return {
                "tools": [{"type": "function", "function": function}],
                "tool_choice": {"type": "function", "function": {"name": _NAME}},
                **self._more,
            }
        return {"response_format": {"type": "json_object"}, **self._more} if way == "json" else {}

    def _text(self, way: Way) -> str:
        lines = []
        if self._classes:
            lines.append("Classes:")
            lines += [f"- {label_class}" for label_class in self._classes]
            what = "all classes that fit, or none" if self._is_multi else "exactly one class"
            lines.append(f"Answer with {what}.")
        if way in ("json", "text"):
            lines += [
                "Answer with JSON only, without any other text, that fits this JSON schema:",
                self._sent_json,
            ]
        return "\n".join(lines)

    @cached_property
    def _sent_json(self) -> str:
        return json.dumps(self.sent, ensure_ascii=False, separators=(",", ":"))

    @property
    def columns(self) -> tuple[LabelColumn, ...]:
        """The columns that only this run has."""
        if self._classes:
            names = tuple(c.name for c in self._classes)
            return () if self._is_multi else (LabelColumn("label_index", "class", names),)
        return tuple(self._columns.values())

    @cached_property
    def _columns(self) -> dict[str, LabelColumn]:
        return {} if self._classes or self._is_wrapped else columns_of(self.sent)

    @property
    def text_tokens(self) -> int:
        """About what the form of the first way adds to a prompt, schema included."""
        form = self.form(self.ways[0])
        return text_tokens(form.text) + text_tokens(form.parameters_text)

    # ---- reading

    def read(self, choice: Choice) -> Reading:
        """What an answer says: the first of its possible meanings that is valid, or the problem."""
        is_cut, is_json, problem = choice.finish == "length", False, ""
        texts = texts_of(choice)
        for text in texts:
            is_json = is_json or text.startswith(("{", "["))
            for candidate in candidates(text, is_cut):
                is_json = is_json or isinstance(candidate.value, dict | list)
                found = self._label(candidate)
                if isinstance(found, Label):
                    return Reading(found, is_json=is_json)
                problem = problem or found
            if not is_cut and (word := self._word(text)) is not None:
                found = self._label(Candidate(word, "extracted"))
                if isinstance(found, Label):
                    return Reading(found, is_json=is_json)
        raw = texts[0] if texts else ""
        is_refused = bool(choice.refusal) or choice.finish == "content_filter"
        return Reading(
            problem=_problem(choice, problem), is_json=is_json, can_ask_again=not (is_cut or is_refused), raw=raw
        )  # fmt: skip

    def _label(self, candidate: Candidate) -> Label | str:
        """The label, or what the validator says."""
        value, parse = candidate.value, candidate.parse
        if self._is_wrapped and isinstance(value, dict) and set(value) == {"value"}:
            value = value["value"]
        if self._classes:
            value, is_changed = self._spelled(value)
            parse = "extracted" if is_changed else parse
        else:
            value = without_nulls(value, self._optional)
        if self._coerces and (changed := coerced(value, self.sent)) != value:
            value, parse = changed, "repaired"
        words = "; ".join(
            _says(error) for _, error in zip(range(3), self._validator.iter_errors(value), strict=False)
        )
        if words:
            return words[:_MOST_WORDS]
        return self._as_label(value, parse)

    def _as_label(self, value: Any, parse: Any) -> Label:
        if not self._classes:
            text = json.dumps(value, ensure_ascii=False)
            return Label(text, parse, column_values(value, self._columns) if self._columns else {})
        if self._is_multi:
            return Label(json.dumps(value["labels"], ensure_ascii=False), parse)
        name = value["label"]
        return Label(name, parse, {"label_index": [c.name for c in self._classes].index(name)})

    def _spelled(self, value: Any) -> tuple[Any, bool]:
        """With each class in the user's spelling, and whether one was written otherwise."""
        key = "labels" if self._is_multi else "label"
        given = value.get(key) if isinstance(value, dict) else None
        if isinstance(given, str) and not self._is_multi:
            name = self._names.get(fold(given), given)
            return {**value, key: name}, name != given
        if isinstance(given, list) and self._is_multi:
            names = [self._names.get(fold(g), g) if isinstance(g, str) else g for g in given]
            return {**value, key: names}, names != given
        return value, False

    def _word(self, text: str) -> dict[str, Any] | None:
        """A bare class ("Cat."), or with --multi bare classes with commas; None where any of it is no class."""
        if not self._classes or len(text) > 10_000:
            return None
        if not self._is_multi:
            name = self._names.get(fold(text))
            return None if name is None else {"label": name}
        names = [self._names.get(fold(part)) for part in text.split(",")]
        return None if None in names else {"labels": [*dict.fromkeys(names)]}


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }


def _validator(schema: Mapping[str, Any]) -> Any:
    """The jsonschema validator of the user's schema. Raises UsageError with path and keyword where it is none."""
    from jsonschema import Draft202012Validator, SchemaError, validators  # noqa: PLC0415  0.1 s, for labels only

    kind = validators.validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        at = "/".join(("#", *map(str, error.absolute_path)))
        raise UsageError(f"--schema: {at}: {error.message} ({error.validator})") from None
    return kind(schema)


def _says(error: Any) -> str:
    at = "/".join(map(str, error.absolute_path))
    return f"{at}: {error.message}" if at else str(error.message)


def _problem(choice: Choice, problem: str) -> str:
    if choice.finish == "length":
        return "the answer was cut off; raise --max-tokens"
    if choice.refusal or choice.finish == "content_filter":
        return f"the model refused: {choice.refusal or choice.finish}"
    return problem or "the answer is not JSON"
