"""Keeps the map of files in docs/architecture.md: each module with the first line of its docstring.

python docs/tree.py            print the map
python docs/tree.py --update   write it between the two markers of docs/architecture.md
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/architecture.md"
FOLDERS = ("pipeline", "jobs", "benchmarks", "sample_data", "docs")
# of the library, from what imports nothing to what imports most; a folder that is not named comes last
READING_ORDER = (
    "nouns",
    "vision",
    "rules",
    "edges",
    "sources",
    "pictures",
    "store",
    "accounts",
    "pages",
    "exports",
    "wiring",
    "cluster",
    "builtin",
)
BEGIN = "<!-- tree: written by docs/tree.py -->"
END = "<!-- end of tree -->"
_NAME_WIDTH = 22  # columns for indentation and name; longer names push their caption to the right
_WIDTH = 118


def tree() -> str:
    """The map as a fenced block of text, without the markers."""
    lines = [line for folder in FOLDERS for line in _folder(ROOT / folder, 0)]
    return "\n".join(["```text", *lines, "```"])


def with_tree(page: str) -> str:
    """The text of the page with the map of today between its markers. Raises ValueError where one is missing."""
    before, found, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise ValueError(f"{PAGE}: needs a line {BEGIN!r} and below it a line {END!r}")
    return f"{before}{BEGIN}\n{tree()}\n{END}{after}"


def _folder(folder: Path, depth: int) -> Iterator[str]:
    yield from _entry(f"{folder.name}/", _first_line(folder / "__init__.py"), depth)
    for path in sorted(folder.iterdir(), key=_place):
        if path.is_dir() and any(path.rglob("*.py")):
            yield from _folder(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield from _entry(path.name, _first_line(path), depth + 1)


def _place(path: Path) -> tuple[bool, int, str]:
    """Sort key: files before folders, folders in reading order, the rest by name."""
    order = READING_ORDER.index(path.name) if path.name in READING_ORDER else len(READING_ORDER)
    return path.is_dir(), order, path.name


def _first_line(path: Path) -> str:
    """The first line of a module's docstring; empty where there is no file or no docstring."""
    if not path.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].strip()


def _entry(name: str, caption: str, depth: int) -> list[str]:
    label = f"{'  ' * depth}{name}"
    head = f"{label:<{_NAME_WIDTH - 1}} "
    wrapped = textwrap.wrap(
        caption, _WIDTH, initial_indent=head, subsequent_indent=" " * _NAME_WIDTH, break_on_hyphens=False
    )
    return wrapped or [label]


def main() -> None:
    """Print the map, or write it into the page."""
    if "--update" in sys.argv[1:]:
        PAGE.write_text(with_tree(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(tree() + "\n")


if __name__ == "__main__":
    main()
