"""Each format is loaded by the library that consumes it; those that are not installed are skipped."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bench import write
from captionmill.exports.run import Order, run_export
from captionmill.nouns.rows import Choice, Outcome, Reply, Row, Usage
from captionmill.store.folder import RunFolder
from commands import draw_pictures

pytestmark = [pytest.mark.consumers, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
os.environ["HF_HUB_OFFLINE"] = "1"
HOSTILE = 'one\ntwo "q" \ttab \0 \u202eRTL 🌊 =1+1 <a>&amp;]]> None'
TEXT = HOSTILE.replace("\n", " ").replace("\0", "")
TEXTS = {"0.png": HOSTILE, "sub/v1.2.jpg": "None", "a b'é.png": "=1+1", "1.png": "NA"}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    draw_pictures(tmp_path / "p/sub", 4)
    outcomes = []
    for number, (name, text) in enumerate(TEXTS.items()):
        shutil.copy(tmp_path / f"p/sub/{number}.png", tmp_path / "p" / name)
        reply = Reply((Choice(0, text, "stop", "stop"),), Usage(10, 5, 15), model="gpt-4o")
        outcomes.append(Outcome(Row(name, (name,), (name,), "Describe it."), 1e9, 1e9, 1, reply))
    return write(tmp_path / "run", outcomes, source=str(tmp_path / "p"))


def export(folder: RunFolder, to: str) -> Path:
    run_export(Order([folder.path], [to], out=folder.path.parent / "out"))
    return folder.path.parent / "out"


def test_imagefolder(folder, tmp_path):
    """Every picture with its text; "None" and "NA" stay texts."""
    datasets = pytest.importorskip("datasets")
    out = export(folder, "metadata")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "c")
    )
    assert sorted(found["text"]) == sorted([TEXT, "None", "=1+1", "NA"])
    assert found[0]["image"].size == (64, 48)


def test_parquet(folder, tmp_path):
    """Pictures are shown as pictures."""
    datasets = pytest.importorskip("datasets")
    out = export(folder, "parquet")
    files = [str(p) for p in out.glob("*.parquet")]
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "c"))
    assert found[0]["image"].size == (64, 48)
    assert sorted(found["text"]) == sorted([TEXT, "None", "=1+1", "NA"])


@pytest.mark.parametrize("library", ["polars", "duckdb", "fastparquet"])
def test_other_parquet_readers(folder, library):
    """Text and bytes come through."""
    module = pytest.importorskip(library)
    path = str(next(export(folder, "parquet").glob("*.parquet")))
    if library == "polars":
        texts = module.read_parquet(path)["text"].to_list()
    elif library == "duckdb":
        texts = [row[0] for row in module.sql(f"select text from '{path}'").fetchall()]  # noqa: S608  our own path
    else:
        texts = module.ParquetFile(path).to_pandas(columns=["text"])["text"].tolist()
    assert sorted(texts) == sorted([TEXT, "None", "=1+1", "NA"])


def test_webdataset(folder, tmp_path):
    """Both libraries read each sample whole, also of a picture whose name has dots."""
    webdataset = pytest.importorskip("webdataset")
    datasets = pytest.importorskip("datasets")
    path = str(next(export(folder, "webdataset").glob("*.tar")))
    samples = list(webdataset.WebDataset(path, shardshuffle=False).decode("pil"))
    assert sorted(s["txt"] for s in samples) == sorted([TEXT, "None", "=1+1", "NA"])
    assert samples[0]["jpg"].size == (64, 48)
    found = datasets.load_dataset(
        "webdataset", data_files=[path], split="train", cache_dir=str(tmp_path / "c")
    )
    assert sorted(found["txt"]) == sorted([TEXT, "None", "=1+1", "NA"])
    assert found[0]["jpg"].size == (64, 48)


def test_coco(folder):
    """pycocotools indexes images and captions, and loads the results file."""
    coco = pytest.importorskip("pycocotools.coco")
    out = export(folder, "coco")
    truth = coco.COCO(str(out / "captions.json"))
    assert len(truth.getImgIds()) == len(truth.getAnnIds()) == 4
    assert truth.imgs[1]["width"] == 64
    assert len(truth.loadRes(str(out / "results.json")).getAnnIds()) == 4


def test_label_studio(folder):
    """The SDK's validator takes each task with its prediction."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    out = export(folder, "label-studio")
    config = interface.LabelInterface((out / "config.xml").read_text())
    for task in json.loads((out / "tasks.json").read_text()):
        assert config.validate_task({"data": task["data"]})
        assert config.validate_prediction(task["predictions"][0])


@pytest.mark.parametrize("tool", ["exiftool", "exiv2"])
def test_xmp(folder, tool):
    """Description and alt text are read back as they were."""
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    path = export(folder, "xmp") / "0.png.xmp"
    line = {
        "exiftool": ["exiftool", "-j", "-Description", "-AltTextAccessibility"],
        "exiv2": ["exiv2", "-px"],
    }
    done = subprocess.run([*line[tool], str(path)], capture_output=True, text=True, check=True)
    if tool == "exiftool":
        (found,) = json.loads(done.stdout)
        assert found["Description"] == found["AltTextAccessibility"] == TEXT
    else:
        assert "Xmp.dc.description" in done.stdout and "🌊" in done.stdout


def test_a_table(folder):
    """pandas reads the spreadsheet's file."""
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(
        io.BytesIO((export(folder, "csv") / "captions.csv").read_bytes()), keep_default_na=False
    )
    assert sorted(table["caption"])[0] == "'=1+1"
    assert len(table) == 4
