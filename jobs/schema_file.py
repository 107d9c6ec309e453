"""--schema: a JSON file, or module:Model for a pydantic model -> the JSON schema."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from captionmill.nouns.errors import UsageError


def read_schema(text: str, folder: Path) -> dict[str, Any]:
    """The schema that `text` names. folder: that of a relative path. Raises UsageError where there is none."""
    path = folder / text
    if ":" in text and not path.exists():
        return _of_model(text)
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--schema {text}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--schema {text}: not JSON ({error})") from None
    if not isinstance(schema, dict):
        raise UsageError(f"--schema {text}: a JSON object is needed")
    return schema


def _of_model(text: str) -> dict[str, Any]:
    module, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        model = getattr(importlib.import_module(module), name)
        schema: dict[str, Any] = model.model_json_schema()
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--schema {text}: no pydantic model ({error})") from None
    finally:
        sys.path.pop(0)
    return schema
