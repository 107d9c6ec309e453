"""captionmill from Python: the public names do what the commands do."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import captionmill
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.errors import UsageError
from commands import draw_pictures
from scripted_chat import Console


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
    draw_pictures(tmp_path / "p", 5)
    return tmp_path / "p"


def test_a_folder_is_captioned_and_loaded(pictures):
    """One call captions, the same call again sends nothing, and every row is in the DataFrame once."""
    console = Console()
    with serving(EndpointSettings()) as url:
        run = captionmill.caption(pictures, model="gpt-4o", base_url=url, console=console)
        again = captionmill.caption(pictures, run=run, model="gpt-4o", base_url=url)
    frame = captionmill.load(run)
    assert run.path.name == again.path.name == "p-captions"
    assert sorted(frame["id"]) == sorted(path.name for path in pictures.iterdir())
    assert frame["content"].notna().all()
    assert run.status().runs[0].answered == 5
    assert any(str(pictures) in line for line in console.lines)


def test_it_works_where_a_loop_is_running(pictures):
    """As in a notebook: the call blocks and returns the run."""

    async def cell():
        with serving(EndpointSettings()) as url:
            return captionmill.caption(pictures, model="gpt-4o", base_url=url)

    assert len(captionmill.load(asyncio.run(cell()))) == 5


def test_failures_are_loaded_on_request(pictures):
    """A broken file is one failed row: left out unless asked for."""
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with serving(EndpointSettings()) as url:
        run = captionmill.caption(pictures, model="gpt-4o", base_url=url)
    assert (len(captionmill.load(run)), len(captionmill.load(run, failures=True))) == (5, 6)


def test_a_plan_sends_nothing_and_needs_no_key(pictures, monkeypatch):
    """Rows and tokens, from the files alone."""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert captionmill.plan(pictures, model="gpt-4o").rows == 5


def test_a_wrong_setting_is_a_usage_error(pictures):
    """The message names the setting."""
    with pytest.raises(UsageError, match="modle"):
        captionmill.plan(pictures, model="gpt-4o", modle="x")
    with pytest.raises(UsageError):
        captionmill.load(pictures)


def test_importing_the_package_is_cheap():
    """The public names load their modules when they are used."""
    code = (
        "import captionmill, sys; print([m for m in ('pyarrow', 'pydantic', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
