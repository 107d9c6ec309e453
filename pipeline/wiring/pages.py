"""The gallery: static pages with picture and caption. No request to outside.

Everything from a manifest or a server is escaped by the templates; a caption is text, never markup.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jinja2

from ..edges import parts
from ..edges.folder import RunFolder
from ..edges.journal import Journal
from ..nouns.config import IMAGE_DEFAULTS
from ..nouns.errors import RowError
from ..nouns.sniff import read_header
from ..pictures.decode import Frame, decode
from ..pictures.encode import encode
from ..pictures.files import read_file
from ..vision.families import within_side

ROWS_A_PAGE = 200
THUMBNAIL_SIDE_PX = 320
_TEMPLATES = Path(__file__).parent / "templates"
_GALLERY_COLUMNS = (
    "id", "image", "content", "refusal", "tool_calls", "finish", "prompt_tokens", "completion_tokens",
    "cost_usd", "latency_s", "error_kind", "error_message",
)  # fmt: skip


def write_gallery(folder: RunFolder) -> Path:
    """Write gallery/index.html and its further pages and thumbnails; returns the first page."""
    run = folder.read_run()
    pictures = IMAGE_DEFAULTS | run["answer_settings"]
    frame, background = pictures["frame"], pictures["background"]
    source = Path(run["source"])
    base = source if source.is_dir() else source.parent
    thumbnails = folder.gallery / "thumbnails"
    thumbnails.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder.journal)
    try:
        answered, failed, _ = journal.counts()
        total = answered + failed
        pages = max(1, -(-total // ROWS_A_PAGE))
        rows = _rows(folder, journal)
        for old in folder.gallery.glob("page-*.html"):
            old.unlink()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for page in range(1, pages + 1):
                batch = list(islice(rows, ROWS_A_PAGE))
                names = threads.map(
                    lambda row: _thumbnail(base, row["image"], thumbnails, frame, background), batch
                )
                shown = [row | {"thumbnail": name} for row, name in zip(batch, names, strict=True)]
                _write_page(folder, page, pages, total, shown)
    finally:
        journal.close()
    return folder.gallery / "index.html"


def _rows(folder: RunFolder, journal: Journal) -> Iterator[dict[str, Any]]:
    """Failed rows first (they are what one looks for), then the answers in the order they came."""
    noted, waiting = journal.snapshot()
    paths = [folder.results / parts.part_name(part.number) for part in noted]
    answered = parts.read_batches(paths, _GALLERY_COLUMNS)
    failed = parts.tables(journal.failed_records(), _GALLERY_COLUMNS)
    for batch in chain(failed, answered, parts.tables(waiting, _GALLERY_COLUMNS)):
        yield from batch.to_pylist()


def _write_page(folder: RunFolder, page: int, pages: int, total: int, rows: list[dict[str, Any]]) -> None:
    name = "index.html" if page == 1 else f"page-{page}.html"
    near = sorted({1, pages, *range(max(1, page - 4), min(pages, page + 4) + 1)})
    text = _template("gallery.html").render(
        title=str(folder.path), css=_css(), page=page, pages=pages, total=total, links=near, rows=rows
    )
    (folder.gallery / name).write_text(text, encoding="utf-8")


def _thumbnail(
    base: Path, images: list[str] | None, folder: Path, frame: Frame, background: str
) -> str | None:
    """Make a thumbnail once; its name relative to the gallery, None where the picture can't be read."""
    if not images:
        return None
    path = os.path.join(base, images[0])  # noqa: PTH118  absolute paths stay as they are
    what = f"{path}|{frame}|{background}".encode("utf-8", "surrogateescape")
    name = f"{hashlib.sha256(what).hexdigest()[:24]}.jpg"
    target = folder / name
    if not target.exists():
        try:
            data = read_file(path)
            image, _ = decode(path, data, read_header(data), _thumbnail_size, frame, background)
        except RowError:
            return None
        target.write_bytes(encode(image, "JPEG", 80, None).data)
    return f"thumbnails/{name}"


def _thumbnail_size(width: int, height: int) -> tuple[int, int]:
    return within_side(width, height, THUMBNAIL_SIDE_PX)


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(name)


def _css() -> str:
    return (_TEMPLATES / "base.css").read_text(encoding="utf-8")
