"""The gallery: the right rows in the right order, text that stays text, no request to outside; in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from bench import write
from browser import DESKTOP, PHONE
from captionmill.nouns.errors import UsageError
from captionmill.nouns.rows import Choice, Failure, Outcome, Reply, Row, Usage
from captionmill.pages import paging, selection
from captionmill.pages.gallery import write_gallery
from captionmill.pages.selection import Filter, View
from captionmill.store import parts
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal
from commands import captionmill, draw_pictures, peak_megabytes

NASTY = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
LONG = "一张照片,描绘了安静的港口。" * 60 + " https://example.com/" + "x" * 300
AT = 1_763_000_000.0


def row(n: int, images: tuple[str, ...] | None = None) -> Row:
    return Row(f"row {n}", images or (f"{n % 30}.png",), ("x",), "p")


def answered(n: int, content: str | None = None, choices: int = 1, **more) -> Outcome:
    """Row n: costs grow with n, latencies shrink."""
    texts = [content if content is not None else f"caption {n}"] + [f"another {i}" for i in range(1, choices)]
    finish = more.get("finish", "stop")
    reply = Reply(
        tuple(
            Choice(i, t, finish, finish, more.get("refusal"), more.get("tool_calls"))
            for i, t in enumerate(texts)
        ),
        Usage(1000 + n, 20, 1020 + n),
        model="gpt-4o",
    )
    return Outcome(
        more.get("row", row(n)), AT, AT, 1 + n % 2, reply, latency_seconds=100 - n, cost_usd=Decimal(n) / 1000
    )  # fmt: skip


def failure(n: int, kind: str = "timeout") -> Outcome:
    return Outcome(row(n), AT, AT, 3, failure=Failure(kind, f"{NASTY} {n}"))


@pytest.fixture
def pictures(tmp_path) -> Path:
    draw_pictures(tmp_path / "p", 30)
    return tmp_path / "p"


def run_of(pictures: Path, outcomes: list[Outcome], **run) -> RunFolder:
    return write(pictures.parent / "run", outcomes, source=str(pictures), **run)


@pytest.fixture
def odd(pictures) -> RunFolder:
    """A run with one row for every kind of answer."""
    return run_of(
        pictures,
        [
            answered(0, NASTY),
            answered(1, LONG),
            answered(2, "", finish="content_filter", refusal="I'm sorry, I can't help with that."),
            answered(3, "", finish="tool_calls", tool_calls=json.dumps([{"function": {"name": "label", "arguments": "{" * 200}}])),
            answered(4, "the first of three", choices=3),
            answered(5, "several pictures", row=row(5, tuple(f"{i}.png" for i in range(12)))),
            answered(6, "cut off in the", finish="length"),
            answered(7, "by URL", row=row(7, ("https://example.com/a.jpg",))),
            answered(8, ""),
            failure(9),
            failure(10, "image_missing"),
        ],
    )  # fmt: skip


def shown(folder: RunFolder, page: str = "index.html") -> list[str]:
    """The ids on a page, in their order."""
    text = (folder.gallery / page).read_text(encoding="utf-8")
    return [html.unescape(i) for i in re.findall(r'<div class="text"><small>(.*?)</small>', text)]


# ------------------------------------------------------------------------------- which rows


def test_failed_rows_come_first(odd):
    """After them the answers in the order they came, from the parts and from the journal."""
    path, count = write_gallery(odd)
    assert (path, count) == (odd.gallery / "index.html", 11)
    assert shown(odd) == ["row 10", "row 9", *(f"row {n}" for n in range(9))]


@pytest.mark.parametrize(
    ("view", "ids"),
    [
        (View(sort="cost"), [8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 9]),
        (View(sort="latency"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 9]),
        (View(sort="id"), [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]),
        (View((Filter("finish", "length"),)), [6]),
        (View((Filter("status", "failed"), Filter("error_kind", "timeout"))), [9]),
        (View((Filter("model", "gpt-4o"),), sort="cost"), [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (View((Filter("finish", "nothing"),)), []),
        (View((Filter("prompt_tokens", "1005"),)), [5]),
        (View((Filter("cost_usd", "0.006", ">"),), sort="cost"), [8, 7]),
        (View((Filter("latency_s", "93", "<="), Filter("attempts", "1")), sort="id"), [8]),
        (View((Filter("error_kind", "timeout", "!="), Filter("status", "failed"))), [10]),
    ],
)
def test_filters_and_orders(odd, view, ids):
    """Most expensive first, slowest first, by id; by the text of a column; rows without a figure come last."""
    assert write_gallery(odd, view)[1] == len(ids)
    assert shown(odd) == [f"row {n}" for n in ids]
    assert str(view) in html.unescape((odd.gallery / "index.html").read_text())


def test_a_sample_is_random_and_repeatable(odd):
    """As many different rows as asked for; another seed picks others."""
    samples = []
    for seed in (1, 1, 2, 3):
        assert write_gallery(odd, View(sample=5, seed=seed))[1] == 5
        samples.append(shown(odd))
    assert samples[0] == samples[1]
    assert len({tuple(s) for s in samples}) > 1
    assert all(len(set(s)) == 5 for s in samples)
    write_gallery(odd, View(sort="random"))
    assert sorted(shown(odd)) == sorted(f"row {n}" for n in range(11))


def test_a_long_gallery_is_paged(odd):
    """Further pages are linked; pages of an earlier, longer gallery do not stay."""
    write_gallery(odd, View(rows_a_page=4, sort="id"))
    assert {p.name for p in odd.gallery.glob("*.html")} == {"index.html", "page-2.html", "page-3.html"}
    assert 'href="page-3.html"' in (odd.gallery / "index.html").read_text()
    assert shown(odd, "page-3.html") == ["row 7", "row 8", "row 9"]
    write_gallery(odd)
    assert {p.name for p in odd.gallery.glob("*.html")} == {"index.html"}


def test_thumbnails_are_made_once(odd, pictures):
    """Again only where the picture has changed since."""
    write_gallery(odd)
    thumbnails = {p: p.stat().st_mtime_ns for p in (odd.gallery / "thumbnails").iterdir()}
    assert {p.suffix for p in thumbnails} == {".jpg"}
    os.utime(pictures / "0.png")
    write_gallery(odd)
    assert sum(p.stat().st_mtime_ns != at for p, at in thumbnails.items()) == 1


def test_thumbnails_show_the_file_that_was_sent(pictures):
    """A path with .. is read as the run read it: as text, or with --allow-outside as the operating system does."""
    (pictures.parent / "elsewhere/inner").mkdir(parents=True)
    (pictures / "link").symlink_to(pictures.parent / "elsewhere/inner")
    for allow_outside in (False, True):
        settings = {"other_settings": {"allow_outside": allow_outside}}
        folder = run_of(pictures, [answered(0, row=row(0, ("link/../0.png",)))], **settings)
        write_gallery(folder)
        assert ("no picture<" in (folder.gallery / "index.html").read_text()) is allow_outside


def test_an_invalid_view(tmp_path):
    """An unknown column or order: exit 2, and the message lists the known ones."""
    with pytest.raises(UsageError, match=r"--filter colour=.*finish_reason"):
        View((Filter("colour", "red"),))
    for flags, says in (
        (("--filter", "finish"), "NAME=VALUE"),
        (("--sort", "size"), "latency"),
        (("--filter", "attempts=many"), "holds numbers"),
        (("--filter", "finish>stop"), "is a text"),
        (("--sample", "0"), "from 1"),
    ):
        done = captionmill("gallery", tmp_path, *flags)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr


# ------------------------------------------------------------------------------- in the browser


def test_a_caption_is_text(odd, page):
    """Scripts and tags in captions and messages are shown, not run; no request leaves the gallery."""
    page.show(write_gallery(odd)[0])
    assert page.evaluate("document.title").endswith("page 1")
    assert page.evaluate(
        "[...document.querySelectorAll('article p')].map(p => p.innerText).includes("
        + json.dumps(NASTY)
        + ")"
    )
    assert page.errors == []
    folder = odd.gallery.resolve().as_uri()
    assert page.requests and all(address.startswith(folder) for address in page.requests)


def test_it_fits_every_window(odd, page):
    """Desktop and phone, light and dark: no caption overflows the window."""
    path = write_gallery(odd)[0]
    paper = set()
    for size in (DESKTOP, PHONE):
        for is_dark in (False, True):
            page.show(path, size, is_dark)
            assert page.overflow_px <= 0, (size, is_dark)
            paper.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(paper) == 2


def test_the_search_box(odd, page):
    """Hides rows that do not match and counts those that do; without a text all rows are back."""
    page.show(write_gallery(odd)[0])
    visible = "[...document.querySelectorAll('article')].filter(a => a.offsetParent !== null).length"
    assert page.evaluate(visible) == 11
    page.type_into("#search", "港口")
    assert page.evaluate(visible) == 1
    assert page.evaluate("document.getElementById('hits').textContent") == "1 of 11"
    page.evaluate(
        "document.getElementById('search').value = ''; document.getElementById('search').dispatchEvent(new Event('input'))"
    )
    assert page.evaluate(visible) == 11


def test_many_failed_rows_and_any_order(pictures, monkeypatch):
    """Failed rows beyond the first portion are kept on disk; pages that are fetched together keep their order."""
    monkeypatch.setattr(selection, "_RECORDS_A_SOURCE", 3)
    monkeypatch.setattr(paging, "_ROWS_FETCHED", 4)
    folder = run_of(pictures, [*(answered(n) for n in range(9)), *(failure(n) for n in range(9, 18))])
    write_gallery(folder, View(rows_a_page=2, sort="cost"))
    pages = [f"page-{n}.html" for n in range(2, 10)]
    ids = [i for name in ("index.html", *pages) for i in shown(folder, name)]
    assert ids[:9] == [f"row {n}" for n in range(8, -1, -1)]
    assert sorted(ids[9:]) == sorted(f"row {n}" for n in range(9, 18))


def test_a_row_that_is_answered_meanwhile_is_not_lost(pictures, monkeypatch):
    """A gallery of a running run shows every row once, as of one moment, though a failed one is answered while it reads."""
    folder = run_of(pictures, [answered(0), failure(1), failure(2)])
    snapshot = Journal.snapshot

    def then_another_process_answers(journal: Journal):
        found = snapshot(journal)
        other = Journal(folder.journal)
        other.commit([Entry("row 1", None, parts.to_record(answered(1), "gpt-4o"))])
        other.close()
        return found

    monkeypatch.setattr(Journal, "snapshot", then_another_process_answers)
    write_gallery(folder)
    assert shown(folder) == ["row 1", "row 2", "row 0"]
    monkeypatch.undo()
    write_gallery(folder)
    assert shown(folder) == ["row 2", "row 0", "row 1"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_thousand_rows_stay_usable(pictures, page):
    """Sorted by cost into fifty pages, in bounded memory; the first opens and searches."""
    folder = run_of(pictures, [answered(n) for n in range(10_000)])
    peak, _ = peak_megabytes("gallery", folder.path, "--sort", "cost")
    assert peak < 320
    assert shown(folder)[:2] == ["row 9999", "row 9998"]
    assert len(list(folder.gallery.glob("*.html"))) == 50
    page.show(folder.gallery / "index.html")
    page.type_into("#search", "caption 9901")
    assert page.evaluate("document.getElementById('hits').textContent") == "1 of 200"
