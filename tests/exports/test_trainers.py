"""What each trainer's loader would read from an export: readers by the loaders' rules, which a wrong export fails.

The rules are those of each project's own source, written anew: sd-scripts and musubi-tuner (a .txt, JSON lines),
OneTrainer and SimpleTuner (each line a caption), diffusion-pipe (captions.json), LLaMA-Factory and ms-swift (marks and
pictures), axolotl (content lists), LLaVA.
"""

from __future__ import annotations

import json
from pathlib import Path

import captionmill as package
import pytest
from bench import write
from captionmill.exports.run import Order, run_export
from captionmill.nouns.rows import Choice, Outcome, Reply, Row, Usage
from commands import draw_pictures

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TEXT = "A boat. On the sea, <image> here."


def first_line(folder: Path) -> dict[str, str]:
    """sd-scripts: UTF-8 or error, an empty file stops the training, only the first line counts."""
    found = {}
    for picture in pictures(folder):
        lines = picture.with_suffix(".txt").read_text(encoding="utf-8").split("\n")
        assert lines[0].strip() and not any(lines[1:]), "a line that is not read"
        found[picture.name] = lines[0].strip()
    return found


def whole_file(folder: Path) -> dict[str, str]:
    """musubi-tuner: the whole file, stripped; a picture without one is dropped."""
    found = {p.name: p.with_suffix(".txt") for p in pictures(folder)}
    return {name: path.read_text(encoding="utf-8").strip() for name, path in found.items() if path.exists()}


def each_line(folder: Path) -> dict[str, str]:
    """OneTrainer, SimpleTuner: each line that is not empty is a caption of its own."""
    found = {}
    for picture in pictures(folder):
        (found[picture.name],) = [
            line for line in picture.with_suffix(".txt").read_text("utf-8").splitlines() if line.strip()
        ]
    return found


def captions_json(folder: Path) -> dict[str, str]:
    """diffusion-pipe: name -> list; any file of another kind in the folder is taken for a picture."""
    skipped = (".txt", ".npz", ".json", ".parquet", ".bak", ".db")
    foreign = [p.name for p in folder.iterdir() if p.suffix not in skipped and p.suffix not in IMAGES]
    assert foreign == []
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    assert all(isinstance(c, list) for c in captions.values())
    return {p.name: captions[p.name][0] for p in pictures(folder)}


def pictures(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix in IMAGES]


@pytest.fixture
def run(tmp_path) -> Path:
    draw_pictures(tmp_path / "p", 2)
    reply = Reply(
        (Choice(0, "A boat.\nOn the sea,\n\n<image> here.", "stop", "stop"),), Usage(1, 1, 2), model="m"
    )
    outcomes = [
        Outcome(Row(f"{n}.png", (f"{n}.png",), ("x",), "An <image>?"), 1e9, 1e9, 1, reply) for n in (0, 1)
    ]
    return write(tmp_path / "run", outcomes, source=str(tmp_path / "p")).path


@pytest.mark.parametrize(
    ("to", "reader"),
    [("txt", first_line), ("txt", whole_file), ("txt", each_line), ("diffusion-pipe", captions_json)],
)
def test_folders(run, to, reader):
    """Each picture has its whole text, in one piece."""
    run_export(Order([run], [to]))
    assert reader(run.parent / "p") == {"0.png": TEXT, "1.png": TEXT}


def test_a_text_of_two_lines_would_fail(run):
    """The readers notice what the exports avoid."""
    package.export(run, "txt", one_line=False)
    with pytest.raises(AssertionError):
        first_line(run.parent / "p")
    with pytest.raises(ValueError, match="too many"):
        each_line(run.parent / "p")


def test_kohya_lines(run):
    """sd-scripts and musubi-tuner: a picture that exists, its caption, and its size as two numbers."""
    run_export(Order([run], ["kohya", "kohya-json"]))
    lines = (run / "exports/kohya/kohya.jsonl").read_text().splitlines()
    keyed = json.loads((run / "exports/kohya-json/kohya.json").read_text())
    for line in map(json.loads, lines):
        assert Path(line["image_path"]).is_file()
        assert keyed[line["image_path"]] == {"caption": TEXT, "image_size": [64, 48]}
        assert (line["caption"], line["image_size"]) == (TEXT, [64, 48])
    assert len(lines) == len(keyed) == 2


def test_conversations(run):
    """Turns alternate, the marks of all texts together are as many as the pictures, and these exist."""
    run_export(Order([run], ["chat", "axolotl", "llava"]))
    info = json.loads((run / "exports/chat/dataset_info.json").read_text())["captionmill"]
    for line in map(json.loads, (run / "exports/chat" / info["file_name"]).read_text().splitlines()):
        assert [m["role"] for m in line["messages"]] == ["user", "assistant"]
        assert sum(m["content"].count("<image>") for m in line["messages"]) == len(line["images"]) == 1
    for line in map(json.loads, (run / "exports/axolotl/axolotl.jsonl").read_text().splitlines()):
        assert [part["type"] for part in line["messages"][0]["content"]] == ["image", "text"]
        assert Path(line["messages"][0]["content"][0]["path"]).is_file()
    for record in json.loads((run / "exports/llava/llava.json").read_text()):
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"]
        assert "".join(turn["value"] for turn in record["conversations"]).count("<image>") == 1
        assert Path(record["image"]).is_file()


def test_from_python(run):
    """captionmill.export and captionmill.report are public names."""
    assert package.export(run, "txt", trigger="ohwx").written == 2
    assert (run.parent / "p/0.txt").read_text().startswith("ohwx, A boat.")
    assert package.report(run).rows == 2
