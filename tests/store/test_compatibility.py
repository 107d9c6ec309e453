"""May this run folder take these answers? The same rule for a start and for a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import answer, failed, plan_of, write
from captionmill.nouns.address import Address
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RunError, UsageError
from captionmill.store.compatibility import read_earlier_starts
from captionmill.store.folder import RunFolder
from captionmill.wiring.session import Job, Session
from commands import draw_pictures
from scripted_chat import Console

CONFIG = RunConfig(model="gpt-4o")


@pytest.fixture
def source(tmp_path) -> Path:
    return draw_pictures(tmp_path / "p", 3)


def answered(tmp_path: Path, asked: Path, **run) -> RunFolder:
    """A run folder with one answer to CONFIG about the source `asked`."""
    about = {"source": str(asked.resolve()), "answer_settings": CONFIG.answer_settings(), "currency": "USD"}
    return write(tmp_path / "run", [answer(1)], **(about | run))


def start(source: Path, folder: RunFolder, config: RunConfig = CONFIG, **more) -> list[str]:
    """Open a session and close it again; the lines that it tells."""
    told: list[str] = []
    job = Job(source, folder.path, config, (Address("http://127.0.0.1:9/v1", None),), **more)
    Session.open(job, Console(told)).close()
    return told


def test_other_settings_are_refused_by_name(tmp_path, source):
    """Answers to two questions never share a dataset, each difference is named, limits may change freely."""
    folder = answered(tmp_path, source)
    start(source, folder, RunConfig(model="gpt-4o", tpm=1000))
    with pytest.raises(UsageError, match='model: "gpt-4o" before, "gpt-4o-mini" now') as caught:
        start(source, folder, RunConfig(model="gpt-4o-mini", temperature=0.5))
    assert "temperature: not set before, 0.5 now" in str(caught.value)


def test_a_setting_that_an_older_version_did_not_know_was_at_its_default(tmp_path, source):
    """A newer program goes on with an older run, as long as the new setting stays at its default."""
    settings = CONFIG.answer_settings()
    del settings["strip_metadata"]
    folder = answered(tmp_path, source, answer_settings=settings)
    earlier = read_earlier_starts(folder)
    earlier.check_may_take(source.resolve(), CONFIG)
    with pytest.raises(UsageError, match="strip_metadata"):
        earlier.check_may_take(source.resolve(), RunConfig(model="gpt-4o", strip_metadata=False))


@pytest.mark.parametrize("currency", ["USD", "CNY"])
def test_another_currency_is_refused(tmp_path, source, currency):
    """Dollars and yuan never share a column."""
    folder = answered(tmp_path, source, currency=currency)
    if currency == "USD":
        read_earlier_starts(folder).check_may_take(source.resolve(), CONFIG)
    else:
        with pytest.raises(UsageError, match="CNY"):
            read_earlier_starts(folder).check_may_take(source.resolve(), CONFIG)


def test_another_source_is_refused_unless_it_has_moved(tmp_path, source):
    """Two folders may hold the same file names."""
    folder = answered(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="elsewhere"):
        start(source, folder)
    start(source, folder, is_moved=True)


def test_what_was_never_answered_binds_no_later_start(tmp_path, source):
    """A first start with a typo in it leaves failed rows at the most."""
    folder = write(tmp_path / "run", [failed(1)], source="/elsewhere", answer_settings={"model": "typo"})
    assert read_earlier_starts(folder).counts == (0, 1, 0)
    start(source, folder)


def test_answers_without_a_run_json_are_refused(tmp_path, source):
    """Nothing says which settings produced them; a start and a plan refuse alike, and say what mends it."""
    folder = answered(tmp_path, source)
    folder.run_json.unlink()
    for refused in (start, lambda s, f: plan_of(s, f.path, CONFIG)):
        with pytest.raises(RunError, match="captionmill repair") as caught:
            refused(source, folder)
        assert caught.value.kind == "damaged_run"


def test_lost_settings_are_assumed_to_be_the_current_ones(tmp_path, source):
    """After a repair without run.json a start says so once, and a plan counts the answers that are there."""
    folder = answered(tmp_path, source, source="", answer_settings={}, settings_lost=True)
    plan = plan_of(source, folder.path, CONFIG)
    assert plan.is_resumed
    assert sum("run.json was lost" in line for line in start(source, folder)) == 1
    assert sum("run.json was lost" in line for line in start(source, folder)) == 0


def test_a_plan_takes_other_settings_for_a_new_run_and_says_so(tmp_path, source):
    """A plan compares ways to ask: another one is planned for all rows, with a note."""
    folder = answered(tmp_path, source)
    for config in (RunConfig(model="gpt-4o-mini"), RunConfig(model="gpt-4o", prices={"currency": "CNY"})):
        plan = plan_of(source, folder.path, config)
        assert not plan.is_resumed
        assert any(note.startswith("planned as a new run") for note in plan.notes)
    assert plan_of(source, folder.path, CONFIG).is_resumed


def test_a_plan_goes_by_the_settings_of_the_start(tmp_path, source):
    """An endpoint's own model is no other setting: the plan is resumed as the start is."""
    entry = {"base_url": "http://x.test", "model": "gpt-4o-mini"}
    config = RunConfig(model="gpt-4o", endpoint=[entry])
    folder = answered(tmp_path, source)
    start(source, folder, config)
    assert plan_of(source, folder.path, config).is_resumed


def test_a_plan_refuses_a_path_that_cannot_be_a_run_folder(tmp_path, source):
    """As a start does: a file, or a folder of something else."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", source):
        with pytest.raises(UsageError):
            plan_of(source, path, CONFIG)
