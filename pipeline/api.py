"""captionmill from Python: caption a source, plan it, read what came.

The settings are those of the command line and the TOML file, by their names (docs/sources.md lists them); address
and key come from the same environment variables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .accounts import dataset
from .accounts.plan import Options, Plan, make_plan
from .accounts.report import Report, read_report
from .exports.caption_text import TextSettings
from .exports.output import Summary
from .exports.rows import Selection
from .exports.run import Order, run_export
from .nouns.config import RunConfig
from .nouns.console import Console, Silent
from .nouns.errors import UsageError
from .store import parts
from .store.folder import RunFolder
from .store.journal import Journal
from .wiring.addresses import default_run_path, read_addresses
from .wiring.session import Job, Session

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run folder. path: of the folder; it need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def status(self) -> Report:
        """How far the run is; also while it is running. Raises UsageError where there is no run."""
        return read_report([RunFolder(self.path)], is_brief=True)


def caption(
    source: str | Path,
    *,
    run: str | Path | Run | None = None,
    retry_failed: bool = False,
    console: Console | None = None,
    **settings: Any,
) -> Run:
    """Caption a folder of pictures or the rows of a manifest. The same call again resumes.

    source: a folder, or a .csv, .jsonl or .parquet file. run: the run folder; None for the source's name and
    "-captions" in the working directory. retry_failed: ask failed rows again. console: gets lines for the user;
    None for silence. settings: by the names of the TOML file, `model` at least.

    Returns the run, when every row has ended. It may be called where an event loop is running, as in a notebook.
    Raises UsageError where something is wrong with source, settings or folder (nothing was sent), RunError where
    the run stopped early (what is done is saved).
    """
    config = _config(settings)
    job = Job(
        source=Path(source),
        run_path=_path(run, Path(source)),
        config=config,
        addresses=read_addresses(config),
        retry_failed=frozenset() if retry_failed else None,
    )
    session = Session.open(job, console or Silent())
    try:
        _complete(session.run())
    finally:
        session.close()
    return Run(job.run_path)


def plan(source: str | Path, *, run: str | Path | Run | None = None, **settings: Any) -> Plan:
    """What captioning a source will take: rows, tokens, money. Sends nothing and needs no key.

    Arguments and errors as for `caption`.
    """
    config = _config(settings)
    return make_plan(Path(source), _path(run, Path(source)), config, Options(), Silent())


def load(run: str | Path | Run, *, failures: bool = False) -> pd.DataFrame:
    """The rows of a run as a DataFrame, one column for each column of docs/output.md.

    failures: with the rows that have no answer, which `status` tells apart. As of one moment, also while the run
    is going on. Raises UsageError where there is no run, RunError where a file of it is damaged.
    """
    import pandas as pd  # noqa: PLC0415  nothing else needs it

    folder = RunFolder(run.path if isinstance(run, Run) else Path(run))
    folder.read_run()
    journal = Journal(folder.journal)
    try:
        tables = [table for _, table in dataset.answered(folder, journal, parts.SCHEMA.names)]
        if failures:
            tables += dataset.failed(journal, parts.SCHEMA.names)
    finally:
        journal.close()
    frames = [table.to_pandas() for table in tables] or [parts.SCHEMA.empty_table().to_pandas()]
    frame: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return frame


def export(
    run: str | Path | Run,
    to: str,
    *,
    out: str | Path | None = None,
    text: str = "content",
    overwrite: bool = False,
    **settings: Any,
) -> Summary:
    """Write the answers in the format of another tool, as `captionmill export` does: what is new or changed.

    to: a format of docs/exports.md. out: a folder, None for the usual place. text: the column that is written.
    overwrite: also files that no export wrote. settings: fields of `TextSettings`, as trigger="ohwx". Returns what
    was written and what was skipped. Raises UsageError for a wrong format, column or setting, RunError for the disk.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    try:
        selection = Selection(text=text, settings=TextSettings(**settings))
    except TypeError as error:
        raise UsageError(f"export: {error}") from None
    place = None if out is None else Path(out)
    return run_export(Order([path], [to], selection, out=place, overwrite=overwrite))[to]


def report(*runs: str | Path | Run, by: tuple[str, ...] = ("model",)) -> Report:
    """Rows, tokens, money and errors of one run or several, also while they are running.

    by: the columns to group by. Raises UsageError where there is no run, RunError where one is damaged.
    """
    return read_report([RunFolder(run.path if isinstance(run, Run) else Path(run)) for run in runs], by)


def _config(settings: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise UsageError("\n".join(dict.fromkeys(lines))) from None


def _path(run: str | Path | Run | None, source: Path) -> Path:
    if run is None:
        return default_run_path(source)
    return run.path if isinstance(run, Run) else Path(run)


def _complete(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in a thread of its own where this one has a running loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="captionmill") as thread:
        thread.submit(asyncio.run, work).result()
