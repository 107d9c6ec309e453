"""A validated value -> typed columns `label_NAME`, one for each top-level property of the schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..nouns.labels import ColumnType, LabelColumn

# columns of every dataset: a property of such a name gets an underscore at its end
_TAKEN = frozenset({"label_second", "label_from"})
_TYPES: dict[str, ColumnType] = {
    "string": "string",
    "boolean": "bool",
    "integer": "int64",
    "number": "double",
}
_INT64 = 2**63


def columns_of(narrowed: Mapping[str, Any]) -> dict[str, LabelColumn]:
    """The columns by the name of their property. narrowed: a schema of `narrow` with an object at its root."""
    return {name: _column(name, form) for name, form in narrowed["properties"].items()}


def _column(name: str, form: Mapping[str, Any]) -> LabelColumn:
    column = f"label_{name}"
    return LabelColumn(f"{column}_" if column in _TAKEN else column, _type_of(form))


def _type_of(form: Mapping[str, Any]) -> ColumnType:
    if "anyOf" in form:
        others = [inner for inner in form["anyOf"] if inner.get("type") != "null"]
        return _type_of(others[0]) if len(others) == 1 else "json"
    kinds = form["type"] if isinstance(form["type"], list) else [form["type"]]
    kinds = [kind for kind in kinds if kind != "null"]
    if sorted(kinds) == ["integer", "number"]:
        kinds = ["number"]
    if kinds == ["array"] and _type_of(form["items"]) == "string":
        return "list"
    return _TYPES.get(kinds[0], "json") if len(kinds) == 1 else "json"


def column_values(value: Mapping[str, Any], columns: Mapping[str, LabelColumn]) -> dict[str, Any]:
    """The values of the columns, JSON-ready; null and what a column cannot hold (an int above 64 bits) are left out."""
    found = {}
    for name, column in columns.items():
        cell = _cell(value.get(name), column.type)
        if cell is not None:
            found[column.name] = cell
    return found


def _cell(value: Any, kind: ColumnType) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    if kind == "int64":
        return int(value) if -_INT64 <= value < _INT64 else None
    if kind == "double":
        try:
            return number if math.isfinite(number := float(value)) else None
        except OverflowError:
            return None
    return value
