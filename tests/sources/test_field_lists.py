"""Lists as the field writes them: spreadsheets, pandas, LLaVA, Hugging Face, other systems' spellings of paths."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError, UsageError
from captionmill.pictures.files import read_file
from captionmill.pictures.pool import PicturePool
from captionmill.pictures.prepare import PicturePreparer
from captionmill.sources import manifest as module
from captionmill.sources.manifest import Manifest
from captionmill.store.pending import PendingRows
from captionmill.vision.sizes import picture_bounds
from PIL import Image

_OUT = io.BytesIO()
Image.new("L", (1, 1)).save(_OUT, "PNG")
PIXEL = _OUT.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(source: Path, prompt: str = "p", **settings):
    manifest = Manifest(source, prompt, **settings)
    survey = manifest.survey()
    found = list(manifest.rows())
    assert survey.total == len(found) == len({row.id for row in found})
    return found


# ------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "content",
    [
        "Image;caption\r\na.jpg; x, y \r\n",
        "filename\tcaption\na.jpg\tx, y\n",
        "sep=;\r\nimage_path;caption\r\na.jpg;x, y\r\n",
        'file_name,caption,,\na.jpg,"x, y",,\n,,,\n , ,,\n',
        "﻿image|caption\na.jpg|x, y\n".encode("utf-16-le"),
        "image;caption\na.jpg;x, y\n".encode("utf-16"),
        "image;caption\na.jpg;x, y".encode("utf-16-be"),
    ],
)
def test_a_table_of_a_spreadsheet(tmp_path, content):
    """Semicolons, tabs, columns without name and content, rows of commas, UTF-16: one row each."""
    (row,) = rows(write(tmp_path / "list.csv", content))
    assert (row.images, json.loads(row.extra)) == (("a.jpg",), {"caption": "x, y"})


@pytest.mark.parametrize(
    "column", ["image", "Image", "IMAGE", "filename", "File Name", "image_path", "filepath", "img", "Picture"]
)
def test_names_of_the_image_column(tmp_path, column):
    """Upper case and blanks do not matter."""
    for name, text in (("a.csv", f"{column}\nx.jpg\n"), ("a.tsv", f"n\t{column}\n1\tx.jpg\n")):
        assert rows(write(tmp_path / name, text))[0].images == ("x.jpg",)
    assert rows(write(tmp_path / "a.jsonl", json.dumps({column: "x.jpg"})))[0].images == ("x.jpg",)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_llava(tmp_path, indent):
    """Objects of any length, with brackets in their texts, on one line or on many; never the whole file."""
    entries = [
        {"id": str(n), "image": f"{n}.jpg", "conversations": [{"value": "]}, {\n" * n}]} for n in range(300)
    ]
    found = rows(write(tmp_path / "llava.json", json.dumps(entries, indent=indent)))
    assert [row.id for row in found] == [entry["id"] for entry in entries]
    assert json.loads(found[7].extra) == {"conversations": entries[7]["conversations"]}
    assert rows(write(tmp_path / "lines.json", '{"image": "a.jpg"}\n{"image": "b.jpg"}\n'))[1].id == "b.jpg"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"image": "a.jpg"},\n {"image": }]', "a.json:2: broken JSON"),
        ('[{"image": "a.jpg"},\n', "does not end"),
        ('["a.jpg"]', "a.json:1: an entry must be a JSON object"),
        ("", "does not end"),
    ],
)
def test_a_broken_array_names_its_line(tmp_path, text, says):
    """One clear line, before anything is sent."""
    with pytest.raises(UsageError, match=says):
        Manifest(write(tmp_path / "a.json", text), "p").survey()


def test_what_only_floats_have(tmp_path):
    """NaN and infinity are null; whole numbers that pandas made floats are whole."""
    table = pa.table({"id": [1001.0, 1002.0], "image": ["a.jpg", "b.jpg"], "n": [3.0, float("nan")]})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = rows(tmp_path / "a.parquet", "{n} of them")
    assert [first.id, first.prompt, second.id, second.prompt] == ["1001", "3 of them", "1002", " of them"]
    (row,) = rows(write(tmp_path / "a.jsonl", '{"image": "a.jpg", "x": NaN, "y": [Infinity, 2.5, 2.0]}'))
    assert json.loads(row.extra) == {"x": None, "y": [None, 2.5, 2]}


def test_a_column_that_some_lines_lack(tmp_path):
    """The same as null, also for the id; a column that no line has is an error with the first line's place."""
    text = '{"image": "a.jpg", "kind": "cat"}\n{"image": "b.jpg"}\n{"image": "c.jpg", "kind": null}\n'
    source = write(tmp_path / "a.jsonl", text)
    found = rows(source, "a {kind}")
    assert [row.prompt for row in found] == ["a cat", "a ", "a "]
    assert found[1].id.startswith("b.jpg#") and found[2].id.startswith("c.jpg#")
    assert Manifest(source, "a {kind}").survey().empty_columns == {"kind": 2}
    with pytest.raises(
        UsageError, match=r"a\.jsonl:1: the prompt asks for \{knid\}, but the columns are image, kind"
    ):
        Manifest(source, "a {knid}").survey()


def test_one_file_is_one_row(tmp_path):
    """However its path is written."""
    manifest = Manifest(write(tmp_path / "a.csv", "image\np1.jpg\n./p1.jpg\nb//p2.jpg\nb/./p2.jpg\n"), "p")
    assert manifest.survey().repeated == 2
    assert [row.id for row in manifest.rows()] == ["p1.jpg", "b/p2.jpg"]


def test_a_manifest_that_may_not_be_read(tmp_path, monkeypatch):
    """One line that names it."""

    def refuse(_path):
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setitem(module.READERS, ".csv", refuse)
    with pytest.raises(UsageError, match=r"a\.csv: cannot be read \(Permission denied\)"):
        Manifest(write(tmp_path / "a.csv", "image\na.jpg\n"), "p").survey()


# ------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("on_disk", "in_the_list"),
    [
        (unicodedata.normalize("NFD", "café/é.jpg"), unicodedata.normalize("NFC", "café/é.jpg")),
        (unicodedata.normalize("NFC", "café/é.jpg"), unicodedata.normalize("NFD", "café/é.jpg")),
        ("a/b c.jpg", "a\\b c.jpg"),
        ("a b/c d.jpg", "a%20b/c%20d.jpg"),
        ("100%20.jpg", "100%20.jpg"),
        ("a/é.jpg", "a%5Ce%CC%81.jpg"),
    ],
)
def test_other_spellings_of_a_path(tmp_path, on_disk, in_the_list):
    """Found when the file is read, and the name in the dataset is that of the list."""
    write(tmp_path / on_disk, PIXEL)
    (row,) = rows(write(tmp_path / "a.jsonl", json.dumps({"image": in_the_list})))
    assert row.images == (in_the_list,)
    assert read_file(row.paths[0]) == PIXEL


def test_paths_of_a_home_and_of_a_url(tmp_path, monkeypatch):
    """~/ is the home folder, file:// an absolute path."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home/a.jpg", PIXEL)
    write(tmp_path / "b c.jpg", PIXEL)
    text = f"image\n~/a.jpg\nfile://{tmp_path}/b%20c.jpg\n"
    assert [read_file(row.paths[0]) for row in rows(write(tmp_path / "m/a.csv", text))] == [PIXEL, PIXEL]


@pytest.mark.parametrize(
    "image", ["..\\secret.jpg", "%2e%2e/secret.jpg", "a%2F..%2F..%2Fsecret.jpg", "%2E%2E\\secret.jpg"]
)
def test_no_spelling_leads_out_of_the_folder(tmp_path, image):
    """What a plain path may not do, another spelling of it may not do either."""
    write(tmp_path / "secret.jpg", PIXEL)
    (tmp_path / "m/a").mkdir(parents=True)
    (row,) = rows(write(tmp_path / "m/a.jsonl", json.dumps({"image": image})))
    with pytest.raises(RowError, match="no such file"):
        read_file(row.paths[0])


def test_a_list_whose_images_are_all_missing(tmp_path):
    """Fifty of the first fifty: nothing is sent. With one of them there, the others are failed rows."""
    source = write(tmp_path / "a.csv", "image\n" + "".join(f"C:\\x\\{n}.jpg\n" for n in range(60)))
    with pytest.raises(
        UsageError, match=r"not one image of the first 50 .*0\.jpg; this is a path of Windows"
    ):
        Manifest(source, "p").check_images()
    write(tmp_path / "C:\\x\\30.jpg", PIXEL)
    Manifest(source, "p").check_images()
    Manifest(write(tmp_path / "b.csv", "image\n" + "no.jpg\n" * 40), "p").check_images()
    remote = write(tmp_path / "c.csv", "image\n" + "".join(f"https://a/{n}.jpg\n" for n in range(60)))
    Manifest(remote, "p", allow_remote=True).check_images()


# ------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found", "System Volume Information", "#snapshot",
     "@Recycle", "found.000", "RECYCLER", "Network Trash Folder", "@Recently-Snapshot", "~snapshot"],
)  # fmt: skip
def test_system_folders_are_no_source(tmp_path, folder):
    """Thumbnails and deleted files of a storage are left out, counted and named, at any depth."""
    for path in ("a.jpg", f"{folder}/b.jpg", f"in/{folder}/deep/c.jpg", "@me/d.jpg", "#holiday/e.jpg"):
        write(tmp_path / path, "x")
    manifest = Manifest(tmp_path, "p")
    survey = manifest.survey()
    assert [row.id for row in manifest.rows()] == ["#holiday/e.jpg", "@me/d.jpg", "a.jpg"]
    assert sorted(survey.system_folders.first) == sorted([folder, f"in/{folder}"])
    assert survey.system_folders.count == 2


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """Named, and the rest is captioned; an error with --strict; the source itself must be readable."""
    from captionmill.sources import folder as folder_module

    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(folder_module.os, "scandir", scandir)
    write(tmp_path / "a.jpg", "x")
    write(tmp_path / "closed/b.jpg", "x")
    survey = Manifest(tmp_path, "p").survey()
    assert (survey.total, str(survey.unreadable_folders)) == (1, "closed (Permission denied)")
    with pytest.raises(UsageError, match=r"--strict.*closed"):
        Manifest(tmp_path, "p", is_strict=True).survey()
    with pytest.raises(UsageError, match="cannot be listed"):
        Manifest(tmp_path / "closed", "p").survey()


# ------------------------------------------------------------------------------- pictures in the manifest

_FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def as_struct(path: Path, count: int) -> Path:
    pictures = pa.array([{"bytes": PIXEL, "path": f"{n}.png"} for n in range(count)], _FEATURE)
    pq.write_table(pa.table({"image": pictures, "text": ["t"] * count}), path / "a.parquet", row_group_size=7)
    return path / "a.parquet"


def as_bytes(path: Path, count: int) -> Path:
    pq.write_table(pa.table({"jpg": pa.array([PIXEL] * count)}), path / "b.parquet")
    return path / "b.parquet"


def as_data_urls(path: Path, count: int) -> Path:
    text = base64.b64encode(PIXEL).decode()
    lines = [json.dumps({"id": n, "image": f"data:image/png;base64,{text}"}) for n in range(count)]
    return write(path / "c.jsonl", "\n".join(lines))


def as_csv(path: Path, count: int) -> Path:
    text = base64.b64encode(PIXEL + bytes(100)).decode()
    return write(path / "d.csv", "image\n" + f"{text}\n" * count)


@pytest.mark.parametrize(
    ("form", "name"),
    [(as_struct, "3.png"), (as_bytes, "b.parquet:row 4"), (as_data_urls, "3"), (as_csv, "d.csv:5")],
)
def test_pictures_in_a_manifest(tmp_path, form, name):
    """A row has the name of the file that the picture was, or its own; a survey reads no pictures; a run sends them."""
    source = form(tmp_path, 20)
    manifest = Manifest(source, "p")
    survey = manifest.survey()
    found = list(manifest.rows())
    assert (survey.total, survey.repeated, len({row.id for row in found})) == (20, 0, 20)
    assert (found[3].id, found[3].images) == (name, (name,))
    assert not any(
        data for row in manifest.rows(with_pictures=False) for _, data in row.embedded
    ) or form in (as_data_urls, as_csv)
    config = RunConfig(model="m")
    pool = PicturePool(PicturePreparer(config, picture_bounds(config)))
    ((row, (picture,)), *_) = asyncio.run(pool.prepare(found[3:5]))
    pool.close()
    assert (picture.width, picture.height, row.embedded) == (1, 1, ())


def test_files_of_one_name_in_a_manifest(tmp_path):
    """The first keeps the name, each further one gets its place; more rows at the end change no earlier id."""
    pictures = [{"bytes": PIXEL + bytes([n]), "path": "image.png"} for n in range(3)]
    for count in (2, 3):
        pq.write_table(pa.table({"image": pa.array(pictures[:count], _FEATURE)}), tmp_path / "a.parquet")
        found = rows(tmp_path / "a.parquet")
        assert [row.id for row in found] == ["image.png", "image.png#2", "image.png#3"][:count]
        assert [dict(row.embedded)[row.paths[0]][-1] for row in found] == [0, 1, 2][:count]


def test_a_struct_without_bytes_has_paths(tmp_path):
    """As `datasets` writes files that it left where they were."""
    pictures = pa.array([{"bytes": None, "path": "in.png"}, {"bytes": None, "path": "b.png"}], _FEATURE)
    pq.write_table(pa.table({"image": pictures}), tmp_path / "a.parquet")
    assert [row.paths for row in rows(tmp_path / "a.parquet")] == [
        (str(tmp_path / n),) for n in ("in.png", "b.png")
    ]


def test_a_second_picture_is_no_text(tmp_path):
    """A mask beside the image goes neither into the prompt nor into the dataset."""
    table = pa.table(
        {"image": ["a.jpg"], "mask": pa.array([{"bytes": PIXEL, "path": "m"}], _FEATURE), "n": [1]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert json.loads(rows(tmp_path / "a.parquet")[0].extra) == {"n": 1}


def test_several_pictures_of_a_row_in_a_manifest(tmp_path):
    """A list of structs keeps its order and names."""
    pictures = pa.array([[{"bytes": PIXEL, "path": "a"}, {"bytes": PIXEL, "path": None}]], pa.list_(_FEATURE))
    pq.write_table(pa.table({"images": pictures}), tmp_path / "a.parquet")
    (row,) = rows(tmp_path / "a.parquet")
    assert row.images == ("a", "a.parquet:row 1/2")
    assert len(row.embedded) == 2


def test_rows_with_pictures_come_in_small_batches(tmp_path, monkeypatch):
    """What waits in memory is bounded in bytes."""
    monkeypatch.setattr("captionmill.store.pending._BYTES_A_BATCH", 3 * len(PIXEL))
    manifest = Manifest(as_struct(tmp_path, 20), "p")
    assert {len(batch) for batch in PendingRows(manifest.rows(), None, None).batches()} == {4}
