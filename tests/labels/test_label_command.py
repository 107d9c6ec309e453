"""captionmill label, as a user runs it: against the built-in endpoint, against relays that drop parameters, resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.builtin.structured import FormSupport
from commands import MODEL, captionmill, draw_pictures, results, stats
from PIL import Image

SHAPES = ("--labels", "landscape=wider than high,portrait=higher than wide,square")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Twelve pictures of three shapes."""
    folder = tmp_path / "p"
    folder.mkdir()
    for number in range(12):
        size = [(64, 48), (48, 64), (50, 50)][number % 3]
        Image.new("RGB", size, (20 * number, 90, 90)).save(folder / f"{number}.png")
    return folder


def truth(identity: str) -> str:
    return ["landscape", "portrait", "square"][int(identity.removesuffix(".png")) % 3]


def label(pictures: Path, *arguments: object, url: str):
    return captionmill(
        "label", pictures, *MODEL, "-o", pictures.parent / "r", *arguments, base_url=url, cwd=pictures.parent
    )


def test_walk_6_a_label(pictures):
    """Every row has a valid label of the user's classes, and the same command again sends nothing."""
    with serving(EndpointSettings()) as url:
        done = label(pictures, *SHAPES, url=url)
        assert done.returncode == 0, done.stderr
        table = results(pictures.parent / "r")
        assert dict(zip(table["id"], table["label"], strict=True)) == {i: truth(i) for i in table["id"]}
        assert set(table["parse"]) == {"clean"}
        assert set(table["prompt"]) == {"Which class fits this image best?"}
        again = label(pictures, *SHAPES, url=url)
        assert "nothing was sent" in again.stderr
        assert stats(url)["answers"] == 12
        other = label(pictures, "--labels", "landscape,portrait", url=url)
    assert other.returncode == 2
    assert "labels" in other.stderr
    run = json.loads((pictures.parent / "r" / "run.json").read_text())
    assert list(run["structured"].values()) == ["strict"]
    shown = captionmill("status", pictures.parent / "r")
    assert "labels by" in shown.stdout
    assert "strict" in shown.stdout


@pytest.mark.parametrize(
    ("forms", "way", "more"),
    [
        (FormSupport(ignored=("response_format",)), "tool", 3),
        (FormSupport(ignored=("response_format", "tools")), "text", 6),
        (FormSupport(("json",)), "json", 0),
        (FormSupport(()), "text", 0),
    ],
)
def test_a_relay_is_found_out(pictures, forms, way, more):
    """What drops or refuses a form ends in the strongest way that works, with every label right."""
    with serving(EndpointSettings(forms=forms)) as url:
        done = label(pictures, *SHAPES, url=url)
        assert done.returncode == 0, done.stderr
        assert stats(url)["answers"] == 12 + more
    table = results(pictures.parent / "r")
    assert all(truth(i) == found for i, found in zip(table["id"], table["label"], strict=True))
    run = json.loads((pictures.parent / "r" / "run.json").read_text())
    assert list(run["structured"].values()) == [way]


def test_a_schema_gives_typed_columns(pictures):
    """The same Arrow schema in every part from the first row on; pandas and DuckDB read it."""
    schema = {
        "type": "object",
        "properties": {
            "class": {"enum": ["square", "portrait", "landscape"]},
            "width": {"type": "integer", "minimum": 1},
            "brightness": {"type": "number"},
            "colours": {"type": "array", "items": {"type": "string"}},
            "sharp": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["class", "width"],
    }
    (pictures.parent / "s.json").write_text(json.dumps(schema))
    with serving(EndpointSettings()) as url:
        done = captionmill(
            "caption", pictures, *MODEL, "--schema", pictures.parent / "s.json", "-o", pictures.parent / "r",
            "--rows-per-part", 4, base_url=url,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = sorted((pictures.parent / "r" / "results").iterdir())
    assert len(parts) > 2
    assert len({pq.read_schema(path).to_string() for path in parts}) == 1
    table = results(pictures.parent / "r")
    assert {truth(i) == c for i, c in zip(table["id"], table["label_class"], strict=True)} == {True}
    assert str(table["label_width"].dtype) == "int64"
    assert str(table["label_brightness"].dtype) == "float64"
    assert json.loads(table["label"][0])["width"] == table["label_width"][0]
    query = f"select count(*) from '{pictures.parent / 'r' / 'results'}/*.parquet' where label_class = 'square' and label_sharp"  # noqa: S608
    assert duckdb.sql(query).fetchall() == [(4,)]


def test_classes_are_a_classlabel(pictures):
    """`datasets` reads the names of the classes from the Parquet metadata."""
    with serving(EndpointSettings()) as url:
        label(pictures, *SHAPES, url=url)
    for path in (pictures.parent / "r" / "results").iterdir():
        features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
        assert features == {
            "label_index": {"names": ["landscape", "portrait", "square"], "_type": "ClassLabel"}
        }


def test_a_row_without_a_valid_label_can_be_asked_again(pictures):
    """invalid_label keeps the raw answers, counts their money, and --retry-failed asks again."""
    schema = {
        "type": "object",
        "properties": {"caption": {"type": "string", "maxLength": 3}},
        "required": ["caption"],
    }
    (pictures.parent / "s.json").write_text(json.dumps(schema))
    arguments = ("--schema", pictures.parent / "s.json")
    with serving(EndpointSettings()) as url:
        done = label(pictures, *arguments, url=url)
        assert done.returncode == 1
        failures = pd.read_parquet(pictures.parent / "r" / "failures.parquet")
        assert set(failures["error_kind"]) == {"invalid_label"}
        assert {len(choices) for choices in failures["choices"]} == {2}
        assert "label_caption" in failures.columns
        assert stats(url)["answers"] == 24
        state = json.loads(captionmill("status", pictures.parent / "r", "--json").stdout)
        assert state["attempts_without_answer"] == {"invalid_label": 12, "reask": 12}
        label(pictures, *arguments, "--retry-failed", "invalid_label", "--max-reasks", "0", url=url)
        assert stats(url)["answers"] == 36


def test_label_noise_makes_a_known_share_wrong(tmp_path):
    """A rehearsal of a model that errs: about the share that was asked for, the same pictures each time."""
    draw_pictures(tmp_path / "p", 200)
    found = []
    for run in ("a", "b"):
        with serving(EndpointSettings(forms=FormSupport(label_noise=0.1))) as url:
            captionmill("label", tmp_path / "p", *MODEL, *SHAPES, "-o", tmp_path / run, base_url=url)
        table = results(tmp_path / run).sort_values("id")
        found.append(list(table["label"] == "landscape"))
    assert found[0] == found[1]
    assert 0.82 < sum(found[0]) / 200 < 0.97


def test_classes_come_from_a_file_and_a_model_from_a_module(pictures):
    """--labels @FILE has one a line; --schema module:Model is a pydantic model."""
    (pictures.parent / "classes.txt").write_text("landscape\nportrait\n\nsquare\n")
    (pictures.parent / "shapes.py").write_text(
        "from typing import Literal\nfrom pydantic import BaseModel\n\n\nclass Shape(BaseModel):\n"
        '    shape: Literal["square", "portrait", "landscape"]\n    width: int\n'
    )
    with serving(EndpointSettings()) as url:
        assert label(pictures, "--labels", "@classes.txt", url=url).returncode == 0
        again = captionmill(
            "label",
            pictures,
            *MODEL,
            "--schema",
            "shapes:Shape",
            "-o",
            "m",
            base_url=url,
            cwd=pictures.parent,
        )
    assert again.returncode == 0, again.stderr
    table = results(pictures.parent / "m")
    assert all(truth(i) == shape for i, shape in zip(table["id"], table["label_shape"], strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--labels", "cat"),
        ("--labels", "cat,dog", "--schema", "s.json"),
        ("--schema", "none.json"),
        ("--schema", "bad.json"),
        ("--labels", "cat,dog", "--n", "3"),
        ("--multi", "--schema", "s.json"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_sent(pictures, arguments):
    """Exit code 2, one line, no run folder."""
    (pictures.parent / "s.json").write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    (pictures.parent / "bad.json").write_text('{"type": "object", "properties": {"a": {"type": "strnig"}}}')
    with serving(EndpointSettings()) as url:
        done = label(pictures, *arguments, url=url)
        assert stats(url)["answers"] == 0
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (pictures.parent / "r").exists()


def test_the_plan_counts_reasks_and_says_what_was_moved(pictures):
    """`high` has every reask, and each keyword that no endpoint enforces is named."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    (pictures.parent / "s.json").write_text(json.dumps(schema))
    high = []
    for reasks in ("0", "1"):
        shown = captionmill(
            "plan", pictures, *MODEL, "--schema", pictures.parent / "s.json", "--max-tokens", 50, "--max-reasks", reasks,
            "--json", cwd=pictures.parent,
        )  # fmt: skip
        plan = json.loads(shown.stdout)
        high.append(plan["completion_tokens"]["high"])
        assert any("minimum" in note and "#/n" in note for note in plan["notes"])
    assert high == [12 * 50, 2 * 12 * 50]


def test_a_truth_column_of_the_same_measure_agrees(tmp_path, pictures):
    """The demo's promise: the built-in endpoint labels by what it measures."""
    with (pictures.parent / "m.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "truth"])
        writer.writerows([f"p/{n}.png", truth(f"{n}.png")] for n in range(12))
    with serving(EndpointSettings()) as url:
        captionmill(
            "label",
            pictures.parent / "m.csv",
            *MODEL,
            *SHAPES,
            "-o",
            tmp_path / "t",
            base_url=url,
            cwd=tmp_path,
        )
    table = results(tmp_path / "t")
    assert all(
        json.loads(e)["truth"] == found for e, found in zip(table["extra"], table["label"], strict=True)
    )
