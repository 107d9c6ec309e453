"""parquet, webdataset: text and picture bytes together, in shards by bytes. A shard that is there is not made again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..nouns.errors import RowError
from ..pictures.files import read_file
from .picture_files import NO_PICTURE, with_picture
from .rows import Entry
from .work import Work, location

_GROUP_BYTES = 8_000_000  # of pictures in memory at once
_JSON_COLUMNS = ("id", "prompt", "label", "model")
_Row = tuple[Entry, str, int]  # with the picture's path and bytes
_LABELS_MOST = 1000  # more are no classes


def shards(work: Work) -> Iterator[tuple[list[_Row], bytes]]:
    """Rows for one shard after another, with a fingerprint of what goes into it. The last one may be small."""
    rows: list[_Row] = []
    size = 0
    for entry, path in with_picture(work):
        bytes_now = os.stat(path).st_size
        if rows and size + bytes_now > work.options.shard_bytes:
            yield rows, _fingerprint(rows)
            rows, size = [], 0
        rows.append((entry, path, bytes_now))
        size += bytes_now
    if rows:
        yield rows, _fingerprint(rows)


def _fingerprint(rows: Sequence[_Row]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for entry, path, size in rows:
        seen = (
            entry.id,
            entry.text,
            [entry.columns[c] for c in _JSON_COLUMNS],
            size,
            os.stat(path).st_mtime_ns,
        )
        digest.update(repr(seen).encode("utf-8", "backslashreplace"))
    return digest.digest()


def _with_bytes(work: Work, rows: Sequence[_Row]) -> Iterator[tuple[Entry, bytes]]:
    for entry, path, _ in rows:
        try:
            data = read_file(path)
        except RowError:
            work.output.summary.skip(NO_PICTURE, entry.id)
            continue
        work.output.summary.rows += 1
        yield entry, data


class WebDataset:
    """Keys are running numbers, each sample has jpg, txt and json, the JSON only strings: what datasets needs.

    A PNG stands under jpg too: readers look at its bytes.
    """

    def write(self, work: Work) -> None:
        """Write shard-00000.tar and so on."""
        first = 0
        for number, (rows, mark) in enumerate(shards(work)):
            with work.output.large(work.target / f"shard-{number:05d}.tar", mark) as temporary:
                if temporary is not None:
                    self._write_shard(work, temporary, rows, first)
            first += len(rows)

    def _write_shard(self, work: Work, path: Path, rows: Sequence[_Row], first: int) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (entry, data) in enumerate(_with_bytes(work, rows), first):
                texts = {name: entry.columns[name] or "" for name in _JSON_COLUMNS}
                record = texts | {"image": location(entry), "caption": entry.text}
                fields = {"jpg": data, "txt": entry.text.encode(), "json": json.dumps(record).encode()}
                for extension, content in fields.items():
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


class HuggingFaceParquet:
    """Parquet with picture bytes and the feature metadata by which `datasets` shows pictures and classes."""

    def write(self, work: Work) -> None:
        """Write train-00000.parquet and so on."""
        labels = _labels(work)
        schema = _schema(labels)
        for number, (rows, mark) in enumerate(shards(work)):
            path = work.target / f"train-{number:05d}.parquet"
            with work.output.large(path, mark + repr(labels).encode()) as temporary:
                if temporary is not None:
                    with pq.ParquetWriter(
                        temporary, schema, compression="none", use_dictionary=False
                    ) as writer:
                        for records in self._groups(work, rows, labels):
                            writer.write_table(pa.Table.from_pylist(records, schema))

    def _groups(
        self, work: Work, rows: Sequence[_Row], labels: list[str]
    ) -> Iterator[list[dict[str, object]]]:
        records: list[dict[str, object]] = []
        size = 0
        for entry, data in _with_bytes(work, rows):
            record = {name: entry.columns[name] for name in ("id", "prompt", "label", "model")}
            if labels:
                record["label"] = labels.index(entry.label) if entry.label in labels else None
            image = {"bytes": data, "path": entry.pictures[0].name}
            records.append({"image": image, "text": entry.text} | record)
            size += len(data)
            if size > _GROUP_BYTES:
                yield records
                records, size = [], 0
        yield records


def _labels(work: Work) -> list[str]:
    """The classes of the run in alphabetical order; empty where it has none, or too many to be classes."""
    found = {entry.label for entry in work.rows if entry.label is not None}
    return sorted(found) if len(found) <= _LABELS_MOST else []


def _schema(labels: list[str]) -> pa.Schema:
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, object] = {"image": {"_type": "Image"}}
    features |= dict.fromkeys(("text", "id", "prompt", "label", "model"), text)
    if labels:
        features["label"] = {"names": labels, "_type": "ClassLabel"}
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    fields += [(name, pa.string()) for name in ("text", "id", "prompt")]
    fields += [("label", pa.int64() if labels else pa.string()), ("model", pa.string())]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
