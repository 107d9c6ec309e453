"""Folders and manifests -> rows: order, ids, columns, and a message with file and line for every mistake."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captionmill.nouns.errors import UsageError
from captionmill.sources.manifest import READERS, Manifest
from captionmill.sources.record import Record


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(source: Path, prompt: str = "p", limit: int | None = None):
    manifest = Manifest(source, prompt, limit)
    survey = manifest.survey()
    found = list(manifest.rows())
    assert survey.total == len(found)
    return found


def complaint(source: Path, prompt: str = "p") -> str:
    with pytest.raises(UsageError) as caught:
        Manifest(source, prompt).survey()
    return str(caught.value)


# ------------------------------------------------------------------------------- folders


def test_a_folder_in_natural_order(tmp_path):
    """Recursive, 2 before 10, hidden files and other files left out and counted, ids with forward slashes."""
    for name in (
        "10.jpg",
        "2.JPG",
        "1.png",
        "b/3.webp",
        "b/20.heic",
        ".hidden.jpg",
        ".dir/x.jpg",
        "notes.txt",
    ):
        write(tmp_path / name, "x")
    manifest = Manifest(tmp_path, "p")
    survey = manifest.survey()
    found = list(manifest.rows())
    assert [r.id for r in found] == ["1.png", "2.JPG", "10.jpg", "b/3.webp", "b/20.heic"]
    assert (survey.total, survey.skipped) == (5, 1)
    assert found[3].paths == (str(tmp_path / "b/3.webp"),)
    assert {r.extra for r in found} == {None}


def test_the_output_of_a_run_is_no_input(tmp_path):
    """A run folder inside the source, with its thumbnails, is passed over."""
    write(tmp_path / "a.jpg", "x")
    write(tmp_path / "out/journal.sqlite", "x")
    write(tmp_path / "out/gallery/t.jpg", "x")
    assert [r.id for r in rows(tmp_path)] == ["a.jpg"]


def test_links_that_lead_back_up_end(tmp_path):
    """A symlink loop is walked once."""
    write(tmp_path / "a/x.jpg", "x")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert [r.id for r in rows(tmp_path)] == ["a/x.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no undecodable names")
def test_a_name_in_an_unknown_encoding(tmp_path):
    """The id is text that any file format takes; the path still opens the file."""
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT | os.O_WRONLY))
    (row,) = rows(tmp_path)
    assert row.id.encode("utf-8") == rb"caf\udce9.jpg"
    assert Path(row.paths[0]).exists()


def test_a_folder_without_pictures(tmp_path):
    """An empty source is an error that says what was found instead."""
    write(tmp_path / "a.txt", "x")
    assert "no images in it (1 other file)" in complaint(tmp_path)


def test_a_source_that_does_not_exist(tmp_path):
    """A missing source and one of an unknown kind are refused when the manifest is opened."""
    with pytest.raises(UsageError, match="no such file"):
        Manifest(tmp_path / "none", "p")
    with pytest.raises(UsageError, match=r"one of \.csv, \.tsv, \.json, \.jsonl"):
        Manifest(write(tmp_path / "list.xls", "x"), "p")


# ------------------------------------------------------------------------------- the same rows from all forms

RECORDS = [
    {"id": "1", "image": "a.jpg", "prompt": "", "category": 'red, "big"\ncar'},
    {"id": "2", "image": "sub/b.png", "prompt": "own prompt", "category": "ü"},
]


def as_csv(path: Path) -> Path:
    text = 'id,image,prompt,category\n1,a.jpg,,"red, ""big""\ncar"\n2,sub/b.png,own prompt,ü\n'
    return write(path / "m.csv", "\ufeff" + text)


def as_jsonl(path: Path) -> Path:
    return write(path / "m.jsonl", "\ufeff" + "\n".join(json.dumps(r) for r in RECORDS) + "\n\n")


def as_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(RECORDS), path / "m.parquet")
    return path / "m.parquet"


@pytest.mark.parametrize("form", [as_csv, as_jsonl, as_parquet])
def test_all_forms_give_the_same_rows(tmp_path, form):
    """Ids, paths beside the manifest, the row's own prompt or the filled one, other columns as JSON."""
    found = rows(form(tmp_path), "Describe this {category} photo")
    assert [r.id for r in found] == ["1", "2"]
    assert [r.images for r in found] == [("a.jpg",), ("sub/b.png",)]
    assert found[1].paths == (str(tmp_path / "sub/b.png"),)
    assert found[0].prompt == 'Describe this red, "big"\ncar photo'
    assert found[1].prompt == "own prompt"
    assert json.loads(found[1].extra) == {"category": "ü"}


def test_several_images_a_row(tmp_path):
    """A list in JSONL, a JSON list in a CSV cell; `file_name` and `path` are image columns too."""
    (row,) = rows(write(tmp_path / "a.jsonl", '{"id": 5, "images": ["x.jpg", "/abs/y.png"]}'))
    assert (row.id, row.paths) == ("5", (str(tmp_path / "x.jpg"), "/abs/y.png"))
    (row,) = rows(write(tmp_path / "b.csv", 'images\n"[""x.jpg"",""y.jpg""]"\n'))
    assert (row.id, row.images) == ("x.jpg|y.jpg", ("x.jpg", "y.jpg"))
    assert rows(write(tmp_path / "c.csv", "file_name\nx.jpg\n"))[0].images == ("x.jpg",)
    assert rows(write(tmp_path / "d.jsonl", '{"path": "x.jpg"}'))[0].images == ("x.jpg",)


def test_ids_without_an_id_column(tmp_path):
    """The path; with a short hash of the prompt where prompts differ from row to row."""
    plain = write(tmp_path / "a.csv", "image\nx.jpg\n")
    own = write(tmp_path / "b.csv", "image,prompt\nx.jpg,one\nx.jpg,two\n")
    filled = write(tmp_path / "c.csv", "image,kind\nx.jpg,one\nx.jpg,two\n")
    assert rows(plain)[0].id == "x.jpg"
    for source in (own, filled):
        ids = [r.id for r in rows(source, "a {kind}" if source == filled else "p")]
        assert len(set(ids)) == 2
        assert all(i.startswith("x.jpg#") and len(i) == len("x.jpg#") + 8 for i in ids)


def test_braces_in_a_prompt(tmp_path):
    """JSON examples and {{doubled}} braces stay; a {name} that is no column is an error before anything is sent."""
    source = write(tmp_path / "a.csv", "image,kind\nx.jpg,cat\n")
    (row,) = rows(source, 'A {kind}: answer as {"label": 1} and {{kind}}')
    assert row.prompt == 'A cat: answer as {"label": 1} and {kind}'
    assert "asks for {knid}, but the columns are image, kind" in complaint(source, "A {knid}")


def test_only_the_first_rows(tmp_path):
    """--limit counts rows of the manifest."""
    source = write(tmp_path / "a.csv", "image\n" + "".join(f"{i}.jpg\n" for i in range(10)))
    assert [r.id for r in rows(source, limit=3)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_new_format_is_one_reader(tmp_path, monkeypatch):
    """A function from a path to records in the table of readers is all that a format needs."""

    def read_list(path: Path):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield Record(f"{path}:{number}", {"image": line, "number": number})

    monkeypatch.setitem(READERS, ".list", read_list)
    found = rows(write(tmp_path / "m.LIST", "a.jpg\nb.jpg\n"), "number {number}")
    assert [(r.prompt, r.paths) for r in found] == [
        ("number 1", (str(tmp_path / "a.jpg"),)),
        ("number 2", (str(tmp_path / "b.jpg"),)),
    ]
    assert ".list" in complaint(write(tmp_path / "m.xls", "x"))


def test_columns_that_the_prompt_needs_and_rows_leave_empty(tmp_path):
    """Counted once a row, however often the prompt names them; a row with its own prompt needs none."""
    source = write(tmp_path / "a.csv", "image,kind,prompt\na.jpg,,\nb.jpg,cat,\nc.jpg,,own\nd.jpg,,\n")
    survey = Manifest(source, "{kind} {kind}").survey()
    assert survey.empty_columns == {"kind": 2}
    assert survey.own_prompts == 1


# ------------------------------------------------------------------------------- duplicate ids


def test_the_same_row_twice_counts_once(tmp_path):
    """Same id and content: one row, and the survey says how many more there were."""
    source = write(tmp_path / "a.csv", "id,image\n1,x.jpg\n2,y.jpg\n1,x.jpg\n1,x.jpg\n")
    manifest = Manifest(source, "p")
    assert manifest.survey().repeated == 2
    assert [r.id for r in manifest.rows()] == ["1", "2"]


def test_one_id_for_two_contents(tmp_path):
    """Nothing is sent; the message names the ids and both lines."""
    message = complaint(write(tmp_path / "a.csv", "id,image\n1,x.jpg\n2,y.jpg\n1,z.jpg\n"))
    assert "1 row has an id that another row" in message
    assert f"'1' at {tmp_path}/a.csv:2 and {tmp_path}/a.csv:4" in message


# ------------------------------------------------------------------------------- what is wrong, and where


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", "", "m.csv: empty"),
        ("m.csv", "image\n", "no rows"),
        ("m.csv", "id,text\n1,x\n", "m.csv: no image column; one of image, images, file_name, path"),
        ("m.csv", "image,image\na,b\n", "two columns are called image"),
        ("m.csv", "id,image\n1,a.jpg\n2,b.jpg,c\n", "m.csv:3: 3 fields, but the header names 2 columns"),
        ("m.csv", "id,image\n1,\n", "m.csv:2: the image is empty"),
        ("m.csv", "id,image\n,a.jpg\n", "m.csv:2: the `id` is empty"),
        ("m.csv", 'id,image\n1,"a.jpg\n', "broken CSV"),
        ("m.csv", b"id,image\n1,caf\xe9.jpg\n", "m.csv:2: not UTF-8 (byte 0xe9 at column 6)"),
        ("m.csv", "id,image\n1,a.jpg\n".encode("utf-16")[:-1], "m.csv: not UTF-16"),
        ("m.csv", 'id,images\n1,"[1, 2]"\n', "m.csv:2: an image is a path, not 1"),
        ("m.jsonl", '{"image": "a.jpg"}\n{"image": \n', "m.jsonl:2: broken JSON"),
        ("m.jsonl", '["a.jpg"]\n', "m.jsonl:1: a line must be a JSON object, not list"),
        ("m.jsonl", '{"image": "a.jpg"}\n{"pixels": "b.jpg"}\n', "m.jsonl:2: no image column"),
        ("m.jsonl", '{"image": {"bytes": "x"}}\n', "m.jsonl:1: an image is a path"),
        ("m.jsonl", '{"image": "a.jpg", "prompt": 5}\n', "m.jsonl:1: `prompt` must be text"),
        ("m.parquet", "nonsense", "not a readable Parquet file"),
    ],
)
def test_a_bad_manifest_names_file_and_line(tmp_path, name, content, says):
    """Every mistake is found before anything is sent."""
    assert says in complaint(write(tmp_path / name, content))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff"]).view(pa.string()),
        pa.array([2**31 - 1], pa.date32()),
        pa.array([2**62], pa.timestamp("us", "UTC")),
    ],
)
def test_a_parquet_value_that_cannot_be_read_names_the_row(tmp_path, column):
    """No UTF-8, a date after the year 9999: one line, no traceback."""
    pq.write_table(pa.table({"image": ["a.jpg"], "when": column}), tmp_path / "m.parquet")
    assert "m.parquet:row 1 or later: a value cannot be read" in complaint(tmp_path / "m.parquet")


def test_a_parquet_file_with_an_unknown_time_zone_is_named(tmp_path):
    """The message names the file in one line, on every machine (different libraries refuse the zone)."""
    column = pa.array([0], pa.timestamp("ms", "Mars/Olympus"))
    pq.write_table(pa.table({"image": ["a.jpg"], "when": column}), tmp_path / "m.parquet")
    assert "m.parquet" in complaint(tmp_path / "m.parquet")


def test_the_fingerprint_follows_the_content(tmp_path):
    """Same rows, same fingerprint; one changed cell, another."""
    first = Manifest(write(tmp_path / "a.csv", "id,image\n1,x.jpg\n"), "p").survey().fingerprint
    same = Manifest(write(tmp_path / "b.csv", "id,image\n1,x.jpg\n"), "p").survey().fingerprint
    other = Manifest(write(tmp_path / "c.csv", "id,image\n1,y.jpg\n"), "p").survey().fingerprint
    assert first == same != other


def test_a_manifest_is_never_loaded_whole(tmp_path):
    """The first row of an endless file is there at once."""
    pipe = tmp_path / "m.jsonl"
    os.mkfifo(pipe)
    if os.fork() == 0:  # pragma: no cover  the child writes until the reader goes
        try:
            with pipe.open("w") as file:
                while True:
                    file.write('{"image": "a.jpg"}\n')
        except BrokenPipeError:
            pass
        finally:
            os._exit(0)
    reading = Manifest(pipe, "p").rows()
    assert next(reading).id == "a.jpg"
    reading.close()
    os.wait()


@pytest.mark.parametrize("image", ["../secret.jpg", "a/../../secret.jpg", "./../x.jpg", ".."])
def test_a_relative_path_stays_in_the_folder(tmp_path, image):
    """A manifest from a stranger cannot send files beside its folder, except with --allow-outside."""
    (tmp_path / "m").mkdir()
    path = tmp_path / "m/list.jsonl"
    path.write_text(json.dumps({"image": "in.jpg"}) + "\n" + json.dumps({"image": image}) + "\n")
    with pytest.raises(UsageError, match=r"list\.jsonl:2: .*leads out of .*--allow-outside"):
        Manifest(path, "?").survey()
    assert Manifest(path, "?", allow_outside=True).survey().total == 2


@pytest.mark.parametrize("image", ["/photos/a.jpg", "a/../b.jpg", "..a.jpg", "a..b/..c.jpg"])
def test_paths_that_are_allowed(tmp_path, image):
    """Absolute paths are allowed, and dots inside a name do not lead outside."""
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"image": image}) + "\n")
    assert Manifest(path, "?").survey().total == 1


def test_a_link_does_not_lead_outside_by_its_parent(tmp_path):
    """link/../x is x beside the manifest, not what lies beside the link's target."""
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/link").symlink_to(tmp_path / "elsewhere/inner")
    path = tmp_path / "m/list.jsonl"
    path.write_text(json.dumps({"image": "link/../x.jpg"}) + "\n")
    (row,) = Manifest(path, "?").rows()
    assert row.paths == (str(tmp_path / "m/x.jpg"),)


@pytest.mark.parametrize(
    "image", ["s3://bucket/a.jpg", "file://server/a.jpg", "data:image/png," + "A" * 300_000]
)
def test_other_schemes_are_refused(tmp_path, image):
    """The message names the line before anything is sent, and shortens a data URL."""
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"image": image}) + "\n")
    with pytest.raises(UsageError, match=r"list\.jsonl:1: .*a path or an http") as caught:
        Manifest(path, "?").survey()
    assert len(str(caught.value)) < 400
