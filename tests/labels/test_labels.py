"""Labels: what is sent is narrowed, what counts is the user's schema, and half a word is never a class."""

from __future__ import annotations

import json
import random

import pytest
from captionmill.labels.ladder import Ladder
from captionmill.labels.narrow import narrow
from captionmill.labels.strict import check_strict
from captionmill.labels.task import label_task
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import UsageError
from captionmill.nouns.rows import Choice
from jsonschema import Draft202012Validator

ANIMALS = ["cat=a domestic cat", "caterpillar", "dog", "golden retriever", "other"]


def task(**settings):
    return label_task(RunConfig(model="m", **settings))


def read(text, finish="stop", tool_calls=None, **settings):
    settings = settings or {"labels": ANIMALS}
    return task(**settings).read(Choice(0, text, finish, finish, tool_calls=tool_calls))


# ------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "label", "parse"),
    [
        ('{"label": "cat"}', "cat", "clean"),
        ('<think>a dog? {"label":"dog"}</think>\n{"label": "cat"}', "cat", "clean"),
        ('```json\n{"label": "cat"}\n```', "cat", "clean"),
        ('The set {cat, dog}. First {"label":"dog"}, no: {"label":"cat"}', "cat", "extracted"),
        ("Cat.", "cat", "extracted"),
        ("**Golden Retriever**", "golden retriever", "extracted"),
        ('{"label": "Cat"}', "cat", "extracted"),
        ("{'label': 'cat',}", "cat", "repaired"),
        ('{"label": cat}', "cat", "repaired"),
    ],
)
def test_an_answer_is_read_as_far_as_it_is_certain(text, label, parse):
    """Strict JSON first, then JSON in the text, a bare class, and a repair last; the column says which."""
    found = read(text).label
    assert (found.text, found.parse) == (label, parse)
    assert ANIMALS[found.columns["label_index"]].partition("=")[0] == label


@pytest.mark.parametrize(
    "text", ["", "I see a cat.", "cat or dog", '{"label": "horse"}', '{"label": null}', "{}", "[[[[", "NaN", "cats"]
)  # fmt: skip
def test_what_is_no_class_is_a_problem(text):
    """Never a guess: a class within a sentence may be denied by it."""
    found = read(text)
    assert found.label is None
    assert found.problem


@pytest.mark.parametrize(
    "text",
    ['{"label":"cat', '{"label":"cat"', "cat", '{"label":"dog"} {"label":"cat', "```json\n{'label':'cat'}"],
)
def test_a_cut_answer_is_never_repaired(text):
    """cat may be the first half of caterpillar."""
    found = read(text, "length")
    assert found.label is None
    assert not found.can_ask_again


def test_json_is_found_in_tool_arguments_and_in_the_thinking():
    """vLLM puts it into reasoning_content with null content."""
    call = json.dumps([{"function": {"name": "label", "arguments": '{"label":"dog"}'}}])
    assert read(None, "tool_calls", call).label.text == "dog"
    thinking = Choice(0, None, "stop", "stop", reasoning='{"label":"dog"}')
    assert task(labels=ANIMALS).read(thinking).label.text == "dog"


def test_several_classes():
    """A JSON list; bare words with commas count where each is a class."""
    assert json.loads(read('{"labels": ["dog", "Cat"]}', labels=ANIMALS, multi=True).label.text) == [
        "dog",
        "cat",
    ]
    assert read("cat, dog", labels=ANIMALS, multi=True).label.text == '["cat", "dog"]'
    assert read('{"labels": []}', labels=ANIMALS, multi=True).label.text == "[]"
    assert read("cat, horse", labels=ANIMALS, multi=True).label is None


def test_fuzzed_answers_give_a_label_or_a_problem():
    """10,000 mangled answers: a label only where the answer holds that class as a whole word."""
    chance, one = random.Random(5), task(labels=ANIMALS)
    names = [a.partition("=")[0] for a in ANIMALS]
    for _ in range(10_000):
        truth = chance.choice(names)
        text = chance.choice(['{"label":"%s"}', "```json\n{\"label\": \"%s\"}\n```", "{'label': '%s',}", "%s", "It is: {\"label\":\"%s\"}"]) % truth  # fmt: skip
        is_cut = chance.random() < 0.5
        if is_cut:
            text = text[: chance.randrange(len(text))]
        for _ in range(chance.randrange(3)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice('{}[]",:\n x') + text[at:]
        found = one.read(Choice(0, text, *(["length"] * 2 if is_cut else ["stop"] * 2)))
        assert (found.label is None) == bool(found.problem)
        if found.label is not None:
            assert found.label.text == truth, text


# ------------------------------------------------------------------------------- schemas

COLOUR = {"enum": ["red", "blue"]}
SCHEMAS = [
    ({"type": "object", "properties": {"class": COLOUR, "n": {"type": "integer", "minimum": 0}}, "required": ["class"]},
     [{"class": "red"}, {"class": "blue", "n": 3}]),
    ({"$defs": {"c": COLOUR}, "type": "object", "properties": {"a": {"$ref": "#/$defs/c"}, "b": {"$ref": "#/$defs/c"}}},
     [{"a": "red"}, {}, {"a": "red", "b": "blue"}]),
    ({"type": "object", "properties": {"v": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "number"}]}}, "required": ["v"]},
     [{"v": "ab"}, {"v": 2.5}]),
    ({"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {"type": "boolean"}}}]},
     [{"a": "x"}, {"a": "x", "b": True}]),
    ({"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}}},
     [{"tags": ["a"]}, {}]),
    ({"type": "object", "properties": {"k": {"const": 1}, "n": {"type": ["integer", "null"]}, "x": True}, "required": ["k", "n"]},
     [{"k": 1, "n": None}, {"k": 1, "n": 4, "x": "y"}]),
    ({"type": "object", "properties": {"t": {"prefixItems": [{"type": "string"}, {"type": "integer"}]}}},
     [{"t": ["a", 1]}, {"t": ["a"]}]),
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "if": {"required": ["a"]}, "then": {"properties": {"a": {"minimum": 3}}}},
     [{"a": 5}, {}]),
    ({"type": "object", "properties": {"in": {"type": "object", "properties": {"x": {"type": "number"}}}}}, [{"in": {"x": 1}}, {"in": {}}]),
    ({"anyOf": [{"type": "object", "properties": {"a": COLOUR}, "required": ["a"]}, {"type": "string"}]}, [{"a": "red"}, "x"]),
    ({"type": "array", "items": COLOUR}, [["red"], []]),
    ({"enum": ["a", 1, True, None]}, ["a", 1, True, None]),
    ({"type": "object", "properties": {"l": {"type": "array"}}, "patternProperties": {"^x": {}}, "not": {"required": ["q"]}}, [{"l": [1, "a"]}]),
]  # fmt: skip


def without_nulls(value):
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def filled(value, form):
    """A value as a strict endpoint gives it: optional properties that are missing are null."""
    if isinstance(value, dict):
        forms = [form, *form.get("anyOf", [])]
        for one in forms:
            if "properties" in one and set(value) <= set(one["properties"]):
                return {k: filled(value.get(k), f) for k, f in one["properties"].items()}
    return value


@pytest.mark.parametrize(("schema", "valid"), SCHEMAS)
def test_valid_stays_valid(schema, valid):
    """What the user's schema allows can be given by a strict endpoint, and is read back as it was meant."""
    one = task(label_schema=schema)
    assert check_strict(one.sent) == []
    for value in valid:
        assert Draft202012Validator(schema).is_valid(value)
        sent = (
            value
            if one.sent["properties"].keys() != {"value"}
            else {"value": filled(value, one.sent["properties"]["value"])}
        )
        if sent is value:
            sent = filled(value, one.sent)
        assert Draft202012Validator(one.sent).is_valid(sent), (sent, one.sent)
        found = one.read(Choice(0, json.dumps(sent), "stop", "stop"))
        assert found.label is not None, found.problem
        assert without_nulls(json.loads(found.label.text)) == without_nulls(value)
        assert found.label.parse == "clean"


def test_bounds_become_words():
    """A bound that no strict endpoint takes stands in the description, and is said; the full schema still counts."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 5, "description": "stars"}}, "required": ["n"]}  # fmt: skip
    one = task(label_schema=schema)
    assert one.sent["properties"]["n"] == {"type": "integer", "description": "stars; at least 1; at most 5"}
    assert one.moved == (("#/n", "minimum"), ("#/n", "maximum"))
    bad = one.read(Choice(0, '{"n": 7}', "stop", "stop"))
    assert bad.label is None
    assert "7" in bad.problem


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
            "$ref": "#/$defs/n",
        },
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema.json"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
        {"type": "object", "properties": {"a": {"type": "strnig"}}},
    ],
)
def test_a_schema_that_cannot_be_asked_is_refused_with_its_place(schema):
    """Recursive, outside, nowhere, misspelt: before anything is sent."""
    with pytest.raises(UsageError, match=r"#/"):
        task(label_schema=schema)


def test_columns_are_typed():
    """One column for each top-level property, of its type; deeper ones as JSON text, what does not fit is null."""
    schema = {"type": "object", "properties": {"class": COLOUR, "ok": {"type": "boolean"}, "n": {"type": "integer"}, "x": {"type": "number"},
              "tags": {"type": "array", "items": {"type": "string"}}, "in": {"type": "object", "properties": {}}, "from": {"type": "string"}}}  # fmt: skip
    one = task(label_schema=schema)
    assert {c.name: c.type for c in one.columns} == {
        "label_class": "string", "label_ok": "bool", "label_n": "int64", "label_x": "double", "label_tags": "list",
        "label_in": "json", "label_from_": "string",
    }  # fmt: skip
    found = one.read(Choice(0, '{"class":"red","n":5.0,"x":3,"tags":["a"],"in":{"q":1}}', "stop", "stop"))
    assert found.label.columns == {"label_class": "red", "label_n": 5, "label_x": 3.0, "label_tags": ["a"], "label_in": '{"q": 1}'}  # fmt: skip
    assert one.read(Choice(0, '{"n": 99999999999999999999}', "stop", "stop")).label.columns == {}


def test_coercion_is_a_setting():
    """A number as text is a mistake, unless --coerce is given and the schema leaves one reading."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert read('{"n": "3"}', label_schema=schema).label is None
    assert json.loads(read('{"n": "3"}', label_schema=schema, coerce=True).label.text) == {"n": 3}
    assert read('{"n": "3"}', label_schema=schema, coerce=True).label.parse == "repaired"


@pytest.mark.parametrize("labels", [["cat"], ["cat", "Cat."], ["cat", "!"]])
def test_classes_must_be_told_apart(labels):
    """Two at least, and by more than case and punctuation: a bare word must name one."""
    with pytest.raises(UsageError):
        task(labels=labels)


def test_many_classes_leave_out_the_strict_way():
    """A thousand is the most that strict endpoints take."""
    assert task(labels=[f"c{n}" for n in range(2000)]).ways[0] == "schema"


# ------------------------------------------------------------------------------- the ladder


def test_three_answers_without_json_end_a_way():
    """An ignored response_format is not tried in another form; a tool is, then the text."""
    ladder = Ladder()
    assert ladder.most_in_flight == 1
    for _ in range(3):
        ladder.answered("strict", False)
    assert ladder.way == "tool"
    for _ in range(3):
        ladder.answered("tool", False)
    assert (ladder.way, ladder.is_known) == ("text", True)


def test_one_answer_with_json_opens_the_way():
    """From then on any number may be in flight."""
    ladder = Ladder()
    ladder.answered("strict", False)
    assert ladder.most_in_flight == 2
    ladder.answered("strict", True)
    assert (ladder.way, ladder.most_in_flight) == ("strict", None)


@pytest.mark.parametrize(
    ("message", "way"),
    [
        ("400: This response_format type is unavailable now", "schema"),
        ("400: 'response_format.type' must be 'json_schema' or 'text'", "schema"),
        ("404: No endpoints found that support the parameters", "schema"),
        ("400: Could not process image", "strict"),
        (
            "400: Invalid schema for response_format 'label': In context=(), 'oneOf' is not permitted",
            "strict",
        ),
    ],
)
def test_a_refusal_that_names_the_parameter_ends_a_way(message, way):
    """One about the picture is the row's, one about the schema the configuration's."""
    ladder = Ladder()
    ladder.refused("strict", int(message[:3]), message)
    assert ladder.way == way


def test_what_was_found_is_kept():
    """The next start asks in that way at once."""
    assert Ladder(known="tool").most_in_flight is None
    assert Ladder(("json",), known="tool").way == "json"
    assert narrow({}).schema
