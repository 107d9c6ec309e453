"""What people type: paths with ~, parameters without quotes, patterns, both bounds on the answer."""

from __future__ import annotations

import pytest
from captionmill.vision.models import vision_model
from commands import captionmill, draw_pictures


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("p/a.jpg", "p/b.jpg"), "folder: p/"),
        (("p/*.jpg",), "give the folder: p/"),
        (("p/0.png",), "give the folder: p/"),
        (("p", "--reasoning-effort", "low"), "--param reasoning_effort=low"),
        (("p", "--max-tokens", "9", "--max-completion-tokens", "9"), "one of them, not both"),
        (("p", "--param", "a={"), "not JSON"),
    ],
)
def test_mistakes_that_have_a_hint(tmp_path, flags, says):
    """One line, exit code 2, nothing made."""
    draw_pictures(tmp_path / "p", 2)
    done = captionmill("caption", *flags, "--model", "m", base_url="http://127.0.0.1:9/v1", cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_refused_budget_leaves_no_run_folder(tmp_path):
    """Without a price no budget in money can be kept; the start has made nothing."""
    draw_pictures(tmp_path / "p", 2)
    flags = ("--model", "no-such-model", "--budget-usd", "1", "-o", "run")
    done = captionmill("caption", "p", *flags, base_url="http://127.0.0.1:9/v1", cwd=tmp_path)
    assert (done.returncode, "no price is known" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ft:gpt-4o-2024-08-06:org::id", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "gpt-4o-mini"),
        ("gpt4o", "gpt-4o"),
        ("GPT_4o", "gpt-4o"),
        ("azure/gpt4.1-mini", "gpt-4.1-mini"),
        ("gemini2.5-pro", "gemini-2.5-pro"),
    ],
)
def test_a_tuned_model_has_the_family_of_its_base(name, base):
    """However its name is written."""
    assert vision_model(name) is vision_model(base)
