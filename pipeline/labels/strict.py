"""The subset of JSON schema that strict endpoints take, as a check. Bounds: OpenAI's structured outputs.

Rules: the root is an object; every object is closed and requires all its properties; no keyword outside the list below;
at most 10 levels, 5,000 properties, 1,000 enum values, 120,000 characters of names and enum values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "anyOf",
        "description",
        "title",
    }
)
MOST_LEVELS = 10
MOST_PROPERTIES = 5000
MOST_ENUM_VALUES = 1000
MOST_CHARACTERS = 120_000


def check_strict(schema: Mapping[str, Any]) -> list[str]:
    """What a strict endpoint would refuse, in its words; empty where it takes the schema."""
    problems = [] if schema.get("type") == "object" else ["In context=(), the root must be of type 'object'."]
    enum_values = properties = characters = 0
    for path, node in _nodes(schema, ()):
        problems += _problems(path, node)
        properties += len(node.get("properties") or {})
        values = node.get("enum") or ()
        enum_values += len(values)
        characters += sum(map(len, (*map(str, values), *(node.get("properties") or {}))))
        if path.count("properties") + path.count("items") > MOST_LEVELS:
            problems.append(f"{len(path)} levels of nesting exceed the limit of {MOST_LEVELS}.")
    if enum_values > MOST_ENUM_VALUES:
        problems.append(f"{enum_values} enum values exceed the limit of {MOST_ENUM_VALUES}.")
    if properties > MOST_PROPERTIES:
        problems.append(f"{properties} properties exceed the limit of {MOST_PROPERTIES}.")
    if characters > MOST_CHARACTERS:
        problems.append(f"{characters} characters of names and enum values exceed {MOST_CHARACTERS}.")
    return problems


def _nodes(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if not isinstance(node, Mapping):
        yield path, {"not a schema": node}
        return
    yield path, node
    for name, inner in (node.get("properties") or {}).items():
        yield from _nodes(inner, (*path, "properties", name))
    if "items" in node:
        yield from _nodes(node["items"], (*path, "items"))
    for number, inner in enumerate(node.get("anyOf") or ()):
        yield from _nodes(inner, (*path, "anyOf", str(number)))


def _problems(path: tuple[str, ...], node: Mapping[str, Any]) -> Iterator[str]:
    context = f"In context={path}"
    for keyword in node:
        if keyword not in _KEYWORDS:
            yield f"{context}, '{keyword}' is not permitted."
    kinds = node.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds == [None] and not node.get("anyOf"):
        yield f"{context}, schema must have a 'type' key."
    if "object" in kinds:
        if node.get("additionalProperties") is not False:
            yield f"{context}, 'additionalProperties' is required to be supplied and to be false."
        missing = set(node.get("properties") or {}) ^ set(node.get("required") or ())
        if missing:
            yield (
                f"{context}, 'required' is required to be supplied and to be an array including every key in"
                f" properties. Missing '{min(missing)}'."
            )
    if "array" in kinds and not isinstance(node.get("items"), Mapping):
        yield f"{context}, array schema missing items."
