"""--coerce: "3" for 3 and the like, only where the schema leaves one reading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,17})?")


def coerced(value: Any, form: Mapping[str, Any]) -> Any:
    """The value with texts that can only mean a number or a boolean in their type. form: of `narrow`."""
    if isinstance(value, dict):
        inner = form.get("properties") or {}
        return {name: coerced(v, inner[name]) if name in inner else v for name, v in value.items()}
    if isinstance(value, list):
        items = form.get("items")
        return [coerced(v, items) for v in value] if isinstance(items, Mapping) else value
    kinds = form.get("type")
    kinds = [k for k in (kinds if isinstance(kinds, list) else [kinds]) if k != "null"]
    if not isinstance(value, str) or len(kinds) != 1:
        return value
    text = value.strip()
    if kinds == ["boolean"] and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kinds == ["integer"] and _NUMBER.fullmatch(text) and "." not in text:
        return int(text)
    return float(text) if kinds == ["number"] and _NUMBER.fullmatch(text) else value
