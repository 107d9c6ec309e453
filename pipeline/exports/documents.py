"""label-studio, coco, alt-text: documents of all rows for annotators and web sites."""

from __future__ import annotations

import csv
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ..nouns.errors import RowError
from ..pictures.measure import measure
from .names import text_of
from .rows import Entry
from .work import Work, fingerprint, location, with_text


def _write_array(path: Path, values: Iterator[object], opening: str = "[", closing: str = "]") -> None:
    """Stream a JSON array: a run may have a million rows."""
    with path.open("w", encoding="utf-8") as file:
        between = opening
        for value in values:
            file.write(f"{between}\n{json.dumps(value, ensure_ascii=False)}")
            between = ","
        file.write(f"{opening if between == opening else ''}\n{closing}\n")


class LabelStudio:
    """Tasks with predictions, and the labelling configuration that fits them.

    Pictures are named for local file serving: the document root is the folder of the pictures' source.
    """

    def write(self, work: Work) -> None:
        """Write tasks.json and config.xml."""
        path = work.target / "tasks.json"
        with work.output.large(path, fingerprint(work.rows, "label-studio")) as temporary:
            if temporary is not None:
                _write_array(temporary, (_task(entry) for entry in with_text(work)))
        labels = sorted({entry.label for entry in work.rows if entry.label is not None})
        work.output.put(str(work.target / "config.xml"), _labelling(labels).encode())


def _task(entry: Entry) -> dict[str, object]:
    picture = entry.pictures[0]
    name = text_of(picture.name)
    image = name if picture.path is None else f"/data/local-files/?d={quote(name)}"
    result: list[dict[str, object]] = [_result("caption", "textarea", {"text": [entry.text]})]
    if entry.label is not None:
        result.append(_result("label", "choices", {"choices": [entry.label]}))
    prediction: dict[str, object] = {"model_version": entry.columns["model"] or "", "result": result}
    if isinstance(score := entry.value("confidence"), int | float):
        prediction["score"] = score
    return {"data": {"image": image, "id": entry.id}, "predictions": [prediction]}


def _result(name: str, kind: str, value: dict[str, object]) -> dict[str, object]:
    return {"from_name": name, "to_name": "image", "type": kind, "value": value}


def _labelling(labels: list[str]) -> str:
    choices = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    block = f'\n  <Choices name="label" toName="image">{choices}\n  </Choices>' if labels else ""
    area = '\n  <TextArea name="caption" toName="image" editable="true"/>'
    return f'<View>\n  <Image name="image" value="$image"/>{area}{block}\n</View>\n'


class Coco:
    """captions.json, and results.json to score with pycocoevalcap. An image_id is the row's running number."""

    def write(self, work: Work) -> None:
        """Two files; the first has three sections, so rows are read once for each."""
        with work.output.large(work.target / "captions.json", fingerprint(work.rows, "coco")) as temporary:
            if temporary is not None:
                self._write_captions(work, temporary)
        with work.output.large(work.target / "results.json", fingerprint(work.rows, "results")) as temporary:
            if temporary is not None:
                found = ({"image_id": n, "caption": e.text} for n, e in self._numbered(work))
                _write_array(temporary, found)

    def _write_captions(self, work: Work, path: Path) -> None:
        images = path.with_name(path.name + "2")
        try:
            _write_array(images, (self._image(n, e) for n, e in self._numbered(work)))
            notes = ({"id": n, "image_id": n, "caption": e.text} for n, e in self._numbered(work))
            _write_array(path, notes, '{"info": {}, "licenses": [], "annotations": [', "],")
            with path.open("ab") as file, images.open("rb") as other:
                file.write(b'"images": ')
                while block := other.read(1 << 20):
                    file.write(block)
                file.write(b"}\n")
        finally:
            images.unlink(missing_ok=True)

    def _numbered(self, work: Work) -> Iterator[tuple[int, Entry]]:
        return enumerate((entry for entry in work.rows if entry.text and entry.pictures), 1)

    def _image(self, number: int, entry: Entry) -> dict[str, object]:
        picture = entry.pictures[0]
        found: dict[str, object] = {"id": number, "file_name": text_of(picture.name)}
        if picture.path is not None and os.path.isfile(picture.path):
            try:
                size = measure(picture.path, "first")
            except RowError:
                return found
            found |= {"width": size.width, "height": size.height}
        return found


class AltText:
    """alt-text.html, alt-text.md and alt-text.csv with the columns src and alt."""

    def write(self, work: Work) -> None:
        """Three files."""
        mark = fingerprint(work.rows, "alt-text")
        for ending in ("html", "md", "csv"):
            with work.output.large(work.target / f"alt-text.{ending}", mark) as temporary:
                if temporary is not None:
                    with temporary.open("w", encoding="utf-8", newline="") as file:
                        writer = csv.writer(file)
                        if ending == "csv":
                            writer.writerow(("src", "alt"))
                        for entry in with_text(work):
                            if ending == "csv":
                                writer.writerow((_source(entry), entry.text))
                            else:
                                file.write(_html(entry) if ending == "html" else _markdown(entry))


def _source(entry: Entry) -> str:
    picture = entry.pictures[0]
    return location(entry) if picture.path is None else quote(text_of(picture.name))


def _html(entry: Entry) -> str:
    return f'<img src="{html.escape(_source(entry))}" alt="{html.escape(entry.text)}">\n'


def _markdown(entry: Entry) -> str:
    text = entry.text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("<", "&lt;")
    return f"![{text}](<{_source(entry)}>)\n\n"
