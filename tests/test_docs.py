"""README, docs and CONTRIBUTING say what is so: examples run, links lead somewhere, tables and the map match the code."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pandas as pd
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import KINDS
from captionmill.store.parts import SCHEMA
from captionmill.vision.models import vision_model
from captionmill.vision.sizes import picture_bounds
from commands import ROOT, captionmill, draw_pictures, environment

DOCS = ROOT / "docs"
# the README first: what its examples leave is what those of the other pages look at
EXAMPLES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = [*EXAMPLES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
# a block that is run, or written to a file of that name for those after it
BLOCK = re.compile(r"<!-- (runs|file: (?P<name>\S+)) -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.S)
# of other programs: git hooks, ruff, benchmarks, mkdocs, docs/tree.py
FOREIGN_FLAGS = {"--config-settings", "--check", "--update", "--rows", "--repeat", "--strict"}


def docs_page(name: str) -> str:
    return TEXT[DOCS / name]


def table_below(text: str, header: str) -> list[list[str]]:
    """The cells of a table's body, row by row. header: the beginning of its first line."""
    lines = text.split(header, 1)[1].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def load_tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tree", DOCS / "tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------- examples


def test_the_examples_run(tmp_path):
    """Every block marked as running does: the README's, then each page's, in one folder, against the built-in endpoint."""
    draw_pictures(tmp_path / "photos", 12)
    (tmp_path / "photos/notes.txt").touch()
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    commands = tmp_path / "bin"
    commands.mkdir()
    shim = commands / "captionmill"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m captionmill "$@"\n')
    shim.chmod(0o755)
    with serving(EndpointSettings()) as url:
        env = environment(url)
        env["PATH"] = f"{commands}:{env['PATH']}"
        for page in EXAMPLES:
            for block in BLOCK.finditer(TEXT[page]):
                run_block(block, page, tmp_path, env)
    assert len(pd.read_parquet(tmp_path / "photos-captions/results")) == 12
    labels = pd.read_parquet(tmp_path / "labels/results").set_index("id")
    assert labels.loc["phone", "prompt"] == "Describe this phone picture."


def run_block(block: re.Match[str], page: Path, folder: Path, env: dict[str, str]) -> None:
    if block["name"]:
        (folder / block["name"]).write_text(block["text"], encoding="utf-8")
        return
    text = block["text"]
    command = ["sh", "-e", "-c", text] if block["language"] == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (page.name, text, done.stdout, done.stderr)


def test_no_example_has_lost_its_mark():
    """So many blocks a page are run, or written to a file for those that are."""
    counts = {page.name: len(BLOCK.findall(TEXT[page])) for page in EXAMPLES}
    shown = {
        "README.md": 7,
        "README.zh-CN.md": 6,
        "exports.md": 1,
        "labels.md": 1,
        "money.md": 3,
        "output.md": 1,
        "sources.md": 1,
    }
    assert {name: count for name, count in counts.items() if count} == shown


def test_the_plan_is_a_real_one(tmp_path):
    """What the page on money shows is what the command prints."""
    line = re.search(r"^captionmill (plan sample_data.*)$", docs_page("money.md"), re.M)
    assert line is not None
    done = captionmill(*line[1].split(), "-o", tmp_path / "run")
    assert done.stdout.strip() in docs_page("money.md")


def test_the_settings_files_are_valid():
    """The TOML examples are made of real settings."""
    texts = [text for page in PAGES for text in re.findall(r"```toml\n(.*?)```", TEXT[page], re.S)]
    configs = [
        RunConfig.model_validate(
            {"model": "m"} | {k: v for k, v in tomllib.loads(text).items() if k != "prompt_file"}
        )
        for text in texts
    ]
    assert [[entry.tpm for entry in c.endpoints()] for c in configs if c.endpoint] == [
        [200_000, 100_000, None]
    ]
    priced = [sorted(c.prices.models) for c in configs if c.prices]
    assert sorted(priced) == [["claude-*", "gpt-4o"], ["my-model"]]
    assert {c.tpm for c in configs} == {300_000, None}


def test_the_set_up_lines_stand_as_ci_calls_them():
    """CI takes its two lines from the README."""
    for name in ("captionmill demo", "pytest"):
        assert re.search(rf"^python3 -m venv .*{name}", TEXT[ROOT / "README.md"], re.M)
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


# ------------------------------------------------------------------------------- words that name code


def test_every_flag_exists():
    """A flag that a page names is a setting or an argument of some command."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "jobs").glob("*.py"))
    known = set(re.findall(r'"(--[a-z-]+)"', sources))
    known |= {f"--{prefix}{n.replace('_', '-')}" for n in RunConfig.model_fields for prefix in ("", "no-")}
    named = {
        (page.name, flag) for page in PAGES for flag in re.findall(r"(?<![\w<!-])--[a-z][a-z-]+", TEXT[page])
    }
    assert [n for n in sorted(named) if n[1] not in known | FOREIGN_FLAGS] == []


def test_every_error_kind_is_explained():
    """The tables of error kinds name each kind of the table in the code, and no other."""
    section = docs_page("endpoints.md").split("## Error kinds")[1].split("\n## ", maxsplit=1)[0]
    first_cells = re.findall(r"^\|([^|]*)\|", section, re.M)
    explained = set(re.findall(r"`(\w+)`", " ".join(first_cells)))
    assert explained == set(KINDS)


def test_every_column_is_explained():
    """The column table names all columns of the schema, and no other."""
    rows = table_below(docs_page("output.md"), "| columns | what |")
    assert sorted(re.findall(r"`(\w+)`", " ".join(row[0] for row in rows))) == sorted(SCHEMA.names)


def test_the_main_columns_exist():
    """The eight columns that the README shows are in the schema."""
    rows = table_below(TEXT[ROOT / "README.md"], "| column | what |")
    names = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows))
    assert len(names) == 8
    assert set(names) <= set(SCHEMA.names)


def test_the_table_of_models_is_what_is_sent():
    """Size and tokens of the 12-megapixel photo, model by model."""
    models = {
        "Claude to 4.6": "claude-sonnet-4",
        "Claude 4.7 and later": "claude-opus-4-7",
        "Gemini to 2.5": "gemini-2.5-pro",
    }
    models |= {"Gemini 3": "gemini-3-pro", "Qwen-VL, open weights": "qwen2.5-vl-7b", "any other": "my-model"}
    rows = table_below(docs_page("images.md"), "| model | a 12-megapixel photo (4032 x 3024)")
    assert len(rows) == 13
    for title, sent, tokens in rows:
        model, detail = models.get(title, title.split(",")[0].split()[0]), "low" if "low" in title else None
        size = picture_bounds(RunConfig(model=model, detail=detail)).fit(4032, 3024, 1)
        if sent != "the same":
            assert sent.startswith(f"{size[0]} x {size[1]}"), (title, size)
        assert int(tokens.replace(",", "")) == vision_model(model).family.tokens(*size, detail), title


def test_every_test_that_holds_a_promise_exists():
    """The table of guarantees names files that are there."""
    names = set(re.findall(r"`(test_\w+\.py)`", docs_page("guarantees.md")))
    assert len(names) >= 15
    assert names - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()


def test_the_map_of_files_is_fresh():
    """docs/architecture.md has each module with the first line of its docstring (python docs/tree.py --update)."""
    page = docs_page("architecture.md")
    assert load_tree().with_tree(page) == page


# ------------------------------------------------------------------------------- links


def heading_anchors(text: str) -> set[str]:
    """As GitHub and mkdocs both make them from plain headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Each link to a file of the repository finds it, and its anchor is a heading there; docs link inside docs only."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert page.parent != DOCS or found.is_relative_to(DOCS), f"{target}: not on the site"
        if anchor:
            assert anchor in heading_anchors(found.read_text(encoding="utf-8")), target


def test_every_page_is_on_the_site():
    """mkdocs.yml lists each page of docs/ once."""
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
