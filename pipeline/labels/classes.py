"""--labels as classes: `cat`, or `cat=a domestic cat` with a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..nouns.errors import UsageError


@dataclass(frozen=True, slots=True)
class LabelClass:
    """description: None where none was given."""

    name: str
    description: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.description}" if self.description else self.name


def read_classes(labels: Sequence[str]) -> tuple[LabelClass, ...]:
    """The classes of a run. Raises UsageError where a name is empty or two cannot be told apart."""
    found: dict[str, LabelClass] = {}
    for label in labels:
        name, _, description = (part.strip() for part in label.partition("="))
        key = fold(name)
        if not key:
            raise UsageError(f"--labels: {label!r} has no name with letters or digits")
        if key in found:
            raise UsageError(
                f"--labels: {found[key].name!r} and {name!r} differ at most in case, spaces and punctuation"
            )
        found[key] = LabelClass(name, description or None)
    if len(found) < 2:
        raise UsageError("--labels: at least two classes are needed, for example --labels cat,dog,other")
    return tuple(found.values())


def fold(text: str) -> str:
    """Letters and digits in lower case; a sign with a meaning of its own (+, #) counts too, so that C, C++ and C# differ."""
    return "".join(c for c in text.casefold() if c.isalnum() or c in "+#")
