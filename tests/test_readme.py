"""The README's examples, typed as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import RunConfig
from captionmill.store.parts import SCHEMA
from captionmill.vision.models import vision_model
from captionmill.vision.sizes import picture_bounds
from commands import ROOT, captionmill, draw_pictures, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path):
    """Every block marked as running does, in order, in one folder, against the built-in endpoint."""
    draw_pictures(tmp_path / "photos", 12)
    (tmp_path / "photos/notes.txt").touch()
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    commands = tmp_path / "bin"
    commands.mkdir()
    shim = commands / "captionmill"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m captionmill "$@"\n')
    shim.chmod(0o755)
    blocks = re.findall(r"<!-- runs -->\n```(\w+)\n(.*?)```", README, re.S)
    assert len(blocks) >= 4
    with serving(EndpointSettings()) as url:
        env = environment(url)
        env["PATH"] = f"{commands}:{env['PATH']}"
        for language, text in blocks:
            command = ["sh", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (text, done.stdout, done.stderr)
    assert len(pd.read_parquet(tmp_path / "photos-captions/results")) == 12
    labels = pd.read_parquet(tmp_path / "labels/results").set_index("id")
    assert labels.loc["phone", "prompt"] == "Describe this phone picture."


def test_the_plan_is_a_real_one(tmp_path):
    """What the README shows is what the command prints."""
    line = re.search(r"^captionmill (plan sample_data.*)$", README, re.M)
    done = captionmill(*line[1].split(), "-o", tmp_path / "run")
    assert done.stdout.strip() in README


def test_the_settings_files_are_valid():
    """The TOML examples are made of real settings."""
    texts = re.findall(r"```toml\n(.*?)```", README, re.S)
    one, several, priced = (
        RunConfig.model_validate(
            {"model": "m"} | {k: v for k, v in tomllib.loads(text).items() if k != "prompt_file"}
        )
        for text in texts
    )
    assert one.tpm == 300_000
    assert [entry.tpm for entry in several.endpoints()] == [200_000, 100_000, None]
    assert sorted(priced.prices.models) == ["claude-*", "gpt-4o"]


def test_the_table_of_models_is_what_is_sent():
    """Size and tokens of the 12-megapixel photo, model by model."""
    models = {
        "Claude to 4.6": "claude-sonnet-4",
        "Claude 4.7 and later": "claude-opus-4-7",
        "Gemini to 2.5": "gemini-2.5-pro",
    }
    models |= {"Gemini 3": "gemini-3-pro", "Qwen-VL, open weights": "qwen2.5-vl-7b", "any other": "my-model"}
    table = README.split("| model | a 12-megapixel photo (4032 x 3024)")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()[2:]]
    assert len(rows) == 13
    for title, sent, tokens in rows:
        model, detail = models.get(title, title.split(",")[0].split()[0]), "low" if "low" in title else None
        size = picture_bounds(RunConfig(model=model, detail=detail)).fit(4032, 3024, 1)
        if sent != "the same":
            assert sent.startswith(f"{size[0]} x {size[1]}"), (title, size)
        assert int(tokens.replace(",", "")) == vision_model(model).family.tokens(*size, detail), title


def test_every_column_is_explained():
    """The column table names all columns of the schema, and no other."""
    table = README.split("| columns | what |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(SCHEMA.names)


def test_every_file_has_its_caption():
    """The tree in the README names each file of library, jobs and benchmarks."""
    tree = README.split("## The house")[1]
    files = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]
    files += (ROOT / "benchmarks").glob("*.py")
    assert [f.name for f in files if not f.name.startswith("__") and f.name not in tree] == []


def test_the_two_commands_stand_as_ci_calls_them():
    """CI takes its lines from the README."""
    for name in ("captionmill demo", "pytest"):
        assert re.search(rf"^python3 -m venv .*{name}", README, re.M)
    assert Path(ROOT / ".ci/run").stat().st_mode & 0o111
