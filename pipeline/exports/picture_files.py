"""metadata, diffusion-pipe: pictures below the target with one file that names them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .names import inside, text_of
from .rows import Entry
from .work import Work, fingerprint, with_text

_SCHEMA = pa.schema([(name, pa.string()) for name in ("file_name", "text", "id", "prompt", "label", "model")])
_ROWS_A_GROUP = 5000
NO_PICTURE = "no picture"


def with_picture(work: Work) -> Iterator[tuple[Entry, str]]:
    """Rows with a text whose first picture is a file, with its path; the others are counted."""
    for entry in with_text(work):
        path = entry.pictures[0].path
        if path is None or not os.path.isfile(path):
            work.output.summary.skip(NO_PICTURE, entry.id)
        else:
            yield entry, path


class ImageFolder:
    """A Hugging Face imagefolder: metadata.parquet, whose columns keep their types where all values are null."""

    def write(self, work: Work) -> None:
        """Link the pictures, then write the file: what it names is there."""
        path = work.target / "metadata.parquet"
        with work.output.large(path, fingerprint(work.rows, "metadata")) as temporary:
            if temporary is None:
                return
            with pq.ParquetWriter(temporary, _SCHEMA) as writer:
                records: list[dict[str, str | None]] = []
                for record in self._records(work):
                    records.append(record)
                    if len(records) == _ROWS_A_GROUP:
                        writer.write_table(pa.Table.from_pylist(records, _SCHEMA))
                        records = []
                writer.write_table(pa.Table.from_pylist(records, _SCHEMA))

    def _records(self, work: Work) -> Iterator[dict[str, str | None]]:
        for entry, path in with_picture(work):
            name = f"images/{text_of(inside(entry.pictures[0].name))}"
            if work.output.link(path, str(work.target / name), work.options.pictures):
                work.output.summary.rows += 1
                own = {key: entry.columns[key] for key in ("id", "prompt", "label", "model")}
                yield {"file_name": name, "text": entry.text} | own


class DiffusionPipe:
    """captions.json in each folder of pictures; several rows of a picture become its variants.

    Nothing but pictures and .json lies in such a folder: diffusion-pipe takes other files for pictures.
    """

    def write(self, work: Work) -> None:
        """Beside the pictures, or with the pictures below --out."""
        folders: dict[str, dict[str, list[str]]] = {}
        for entry, path in with_picture(work):
            place = path
            if work.out is not None:
                place = str(work.out / inside(entry.pictures[0].name))
                if not work.output.link(path, place, work.options.pictures):
                    continue
            work.output.summary.rows += 1
            folder, name = os.path.split(place)
            folders.setdefault(folder, {}).setdefault(text_of(name), []).append(entry.text)
        for folder, captions in folders.items():
            text = json.dumps(captions, ensure_ascii=False, indent=1)
            work.output.put(str(Path(folder) / "captions.json"), text.encode())
