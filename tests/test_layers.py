"""The house keeps its layers: imports go one way, and each outside library has its rooms."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

# what a file may import of ours, by the folder in which it lies
MAY_IMPORT = {
    "nouns": {"nouns"},
    "api": {"nouns", "accounts", "store", "wiring", "exports"},
    "rules": {"nouns", "rules"},
    "labels": {"nouns", "rules", "labels"},
    "vision": {"nouns", "vision"},
    "edges": {"nouns"},
    "sources": {"nouns", "pictures", "sources"},  # the survey asks whether the pictures are there
    "pictures": {"nouns", "pictures"},
    "store": {"nouns", "store"},
    "accounts": {"nouns", "rules", "labels", "vision", "edges", "sources", "pictures", "store", "accounts"},
    "exports": {"nouns", "pictures", "store", "accounts", "exports"},
    "pages": {"nouns", "pictures", "store", "accounts", "pages"},
    "wiring": {
        "nouns",
        "rules",
        "labels",
        "vision",
        "edges",
        "sources",
        "pictures",
        "store",
        "accounts",
        "wiring",
    },
    "builtin": {"rules", "vision", "labels", "builtin"},
}
# the files that may see an outside library
ROOMS = {
    "aiohttp": {"edges.chat", "pictures.remote", "builtin.server"},
    "sqlite3": {"store.database", "store.salvage"},
    "PIL": {f"pictures.{room}" for room in ("decode", "colour", "encode", "render")} | {"builtin.describer"},
    "tenacity": {"rules.retry"},
    "genai_prices": {"rules.prices"},
    "jinja2": {"pages.html"},
    "matplotlib": {"pages.plots"},
    "pyarrow": {"store.parts", "sources.parquet_file", "pages.selection", "pages.paging", "pages.gallery"}
    | {"exports.shards", "exports.picture_files"}
    | {f"accounts.{room}" for room in ("dataset", "spent", "report", "grouping", "anomalies")},
    "fcntl": {"store.folder"},
    "numpy": {
        "pictures.metadata",
        "pictures.decode",
        "sources.manifest",
        "pages.selection",
        "pages.paging",
        "pages.gallery",
    }
    | {f"accounts.{room}" for room in ("histogram", "report", "anomalies")},
    "jsonschema": {"labels.task"},
    "json_repair": {"labels.reading"},
    "pybase64": {"pictures.prepare"},
    "tqdm": set(),
    "pandas": {"api"},
}


def modules() -> dict[str, ast.Module]:
    """Every file of the library by its name below `pipeline`."""
    return {
        ".".join(path.relative_to(ROOT / "pipeline").with_suffix("").parts): ast.parse(path.read_text())
        for path in (ROOT / "pipeline").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def imports(name: str, tree: ast.Module) -> list[tuple[int, str]]:
    """(line, module): our own without `pipeline.`, others by their first name."""
    package = name.split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            inner = [*base, *([node.module] if node.module else [])]
            names = [".".join([*inner, a.name]) for a in node.names] if not node.module else [".".join(inner)]
            found += [(node.lineno, f"captionmill.{n}") for n in names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
    return found


def test_every_file_lies_in_a_layer():
    """nouns, rules, edges, wiring; the built-in endpoint apart."""
    assert {name.split(".")[0] for name in modules()} == set(MAY_IMPORT)


def test_imports_go_one_way():
    """Nouns know nobody, rules and edges only nouns, wiring knows them all."""
    wrong = [
        f"pipeline/{name}.py:{line} imports {found}"
        for name, tree in modules().items()
        for line, found in imports(name, tree)
        if found.startswith("captionmill.")
        and found.split(".")[1] not in MAY_IMPORT[name.split(".")[0]]
        and found != "captionmill.__version__"
    ]
    assert wrong == []


def test_each_library_has_its_rooms():
    """Only `chat` sees the HTTP client, only `journal` SQLite, and so on."""
    wrong = [
        f"pipeline/{name}.py:{line} imports {found}"
        for name, tree in modules().items()
        for line, found in imports(name, tree)
        if found in ROOMS and name not in ROOMS[found]
    ]
    assert wrong == []


def test_the_library_knows_no_command_line():
    """pipeline never imports jobs, argparse or prints."""
    wrong = [
        f"pipeline/{name}.py:{line} imports {found}"
        for name, tree in modules().items()
        for line, found in imports(name, tree)
        if found in ("captionmill.jobs", "argparse", "sys")
    ]
    assert wrong == []


def test_no_test_module_imports_from_another():
    """What tests share lies in helper modules: a file of tests can be moved or run alone."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
        if name.rpartition(".")[2].startswith("test_")
    ]
    assert wrong == []


def test_every_folder_is_packaged():
    """A wheel has every folder of the library: pyproject.toml lists them by name."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT / "pipeline") for path in (ROOT / "pipeline").rglob("*.py")}
    own = {".".join(("captionmill", *folder.parts)) for folder in folders}
    assert set(listed) == own | {"captionmill.jobs", "captionmill.sample_data"}
