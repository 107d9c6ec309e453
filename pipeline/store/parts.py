"""The dataset's schema; write, rename, read back. The one place that sees pyarrow on the way of a row.

A part becomes visible under its final name only when it is whole and on disk: hidden temporary file,
fsync, rename, fsync of the folder. Readers skip names that start with a dot.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from ..nouns.errors import RunError, disk_error
from ..nouns.labels import LabelColumn
from ..nouns.rows import Choice, Outcome, Reply, Row
from .durable import publish

# Arrow's own allocator keeps pages of every size it ever gave out, a little more with each part of a long run
pa.set_memory_pool(pa.system_memory_pool())

SCHEMA_VERSION = 2
# columns that parts of an earlier version lack: read as null, and added at the next start
_ADDED = frozenset(
    {"reasoning", "parse", "confidence", "vote_share", "votes", "label_second", "agrees", "label_from"}
)
_TIME = pa.timestamp("ms", tz="UTC")
_CHOICE = pa.struct(
    [
        ("index", pa.int32()),
        ("content", pa.string()),
        ("finish_reason", pa.string()),
        ("tool_calls", pa.string()),
        ("logprobs", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.list_(pa.string())),
        ("prompt", pa.string()),
        ("extra", pa.string()),
        ("content", pa.string()),
        ("finish_reason", pa.string()),
        ("finish", pa.string()),
        ("refusal", pa.string()),
        ("reasoning", pa.string()),
        ("choices", pa.list_(_CHOICE)),
        ("tool_calls", pa.string()),
        ("label", pa.string()),
        ("parse", pa.string()),
        ("confidence", pa.float64()),
        ("vote_share", pa.float64()),
        ("votes", pa.list_(pa.string())),
        ("label_second", pa.string()),
        ("agrees", pa.bool_()),
        ("label_from", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("total_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("usage_source", pa.string()),
        ("estimated_tokens", pa.int64()),
        ("cost_usd", pa.decimal128(18, 9)),
        ("model_requested", pa.string()),
        ("model", pa.string()),
        ("endpoint", pa.string()),
        ("response_id", pa.string()),
        ("system_fingerprint", pa.string()),
        ("created", _TIME),
        ("started_at", _TIME),
        ("finished_at", _TIME),
        ("latency_s", pa.float64()),
        ("attempts", pa.int32()),
        ("image_sha256", pa.string()),
        ("sent_mime", pa.string()),
        ("sent_width", pa.int32()),
        ("sent_height", pa.int32()),
        ("sent_bytes", pa.int32()),
        ("image_count", pa.int32()),
        ("status", pa.string()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("http_status", pa.int32()),
    ],
    metadata={"captionmill_schema_version": str(SCHEMA_VERSION)},
)
# of `LabelColumn`. An enum is a string: Parquet keeps it as a dictionary all the same, and `datasets` cannot read a
# dictionary type
_LABEL_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "list": pa.list_(pa.string()),
    "json": pa.string(),
    "class": pa.int64(),
}
_TABLE_ROWS = 5000  # of one row group
_PARSED_ROWS = 500  # at once: Arrow's reader takes several times the size of its text
MOST_TABLE_CHARACTERS = 256 * 2**20  # Arrow's JSON reader takes blocks below 2 GiB
_TEMPORARY_PREFIX = "."
_TEMPORARY_SUFFIX = ".tmp"
MOST_MESSAGE_CHARACTERS = 2000
_LAST_MILLISECOND = 253_402_300_799_999  # end of the year 9999: what pandas can still show


def part_name(number: int) -> str:
    """The file name of a part; `part_number` reads it back."""
    return f"part-{number:05d}.parquet"


def part_number(path: Path) -> int | None:
    """The number in a part's name; None for any other file."""
    digits = path.name.removeprefix("part-").removesuffix(".parquet")
    is_part = digits.isdecimal() and path.name == part_name(int(digits))
    return int(digits) if is_part else None


# ------------------------------------------------------------------------------- outcome -> record


def to_record(outcome: Outcome, model: str) -> str:
    """One outcome as JSON by column name, nulls left out: what the journal keeps until it is in a part."""
    row, reply, failure = outcome.row, outcome.reply, outcome.failure
    record: dict[str, Any] = {
        "id": row.id,
        "image": row.images,
        "prompt": row.prompt,
        "extra": row.extra,
        "model_requested": outcome.model_requested or model,
        "endpoint": outcome.endpoint,
        "estimated_tokens": outcome.estimated_tokens,
        "started_at": int(outcome.started_at * 1000),
        "finished_at": int(outcome.finished_at * 1000),
        "latency_s": outcome.latency_seconds,
        "attempts": outcome.attempts,
        "image_count": len(row.images),
        "status": "failed" if failure else "answered",
    }
    if outcome.pictures:
        first = outcome.pictures[0]
        record["image_sha256"] = first.sha256
        record["sent_mime"] = first.mime
        record["sent_width"] = first.width
        record["sent_height"] = first.height
        record["sent_bytes"] = first.byte_count
    if reply:
        record |= _of_reply(reply)
        record["cost_usd"] = None if outcome.cost_usd is None else format(outcome.cost_usd, "f")
        if (
            failure and len(reply.choices) == 1
        ):  # what was paid for is kept, also where `choices` has one entry
            record["choices"] = [_choice(reply.choices[0])]
    if outcome.label:
        record |= {"label": outcome.label.text, "parse": outcome.label.parse, **outcome.label.columns}
    if failure:
        record["error_kind"] = failure.kind
        record["error_message"] = failure.message[:MOST_MESSAGE_CHARACTERS]
        record["http_status"] = failure.http_status
    return _dump({k: v for k, v in record.items() if v is not None})


def _of_reply(reply: Reply) -> dict[str, Any]:
    choice, usage = reply.choices[0], reply.usage
    record: dict[str, Any] = {
        "content": choice.content,
        "finish_reason": choice.finish_reason,
        "finish": choice.finish,
        "refusal": choice.refusal,
        "reasoning": choice.reasoning,
        "tool_calls": choice.tool_calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_source": "absurd" if reply.is_usage_absurd else "reported" if usage.is_reported else "missing",
        "model": reply.model,
        "response_id": reply.id,
        "system_fingerprint": reply.system_fingerprint,
    }
    if len(reply.choices) > 1 or choice.logprobs:
        record["choices"] = [_choice(c) for c in reply.choices]
    if reply.created is not None and 0 <= reply.created * 1000 <= _LAST_MILLISECOND:
        record["created"] = reply.created * 1000
    return record


# made once: json.dumps with options makes one for each call
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def _dump(record: dict[str, Any]) -> str:
    text = _JSON.encode(record)
    if "\\ud" in text:  # perhaps half of a surrogate pair (a cut emoji), which no UTF-8 column can hold
        text = _JSON.encode(_whole_text(record))
    return text


def _whole_text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list | tuple):
        return [_whole_text(v) for v in value]
    if isinstance(value, dict):
        return {k: _whole_text(v) for k, v in value.items()}
    return value


def _choice(choice: Choice) -> dict[str, Any]:
    return {name: getattr(choice, name) for name in _CHOICE.names}


# ------------------------------------------------------------------------------- records -> table


def run_schema(label_columns: Sequence[LabelColumn] = ()) -> pa.Schema:
    """The schema of a run: the fixed columns, then those of its labels.

    A class column carries the names of its classes as Hugging Face `datasets` reads them (ClassLabel).
    """
    schema = SCHEMA
    for column in label_columns:
        schema = schema.append(pa.field(column.name, _LABEL_TYPES[column.type]))
    features = {c.name: {"names": list(c.classes), "_type": "ClassLabel"} for c in label_columns if c.classes}
    if not features:
        return schema
    return schema.with_metadata(
        {**schema.metadata, "huggingface": json.dumps({"info": {"features": features}})}
    )


def to_table(
    records: Sequence[str], columns: Sequence[str] | None = None, whole: pa.Schema = SCHEMA
) -> pa.Table:
    """Records as a table of the schema, or of some of its columns. whole: the schema of the run.

    Arrow's own JSON reader: no Python object a cell (and pa.array would import pandas).
    """
    schema = whole
    if columns is not None:
        schema = pa.schema([whole.field(name) for name in columns], metadata=whole.metadata)
    pieces = [_parsed(records[at : at + _PARSED_ROWS], schema) for at in range(0, len(records), _PARSED_ROWS)]
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


def _parsed(records: Sequence[str], schema: pa.Schema) -> pa.Table:
    text = "\n".join(records).encode("ascii")
    as_read = pa.schema([f.with_type(pa.int64()) if f.type == _TIME else f for f in schema])
    table = pj.read_json(
        pa.BufferReader(text),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pj.ParseOptions(explicit_schema=as_read, unexpected_field_behavior="ignore"),
    )
    return table.cast(schema)


def tables(
    records: Iterable[str], columns: Sequence[str] | None = None, whole: pa.Schema = SCHEMA
) -> Iterator[pa.Table]:
    """Any number of records as tables of bounded size, in their order. whole: the schema of the run."""
    batch: list[str] = []
    characters = 0
    for record in records:
        if batch and (len(batch) == _TABLE_ROWS or characters + len(record) > MOST_TABLE_CHARACTERS):
            yield to_table(batch, columns, whole)
            batch, characters = [], 0
        batch.append(record)
        characters += len(record)
    if batch:
        yield to_table(batch, columns, whole)


def write_table(path: Path, records: Iterable[str], label_columns: Sequence[LabelColumn] = ()) -> int:
    """Write records under `path`, whole or not at all, durable on return. Returns the rows written.

    label_columns: of the run.

    Raises RunError where the disk is full or the folder is gone.
    """
    schema = run_schema(label_columns)
    return _write(path, tables(records, whole=schema), schema)


def _write(path: Path, content: Iterable[pa.Table], schema: pa.Schema) -> int:
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{path.name}{_TEMPORARY_SUFFIX}")
    rows = 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=3) as writer:
            for table in content:
                writer.write_table(table)
                rows += table.num_rows
        publish(temporary, path)
    except (OSError, pa.ArrowException) as error:
        with contextlib.suppress(OSError):  # on a full disk half a part is room for others
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(path, "written", error) from error
        raise RunError(f"{path}: cannot be written ({error})", kind="disk") from error
    pa.default_memory_pool().release_unused()  # or a night's parts keep the largest of each size
    return rows


# ------------------------------------------------------------------------------- reading


def remove_temporary(folder: Path) -> int:
    """Delete what a crash left half-written; returns how many files."""
    left = list(folder.glob(f"{_TEMPORARY_PREFIX}*{_TEMPORARY_SUFFIX}"))
    for path in left:
        path.unlink()
    return len(left)


def on_disk(folder: Path) -> dict[int, Path]:
    """The parts in a folder, by number."""
    found = ((part_number(path), path) for path in sorted(folder.glob("*.parquet")))
    return {number: path for number, path in found if number is not None}


def read_part(path: Path) -> dict[str, int]:
    """Read a whole part: id -> hash of what was asked.

    Raises RunError: `damaged_part` where a column cannot be read or an id is missing or there twice, `disk`
    where the file cannot be opened.
    """
    contents: dict[str, int] = {}
    rows = 0
    for batch in read_batches([path], SCHEMA.names):
        rows += batch.num_rows
        asked = zip(*(batch[name].to_pylist() for name in ("id", "image", "prompt")), strict=True)
        contents |= {identity: content_hash(images, prompt) for identity, images, prompt in asked if identity}
    if len(contents) != rows:
        raise RunError(f"{path}: damaged (an id is missing or there twice)", kind="damaged_part")
    return contents


def content_hash(images: Sequence[str] | None, prompt: str | None) -> int:
    """Of what a row asked, by its columns: as the row itself has it."""
    return Row("", tuple(images or ()), (), prompt or "").content_hash


def count_rows(path: Path) -> int:
    """Rows by the footer. Raises RunError where it is no whole Parquet file, or of an older version."""
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    _check_columns(path, footer.schema.to_arrow_schema())
    return int(footer.num_rows)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    """Raises RunError `old_part` where a column is missing that readers need."""
    if missing := [name for name in SCHEMA.names if name not in schema.names and name not in _ADDED]:
        raise RunError(
            f"{path}: written by an older version, without {', '.join(missing)};"
            f" `captionmill repair {path.parent.parent}` brings it up to date",
            kind="old_part",
        )


def is_up_to_date(path: Path) -> bool:
    """Whether a file has the columns of this version. Raises RunError where it is no whole Parquet file."""
    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def has_columns(path: Path, label_columns: Sequence[LabelColumn]) -> bool:
    """Whether a file has the columns of a run with these labels, and no other. Raises RunError as `is_up_to_date`."""
    try:
        return bool(pq.read_schema(path).equals(run_schema(label_columns)))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def bring_up_to_date(path: Path) -> None:
    """Give a part of an older version the columns of this one, null where it had none; whole or not at all.

    Raises RunError where it cannot be read or written.
    """
    whole = _read_whole(path)
    _write(path, [whole], whole.schema)


def replace_rows(path: Path, records: Mapping[str, str]) -> None:
    """Put other records in the place of some rows of a part; whole or not at all, durable on return.

    records: by the id of the row, which stays. Raises RunError where the part cannot be read or written.
    """
    old = _read_whole(path)
    is_kept = pc.invert(pc.is_in(old["id"], pa.array(list(records), pa.string())))
    here = set(old["id"].to_pylist())
    new = to_table([record for identity, record in records.items() if identity in here], whole=old.schema)
    _write(path, [pa.concat_tables([old.filter(is_kept), new])], old.schema)


def _read_whole(path: Path) -> pa.Table:
    """A part with the columns of this version, null where it has none."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            old = file.read()
        columns = {
            field.name: old[field.name].cast(field.type)
            if field.name in old.schema.names
            else pa.nulls(old.num_rows, field.type)
            for field in SCHEMA
        }
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    own = [field for field in old.schema if field.name not in SCHEMA.names]  # of its labels
    columns |= {field.name: old[field.name] for field in own}
    schema = pa.schema([*SCHEMA, *own], metadata={**(old.schema.metadata or {}), **SCHEMA.metadata})
    return pa.table(columns, schema=schema)


def read_ids(path: Path) -> set[str]:
    """The ids in a part. Raises RunError where it is no whole Parquet file."""
    try:
        return set(pq.read_table(path, columns=["id"])["id"].to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    """No access is no damage."""
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(path, "read", error)
    return RunError(f"{path}: damaged ({error})", kind="damaged_part")


def read_batches(
    paths: Iterable[Path], columns: Sequence[str], repeated: Iterable[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Some columns of some parts, a batch at a time. repeated: those that come as dictionaries."""
    for path in paths:
        try:
            with pq.ParquetFile(path, pre_buffer=False, read_dictionary=[*repeated]) as file:
                _check_columns(path, file.schema_arrow)
                here = set(file.schema_arrow.names)
                for batch in file.iter_batches(65536, columns=[name for name in columns if name in here]):
                    yield batch if here.issuperset(columns) else _with_nulls(batch, columns)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error


def _with_nulls(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """With the columns that a part of an earlier version lacks."""
    names = batch.schema.names
    arrays = [
        batch[name] if name in names else pa.nulls(batch.num_rows, SCHEMA.field(name).type)
        for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, list(columns))
