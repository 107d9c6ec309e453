"""What a row costs, counted and not timed: system calls, bytes allocated, commits."""

from __future__ import annotations

import asyncio
import os
import tracemalloc

from captionmill.nouns.config import RunConfig
from captionmill.pictures import files
from captionmill.pictures.prepare import PicturePreparer
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry, Journal
from captionmill.vision.sizes import picture_bounds
from PIL import Image

WORKERS = 64


def draw(path):
    """A grainy JPEG of some 80 KB."""
    Image.effect_noise((500, 500), 60).convert("RGB").save(path, quality=85)
    return path


def test_a_picture_is_read_with_five_system_calls(tmp_path, monkeypatch):
    """open, fstat, read, fstat, close: at each of them a thread waits for the interpreter."""
    path, calls = str(draw(tmp_path / "a.jpg")), []
    for name in ("open", "read", "pread", "fstat", "stat", "lseek", "close"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, _name=name, _real=real, **k: (calls.append(_name), _real(*a, **k))[1]
        )
    files.read_file(path)
    monkeypatch.undo()
    assert calls == ["open", "fstat", "read", "fstat", "close"]


def test_a_picture_that_passes_is_not_copied(tmp_path):
    """Beside its base64, preparing a file that is sent as it is holds at most twice its bytes at a time."""
    data = draw(tmp_path / "a.jpg").read_bytes()
    settings = RunConfig(model="gpt-4o")
    preparer = PicturePreparer(settings, picture_bounds(settings))
    preparer.prepare("a.jpg", data)  # what is made once
    tracemalloc.start()
    picture = preparer.prepare("a.jpg", data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert picture.byte_count == len(data)
    assert peak < len(picture.base64) + 2 * len(data)


def test_rows_that_end_together_share_a_commit(tmp_path, monkeypatch):
    """1,000 rows by 64 workers take at most 40 transactions, though each worker waits until its row is durable."""
    folder = RunFolder(tmp_path)
    commits, real = [], Journal.commit
    monkeypatch.setattr(
        Journal, "commit", lambda self, entries, *more: (commits.append(1), real(self, entries, *more))[1]
    )

    async def record(checkpoint):
        rows = iter(range(1000))

        async def work():
            for row in rows:
                await checkpoint.record(Entry(f"r{row}", None, "{}"))

        await asyncio.gather(*(work() for _ in range(WORKERS)))

    checkpoint = Checkpoint(folder, Journal(folder.journal, create=True), 5000)
    asyncio.run(record(checkpoint))
    checkpoint.close()
    assert len(commits) <= 40
