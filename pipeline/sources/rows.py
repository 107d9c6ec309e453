"""Record -> Row: its images, its prompt, its id."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import UsageError
from ..nouns.image_path import is_remote, leads_outside, local, named, resolve
from ..nouns.rows import Row
from .embedded import Picture, embedded_pictures
from .prompt import FilledPrompt, PromptTemplate
from .record import Record, image_column, no_image_column
from .text import printable

_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.I)
_PROMPT_HASH_DIGITS = 8


class LocatedRow(NamedTuple):
    """A row and what the survey counts about it.

    where: "file:line". has_own_prompt: its `prompt` column is filled. empty_columns: that the run's prompt asks
    for and the row leaves empty. is_named_by_file: it has no id of its own and its picture stands in the manifest:
    several of them may have had the same file name.
    """

    row: Row
    where: str
    has_own_prompt: bool
    empty_columns: frozenset[str]
    is_named_by_file: bool = False


@dataclass(frozen=True, slots=True)
class RowBuilder:
    """How the records of one source become rows.

    folder: relative images are relative to it. is_folder: the source is that folder, so a path is an id.
    prompt: for rows without their own. allow_outside, allow_remote: as in `Manifest`.
    """

    folder: Path
    is_folder: bool
    prompt: PromptTemplate
    allow_outside: bool
    allow_remote: bool

    def build(self, record: Record) -> LocatedRow:
        """The row of a record. Raises UsageError that names file and line."""
        columns = record.columns
        images_in = _column_of(record)
        base = str(columns["id"]) if columns.get("id") not in (None, "") else _short(record.where)
        embedded = embedded_pictures(columns[images_in], base)
        images = [picture.name for picture in embedded] or _image_list(columns[images_in], record.where)
        own_prompt = _own_prompt(record)
        prompt = FilledPrompt(own_prompt) if own_prompt else self.prompt.fill(record)
        extra = {k: v for k, v in columns.items() if k not in ("id", "prompt") and k != images_in}
        row = Row(
            id=self._id(record, images, prompt.text),
            images=tuple(printable(image) for image in images),
            paths=tuple(images) if embedded else tuple(self._path(image, record.where) for image in images),
            prompt=prompt.text,
            extra=json.dumps(extra, ensure_ascii=False, default=str) if extra else None,
            embedded=_by_name(embedded),
        )
        has_file_name = bool(embedded) and "id" not in columns
        return LocatedRow(row, record.where, bool(own_prompt), prompt.empty_columns, has_file_name)

    def _path(self, image: str, where: str) -> str:
        """Where the image lies. An absolute path is there on purpose; one with .. may not be the user's own."""
        if is_remote(image):
            if not self.allow_remote:
                raise UsageError(
                    f"{where}: {image:.200} is a URL; add --allow-remote to fetch such images, or download them first"
                )
        elif _SCHEME.match(image) and local(image) == image:
            raise UsageError(f"{where}: {image[:60]}...: an image is a path or an http(s) URL")
        elif not self.allow_outside and leads_outside(image):
            raise UsageError(
                f"{where}: {printable(os.path.normpath(image)):.200} leads out of {self.folder.absolute()};"
                " add --allow-outside if that is intended, or give an absolute path"
            )
        return resolve(str(self.folder), image, self.allow_outside)

    def _id(self, record: Record, images: Sequence[str], prompt: str) -> str:
        """The `id` column; else the path, with a hash of the prompt where prompts differ from row to row."""
        columns = record.columns
        if "id" in columns:
            return _checked_id(columns["id"], record.where)
        path = "|".join(printable(image).replace(os.sep, "/") for image in images)
        prompts_differ = "prompt" in columns or bool(self.prompt.column_names)
        if not prompts_differ or self.is_folder:
            return path
        digest = hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()
        return f"{path}#{digest[:_PROMPT_HASH_DIGITS]}"


def _column_of(record: Record) -> str:
    """The column with the row's images: the first image column that is filled. Raises UsageError."""
    filled = [name for name, value in record.columns.items() if value not in (None, "", [])]
    found = image_column(filled)
    if found is None:
        raise UsageError(_no_image(record))
    return found


def _image_list(value: Any, where: str) -> list[str]:
    """One path, or several."""
    images = value if isinstance(value, list) else [value]
    for image in images:
        if not isinstance(image, str) or not image:
            raise UsageError(f"{where}: an image is a path, not {image!r:.60}")
    return [named(image) for image in images]


def _by_name(pictures: Sequence[Picture]) -> tuple[tuple[str, bytes], ...]:
    return tuple((picture.name, picture.data) for picture in pictures if picture.data is not None)


def _short(where: str) -> str:
    """The name of a row that has none: file and line without the folder, as in `train.parquet:row 7`."""
    return where.rpartition("/")[2]


def _own_prompt(record: Record) -> str | None:
    prompt = record.columns.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise UsageError(f"{record.where}: `prompt` must be text, not {prompt!r:.60}")
    return prompt


def _checked_id(value: Any, where: str) -> str:
    if value in (None, ""):
        raise UsageError(f"{where}: the `id` is empty")
    identity = printable(str(value))
    if "\0" in identity:
        raise UsageError(f"{where}: the `id` holds a NUL character")
    return identity


def _no_image(record: Record) -> str:
    if image_column(list(record.columns)) is not None:
        return f"{record.where}: the image is empty"
    return no_image_column(record.where, list(record.columns))
