"""What travels in a labelling run: the way an answer is asked for, what was read in it, and the label of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# strict: json_schema with strict. schema: json_schema without. tool: a forced tool. json: json_object with the schema
# in the text. text: the schema in the text only
Way = Literal["strict", "schema", "tool", "json", "text"]
Parse = Literal["clean", "extracted", "repaired", "reasked"]
ColumnType = Literal["string", "bool", "int64", "double", "list", "json", "class"]


@dataclass(frozen=True, slots=True)
class Correction:
    """A bad answer and what the validator says of it; sent with the next ask. answer: as the model gave it."""

    answer: str
    words: str


@dataclass(frozen=True, slots=True)
class RequestForm:
    """What a labelling ask adds to a request.

    parameters: API parameters, over those of the run. text: follows the prompt. correction: the turn that failed;
    None for the first ask.
    """

    way: Way
    parameters: Mapping[str, Any]
    text: str
    correction: Correction | None = None
    parameters_text: str = ""  # the parameters as JSON, for counting tokens


@dataclass(frozen=True, slots=True)
class Label:
    """text: for the column `label`. columns: the others, by name, JSON-ready; what is null is left out."""

    text: str
    parse: Parse
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in an answer: a label, or a problem in words for user and model.

    is_json: the answer holds JSON, valid or not. can_ask_again: another ask may help.
    """

    label: Label | None = None
    problem: str = ""
    is_json: bool = False
    can_ask_again: bool = True
    raw: str = ""  # what the model answered, for a correction


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A column of this run only. classes: the names of a column of type class, by their number."""

    name: str
    type: ColumnType
    classes: tuple[str, ...] = ()
