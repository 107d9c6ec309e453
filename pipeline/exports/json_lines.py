"""Formats of one JSON value a row: kohya, jsonl, chat, axolotl, llava. The files hold absolute picture paths."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..nouns.errors import RowError
from ..pictures.files import read_ends
from ..pictures.header import read_header
from .names import text_of
from .rows import Entry
from .work import Work, fingerprint, location, with_text

Shape = Literal["kohya", "kohya-json", "jsonl", "chat", "axolotl", "llava"]
_FILES = {"kohya": "kohya.jsonl", "kohya-json": "kohya.json", "llava": "llava.json"}
_MARK = "<image>"  # where a picture stands in a conversation
_HEADER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class JsonRows:
    """shape: which value a row becomes, and how values are put together in the file."""

    shape: Shape

    def write(self, work: Work) -> None:
        """One file; chat also writes the entry for LLaMA-Factory's dataset_info.json."""
        path = work.target / _FILES.get(self.shape, f"{self.shape}.jsonl")
        with work.output.large(path, fingerprint(work.rows, self.shape)) as temporary:
            if temporary is not None:
                with temporary.open("w", encoding="utf-8", newline="\n") as file:
                    for piece in self._pieces(work):
                        file.write(piece)
        if self.shape == "chat":
            work.output.put(str(work.target / "dataset_info.json"), _DATASET_INFO)

    def _pieces(self, work: Work) -> Iterator[str]:
        opening, closing = {"llava": ("[\n", "\n]\n"), "kohya-json": ("{\n", "\n}\n")}.get(
            self.shape, ("", "")
        )
        between = ",\n" if opening else "\n"
        yield opening
        is_first = True
        for entry in with_text(work):
            work.output.summary.rows += 1
            yield ("" if is_first else between) + self._text(entry)
            is_first = False
        yield closing or "\n"

    def _text(self, entry: Entry) -> str:
        if self.shape == "kohya-json":
            return f"{_dumps(location(entry))}: {_dumps(_kohya(entry))}"
        if self.shape == "kohya":
            return _dumps({"image_path": location(entry)} | _kohya(entry))
        shapes = {"jsonl": _flat, "chat": _chat, "axolotl": _axolotl, "llava": _llava}
        return _dumps(shapes[self.shape](entry))


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _kohya(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"caption": entry.text}
    if (path := entry.pictures[0].path) is not None:
        with contextlib.suppress(RowError):  # a picture that is gone has no size
            if (header := read_header(read_ends(path, _HEADER_BYTES)[0])) is not None:
                found["image_size"] = [header.width, header.height]
    return found


def _flat(entry: Entry) -> dict[str, Any]:
    """Each column of the dataset that exports read, then the manifest's; `caption` is the finished text."""
    own = {name: value for name, value in entry.columns.items() if name != "extra"}
    image = [text_of(picture.name) for picture in entry.pictures]
    return entry.extra | own | {"image": image, "image_path": location(entry), "caption": entry.text}


def _question(entry: Entry) -> str:
    """The prompt without the mark: a trainer counts marks and pictures."""
    return str(entry.columns["prompt"] or "").replace(_MARK, "image")


def _answer(entry: Entry) -> str:
    return entry.text.replace(_MARK, "image")


def _images(entry: Entry) -> list[str]:
    return [location(entry, n) for n in range(len(entry.pictures))]


def _chat(entry: Entry) -> dict[str, Any]:
    """LLaMA-Factory and ms-swift: as many marks as pictures."""
    user = {"role": "user", "content": _MARK * len(entry.pictures) + _question(entry)}
    return {"messages": [user, {"role": "assistant", "content": _answer(entry)}], "images": _images(entry)}


def _axolotl(entry: Entry) -> dict[str, Any]:
    content = [{"type": "image", "path": path} for path in _images(entry)]
    user = {"role": "user", "content": [*content, {"type": "text", "text": _question(entry)}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": _answer(entry)}]}
    return {"messages": [user, answer]}


def _llava(entry: Entry) -> dict[str, Any]:
    """One picture a row, as LLaVA's loader takes it; more pictures become a list."""
    images = _images(entry)
    marks = "\n".join([_MARK] * len(images))
    turns = [("human", f"{marks}\n{_question(entry)}"), ("gpt", _answer(entry))]
    return {
        "id": entry.id,
        "image": images[0] if len(images) == 1 else images,
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }


_DATASET_INFO = (
    json.dumps(
        {
            "captionmill": {
                "file_name": "chat.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                },
            }
        },
        indent=2,
    ).encode()
    + b"\n"
)
