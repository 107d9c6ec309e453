"""A user's JSON schema -> the subset that strict endpoints take, and what had to be moved out of it.

What is valid stays valid: the result allows at least what the schema allows, except for properties that the schema does
not name, which no strict endpoint can give. An optional property becomes a union with null; bounds become words in the
description. Only the user's full schema decides whether an answer counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..nouns.errors import UsageError

_MOST_DEPTH = 32
_SCALARS = ("string", "number", "boolean", "null")
_ANY: dict[str, Any] = {
    "anyOf": [*({"type": t} for t in _SCALARS), {"type": "array", "items": {"type": [*_SCALARS]}}]
}
# keyword -> how a description says it; {} is its value
_WORDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches the regular expression {}",
    "format": "in the format {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "uniqueItems": "no item twice",
    "minProperties": "at least {} properties",
    "maxProperties": "at most {} properties",
    "default": "{} if unknown",
}
# keywords that are moved: those above, and those that a description says as JSON
_MOVED = frozenset(_WORDS) | {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "patternProperties",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems", "prefixItems",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Narrowed:
    """moved: (path, keyword) of all that could not stay, in the order of the schema. optional: paths of properties
    that may be null only because they may be left out; `items` stands for a list's items.
    """

    schema: dict[str, Any]
    moved: tuple[tuple[str, str], ...]
    optional: frozenset[tuple[str, ...]]


def narrow(schema: Mapping[str, Any]) -> Narrowed:
    """Narrow a schema; it need not have an object at its root.

    Raises UsageError for a `$ref` that is not local, leads nowhere or is recursive: strict endpoints need it inline.
    """
    _check_references(schema)
    work = _Narrowing(schema)
    narrowed = work.node(schema, (), ())
    return Narrowed(narrowed, tuple(dict.fromkeys(work.moved)), frozenset(work.optional))


def without_nulls(value: Any, optional: frozenset[tuple[str, ...]], path: tuple[str, ...] = ()) -> Any:
    """An answer without the nulls that say that an optional property is left out. optional: of `Narrowed`."""
    if isinstance(value, list):
        return [without_nulls(item, optional, (*path, "items")) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: without_nulls(inner, optional, (*path, name))
        for name, inner in value.items()
        if inner is not None or (*path, name) not in optional
    }


def _check_references(schema: Any) -> None:
    """No reference may leave the schema: nothing is fetched."""
    if isinstance(schema, Mapping):
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = schema.get(keyword)
            if isinstance(target, str) and not target.startswith("#"):
                raise UsageError(
                    f"--schema: {keyword} {target!r} leads out of the schema; put it into #/$defs"
                )
        for inner in schema.values():
            _check_references(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _check_references(inner)


@dataclass(slots=True)
class _Narrowing:
    """root: the whole schema. moved, optional: filled by `node`."""

    root: Mapping[str, Any]
    moved: list[tuple[str, str]] = field(default_factory=list)
    optional: set[tuple[str, ...]] = field(default_factory=set)

    def node(self, schema: Any, path: tuple[str, ...], seen: tuple[str, ...]) -> dict[str, Any]:
        """The narrowed form of one node. seen: the references on the way to it."""
        if len(path) > _MOST_DEPTH:
            raise UsageError(f"--schema: {_at(path)}: nested more than {_MOST_DEPTH} levels deep")
        if not isinstance(schema, Mapping):  # true or false
            return dict(_ANY)
        schema, seen = self._whole(schema, path, seen)
        words = list(self._moved_words(schema, path))
        branches = schema.get("anyOf") or schema.get("oneOf")
        if "enum" in schema or "const" in schema:
            result = self._enum(schema, path)
        elif branches:
            result = self._union(schema, branches, path, seen)
        else:
            kinds = schema.get("type") or _kind(schema)
            kinds = kinds if isinstance(kinds, list) else [kinds]
            result = _union([self._of_type(kind, schema, path, seen) for kind in kinds])
        described = "; ".join([*filter(None, [schema.get("description")]), *words])
        return result | {"description": described} if described else result

    def _whole(
        self, schema: Mapping[str, Any], path: tuple[str, ...], seen: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """A node with what `$ref` and allOf bring to it."""
        merged = {k: v for k, v in schema.items() if k not in ("$ref", "$dynamicRef", "allOf")}
        extra = list(schema.get("allOf") or ())
        target = schema.get("$ref") or schema.get("$dynamicRef")
        if target is not None:
            if target in seen:
                raise UsageError(
                    f"--schema: {_at(path)}: {target} is recursive; strict endpoints need a fixed depth"
                )
            seen = (*seen, target)
            extra.append(_resolve(self.root, target, path))
        for part in extra:
            if isinstance(part, Mapping):
                whole, seen = self._whole(part, path, seen)
                merged = self._merge(merged, whole, path)
        return merged, seen

    def _merge(
        self, one: Mapping[str, Any], other: Mapping[str, Any], path: tuple[str, ...]
    ) -> dict[str, Any]:
        """Both together; where both have a keyword, the first counts and the other is moved."""
        merged = dict(other) | dict(one)
        merged["properties"] = {**other.get("properties", {}), **one.get("properties", {})}
        merged["required"] = [*dict.fromkeys([*one.get("required", ()), *other.get("required", ())])]
        for keyword in ("properties", "required"):
            if not merged[keyword]:
                del merged[keyword]
        for keyword in set(one) & set(other) - {"properties", "required", "description", "title"}:
            if one[keyword] != other[keyword]:
                self.moved.append((_at(path), f"allOf/{keyword}"))
                merged[keyword] = one[keyword]
        return merged

    def _moved_words(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
        for keyword, value in schema.items():
            if keyword == "additionalProperties" and value is not False:
                self.moved.append((_at(path), keyword))
            elif keyword == "oneOf":
                self.moved.append((_at(path), keyword))
                yield "exactly one of the forms"
            elif keyword in _MOVED and value is not False:
                self.moved.append((_at(path), keyword))
                as_json = json.dumps(value, ensure_ascii=False)
                yield _WORDS.get(keyword, f"{keyword}: {{}}").format(as_json)

    def _enum(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        if any(isinstance(value, dict | list) for value in values) or not values:
            self.moved.append((_at(path), "enum"))
            return dict(_ANY)
        kinds = [*dict.fromkeys(map(_type_name, values))]
        told_apart = {(type(value), value): value for value in values}  # 1, 1.0 and True are equal in Python
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": [*told_apart.values()]}

    def _union(
        self,
        schema: Mapping[str, Any],
        branches: list[Any],
        path: tuple[str, ...],
        seen: tuple[str, ...],
    ) -> dict[str, Any]:
        base = {k: v for k, v in schema.items() if k in ("type", "properties", "required", "items")}
        found = []
        for branch in branches:
            if branch is False:
                continue
            whole: Any = branch
            if isinstance(branch, Mapping) and base:
                inner, seen_there = self._whole(branch, path, seen)
                whole = self._merge(inner, base, path)
                found.append(self.node(whole, path, seen_there))
            else:
                found.append(self.node(whole, path, seen))
        return _union(found)

    def _of_type(
        self, kind: str | None, schema: Mapping[str, Any], path: tuple[str, ...], seen: tuple[str, ...]
    ) -> dict[str, Any]:
        if kind is None:
            return dict(_ANY)
        if kind == "object":
            return self._object(schema, path, seen)
        if kind == "array":
            return {"type": "array", "items": self._items(schema, path, seen)}
        return {"type": kind}

    def _items(
        self, schema: Mapping[str, Any], path: tuple[str, ...], seen: tuple[str, ...]
    ) -> dict[str, Any]:
        inner = (*path, "items")
        forms = [self.node(item, inner, seen) for item in schema.get("prefixItems") or ()]
        rest = schema.get("items", True)
        if rest is not False:
            forms.append(self.node(rest, inner, seen))
        return _union(forms) if forms else {"type": "null"}

    def _object(
        self, schema: Mapping[str, Any], path: tuple[str, ...], seen: tuple[str, ...]
    ) -> dict[str, Any]:
        required = set(schema.get("required") or ())
        given = schema.get("properties") or {}
        names = [*given, *(name for name in schema.get("required") or () if name not in given)]
        properties = {}
        for name in names:
            if given.get(name) is False:
                continue
            form = self.node(given.get(name, True), (*path, name), seen)
            properties[name] = form if name in required else _nullable(form)
            if properties[name] != form:
                self.optional.add((*path, name))
        return {
            "type": "object",
            "properties": properties,
            "required": [*properties],
            "additionalProperties": False,
        }


def _at(path: tuple[str, ...]) -> str:
    return "/".join(("#", *path))


def _kind(schema: Mapping[str, Any]) -> str | None:
    """The type that a node without one means; None for any."""
    if "properties" in schema or "required" in schema or schema.get("additionalProperties") is False:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else None


def _type_name(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, str):
        return "string"
    return "integer" if isinstance(value, int) else "number"


def _union(forms: list[dict[str, Any]]) -> dict[str, Any]:
    """Any of the forms; plain types without more become one list of types."""
    flat: list[dict[str, Any]] = []
    for form in forms:
        inner = form["anyOf"] if set(form) == {"anyOf"} else [form]
        flat += [f for f in inner if f not in flat]
    if not flat:
        return {"type": "null"}
    if len(flat) == 1:
        return flat[0]
    if all(set(form) == {"type"} and isinstance(form["type"], str) for form in flat):
        return {"type": [form["type"] for form in flat]}
    return {"anyOf": flat}


def _nullable(form: dict[str, Any]) -> dict[str, Any]:
    """The form or null; null says that an optional property is left out."""
    kinds = form.get("type")
    if isinstance(kinds, str | list) and "anyOf" not in form and kinds not in ("object", "array", "null"):
        listed = [kinds] if isinstance(kinds, str) else kinds
        wider = form | {"type": [*dict.fromkeys([*listed, "null"])]}
        if "enum" in form and None not in form["enum"]:
            wider["enum"] = [*form["enum"], None]
        return wider
    if kinds == "null":
        return form
    described = {k: v for k, v in form.items() if k == "description"}
    bare = {k: v for k, v in form.items() if k != "description"}
    return _union([bare, {"type": "null"}]) | described


def _resolve(root: Mapping[str, Any], target: str, path: tuple[str, ...]) -> Any:
    """What a local reference names, by JSON pointer or by anchor."""
    if not target.startswith("#/") and target != "#":
        return _anchored(root, target[1:], path)
    node: Any = root
    for step in target[2:].split("/") if len(target) > 1 else ():
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise UsageError(f"--schema: {_at(path)}: {target} leads nowhere")
    return node


def _anchored(node: Any, name: str, path: tuple[str, ...]) -> Any:
    pending = [node]
    while pending:
        here = pending.pop()
        if isinstance(here, Mapping):
            if name in (here.get("$anchor"), here.get("$dynamicAnchor")):
                return here
            pending += here.values()
        elif isinstance(here, list):
            pending += here
    raise UsageError(f"--schema: {_at(path)}: #{name} leads nowhere")
