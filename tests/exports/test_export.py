"""Exports: the right text in the right file, nothing of the user's touched, and only what is new or changed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from bench import write
from captionmill.exports.caption_text import TextSettings
from captionmill.exports.formats import FORMATS
from captionmill.exports.names import inside
from captionmill.exports.rows import Selection
from captionmill.exports.run import Order, run_export
from captionmill.exports.work import Options
from captionmill.nouns.errors import UsageError
from captionmill.nouns.rows import Choice, Outcome, Reply, Row, Usage
from captionmill.sources.text import printable
from captionmill.store.folder import RunFolder
from commands import ROOT, captionmill, draw_pictures

AT = 1_763_000_000.0
HOSTILE = 'line one\nline two\u2028three "quoted" \ttab \0 NUL \u202eRTL 🌊 =1+1 <a>&amp;]]>'


def answer(name: str, text: str | None, extra: str | None = None) -> Outcome:
    reply = Reply((Choice(0, text, "stop", "stop"),), Usage(10, 5, 15), model="gpt-4o")
    return Outcome(Row(printable(name), (name,), (name,), "Describe <image> it.", extra), AT, AT, 1, reply)


def run_of(tmp_path: Path, texts: dict[str, str | None], extra: str | None = None) -> RunFolder:
    draw_pictures(tmp_path / "p", 3)
    outcomes = [answer(name, text, extra) for name, text in texts.items()]
    return write(tmp_path / "run", outcomes, source=str(tmp_path / "p"))


def export(folder: RunFolder, to: str, **more):
    return run_export(Order([folder.path], [to], **more))[to]


def test_a_txt_beside_each_picture(tmp_path):
    """One line a file; joined lines are counted, rows without text too."""
    folder = run_of(tmp_path, {"0.png": "a\nb", "1.png": "c", "2.png": ""})
    done = export(folder, "txt")
    assert (done.written, done.joined, done.skipped) == (2, 1, {"no text": 1})
    assert (tmp_path / "p/0.txt").read_bytes() == b"a b"
    assert not (tmp_path / "p/2.txt").exists()
    assert not [p for p in (tmp_path / "p").iterdir() if p.name.startswith(".")]


def test_a_second_call_writes_what_changed(tmp_path):
    """The same again writes nothing; changed texts replace the files of an earlier export; --check writes nothing."""
    folder = run_of(tmp_path, {"0.png": "one", "1.png": "two"})
    export(folder, "txt")
    assert export(folder, "txt").unchanged == 2
    upper = Selection(settings=TextSettings(trigger="ohwx"))
    assert export(folder, "txt", selection=upper, is_check=True).changed == 2
    assert (tmp_path / "p/0.txt").read_text() == "one"
    assert export(folder, "txt", selection=upper).changed == 2
    assert (tmp_path / "p/0.txt").read_text() == "ohwx, one"


def test_nothing_of_the_user_is_overwritten(tmp_path):
    """A file that no export wrote, or that was edited since, stays and is named; --overwrite replaces it."""
    folder = run_of(tmp_path, {"0.png": "one", "1.png": "two"})
    (tmp_path / "p/0.txt").write_text("mine")
    done = export(folder, "txt")
    (reason,) = done.skipped
    assert (done.written, (tmp_path / "p/0.txt").read_text()) == (1, "mine")
    assert done.names[reason][0].endswith("0.txt")
    (tmp_path / "p/1.txt").write_text("edited")
    assert sum(export(folder, "txt").skipped.values()) == 2
    assert export(folder, "txt", overwrite=True).changed == 2


@pytest.mark.parametrize(
    "to", ["kohya", "csv", "chat", "llava", "jsonl", "axolotl", "kohya-json", "parquet", "webdataset"]
)
def test_one_file_is_written_once(tmp_path, to):
    """The same rows again write nothing; an edited file stays; new rows replace our own."""
    folder = run_of(tmp_path, {"0.png": HOSTILE})
    assert export(folder, to).written >= 1
    assert export(folder, to).written == export(folder, to).changed == 0
    other = Selection(settings=TextSettings(lower=True))
    assert export(folder, to, selection=other).changed == 1
    (path,) = [p for p in (folder.path / "exports" / to).iterdir() if p.name != "dataset_info.json"]
    path.write_text("mine")
    assert sum(export(folder, to, selection=other).skipped.values()) == 1
    assert path.read_text() == "mine"


def test_collisions_are_named_before_anything_is_written(tmp_path):
    """a.jpg and a.png both want a.txt: both are named, no file is there."""
    folder = run_of(tmp_path, {"0.png": "one", "0.jpg": "two", "1.png": "three"})
    with pytest.raises(UsageError, match=r"0\.png, 0\.jpg|0\.jpg, 0\.png"):
        export(folder, "txt")
    assert list((tmp_path / "p").glob("*.txt")) == []


def test_append_adds_once(tmp_path):
    """The text goes behind what is there; a second call adds nothing."""
    folder = run_of(tmp_path, {"0.png": "sea"})
    (tmp_path / "p/0.txt").write_text("sky\n")
    for _ in range(2):
        export(folder, "txt", options=Options(append=True))
        assert (tmp_path / "p/0.txt").read_text() == "sky, sea"


@pytest.mark.parametrize("to", ["kohya", "chat", "llava", "jsonl", "axolotl", "csv"])
def test_hostile_captions_stay_one_record(tmp_path, to):
    """Line breaks, quotes, NUL, RTL and formulas neither break a line nor run."""
    folder = run_of(tmp_path, {"0.png": HOSTILE, "1.png": "=1+1"})
    export(folder, to, out=tmp_path / "out")
    (path,) = [p for p in (tmp_path / "out").iterdir() if p.name != "dataset_info.json"]
    if to == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 3
        assert rows[2][2] == "'=1+1"
        assert not any("\n" in c or "\0" in c for row in rows for c in row)
        return
    text = path.read_text(encoding="utf-8")
    records = json.loads(text) if to == "llava" else [json.loads(line) for line in text.split("\n") if line]
    assert len(records) == 2
    assert to == "jsonl" or "\\u0000" not in text  # jsonl keeps the answer as it is


def test_a_chat_has_as_many_marks_as_pictures(tmp_path):
    """LLaMA-Factory refuses a record where the counts differ, so the prompt's own <image> goes."""
    folder = run_of(tmp_path, {"0.png": "an <image> of"})
    export(folder, "chat")
    record = json.loads((folder.path / "exports/chat/chat.jsonl").read_text())
    assert sum(m["content"].count("<image>") for m in record["messages"]) == len(record["images"]) == 1
    assert Path(record["images"][0]).is_file()


def test_names_stay_below_the_target():
    """Absolute paths and `..` of a manifest do not leave --out."""
    assert [inside(n) for n in ("../../a.jpg", "/etc/a.jpg", "a/./b.jpg", "..")] == [
        "up/up/a.jpg", "etc/a.jpg", "a/b.jpg", "up",
    ]  # fmt: skip


def test_any_column_and_filter(tmp_path):
    """--text takes a column of the manifest too; an unknown one is refused with those that exist."""
    folder = run_of(tmp_path, {"0.png": "one"}, '{"title": "Sea"}')
    export(folder, "txt", selection=Selection((("title", "Sea"),), "title"))
    assert (tmp_path / "p/0.txt").read_text() == "Sea"
    with pytest.raises(UsageError, match="title"):
        export(folder, "txt", selection=Selection(text="colour"))


def test_long_and_undecodable_names(tmp_path):
    """A name of 250 bytes, one that is no UTF-8 and one with a line break get their .txt."""
    names = ["x" * 246 + ".png", "b\udcff.png", "c\nd.png"]
    draw_pictures(tmp_path / "p", 1)
    for name in names:
        (tmp_path / "p" / name).write_bytes((tmp_path / "p/0.png").read_bytes())
    folder = run_of(tmp_path, dict.fromkeys(names, "t"))
    assert export(folder, "txt").written == 3
    assert all((tmp_path / "p" / name).with_suffix(".txt").read_text() == "t" for name in names)


def test_the_command(tmp_path):
    """--only reviewed is refused, a wrong format names the right ones, --preview writes nothing."""
    folder = run_of(tmp_path, {"0.png": "The image shows a boat."})
    assert captionmill("export", folder.path, "--to", "txt", "--only", "reviewed").returncode == 2
    assert "kohya" in captionmill("export", folder.path, "--to", "tar").stderr
    shown = captionmill("export", folder.path, "--preview", "10", "--strip-openings").stdout
    assert "'A boat.'" in shown
    assert list((tmp_path / "p").glob("*.txt")) == []
    done = captionmill("export", folder.path, "--to", "txt,csv", "--out", tmp_path / "out")
    assert (done.returncode, (tmp_path / "out/0.txt").read_text()) == (0, "The image shows a boat."), (
        done.stderr
    )


def test_each_line_of_the_table_of_tools_runs(tmp_path):
    """docs/exports.md names a command for each tool; each runs, and together they name every format."""
    commands = re.findall(
        r"\| `captionmill export RUN (--to [^`]+)` \|", (ROOT / "docs/exports.md").read_text()
    )
    formats = set()
    for number, flags in enumerate(commands):
        folder = run_of(tmp_path / str(number), {"0.png": "one", "1.png": "two"})
        line = flags.replace("DIR", str(tmp_path / str(number) / "out")).split()
        done = captionmill("export", folder.path, *line)
        assert (done.returncode, "wrote 0 new" in done.stdout) == (0, False), (
            flags,
            done.stdout,
            done.stderr,
        )
        formats.add(line[1])
    assert formats == set(FORMATS)
