"""One start of a run, as the terminal sees it: the checks, the progress, the summary and the exit code."""

from __future__ import annotations

import asyncio
import signal
import sys

from captionmill.nouns.config import DEFAULT_PROMPTS
from captionmill.nouns.errors import AnswerError, RunError
from captionmill.store.journal import Journal
from captionmill.wiring.session import Job, Session

from . import exit_codes, progress
from .output import TERMINAL, print_line, tell
from .signals import leave_at_once
from .tuning import tune


def run(job: Job) -> int:
    """One start of a run, from the checks to the summary. Returns the exit code."""
    leave_at_once()  # until the loop has handlers of its own
    try:
        session = Session.open(job, TERMINAL)
    except RunError as error:
        tell(f"captionmill caption: stopped: {error}")
        _tell_hint(error, job, 0)
        return exit_codes.STOPPED
    stopped_by: RunError | None = None
    tune()
    try:
        _tell_what_was_found(job, session)
        asyncio.run(_run(session))
    except RunError as error:
        stopped_by = error
    finally:
        session.close()
    return _sum_up(job, session, stopped_by)


def _tell_what_was_found(job: Job, session: Session) -> None:
    survey = session.survey
    if folders := survey.system_folders.count:
        tell(f"left out {_count(folders, 'system folder')}: {survey.system_folders}")
    if folders := survey.unreadable_folders.count:
        tell(
            f"warning: {_count(folders, 'folder')} cannot be read and {'is' if folders == 1 else 'are'} left out"
            f" (--strict makes this an error): {survey.unreadable_folders}"
        )
    if survey.repeated:
        tell(f"ignored {_count(survey.repeated, 'duplicate row')} (same id, same content)")
    if survey.skipped:
        more = ", ..." if survey.skipped > len(survey.skipped_names) else ""
        files = (
            "1 file that is no image"
            if survey.skipped == 1
            else f"{survey.skipped:,} files that are not images"
        )
        tell(f"skipped {files}: {', '.join(survey.skipped_names)}{more}")
    if survey.own_prompts and job.config.prompt not in DEFAULT_PROMPTS:
        tell(f"{survey.own_prompts} rows have their own prompt; --prompt applies to the others")
    names = [endpoint.name for endpoint in job.addresses]
    if session.endpoints_before not in (None, names):
        tell(f"earlier starts of this run used {', '.join(session.endpoints_before or ())}")
    models = " and ".join(dict.fromkeys(endpoint.model for endpoint in session.endpoints))
    tell(f"{_count(survey.total, 'row')} for {models} at {' and '.join(names)}")


def _count(number: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


async def _run(session: Session) -> None:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if session.is_interrupted:
            tell("aborting: in-flight requests are dropped")
        else:
            tell("stopping: waiting for in-flight requests; press Ctrl-C again to abort")
        session.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    showing = asyncio.create_task(progress.show(session))
    try:
        await session.run()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        # the loop closes the pipe that signals are written to before it lets go of the signals
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _sum_up(job: Job, session: Session, stopped_by: RunError | None) -> int:
    left = session.rows_left
    _tell_what_was_done(session, left, stopped_by)
    if stopped_by is not None:
        return _stopped(job, session, stopped_by, left)
    failed = _count_failed(session)
    if failed:
        _tell_failures(session, failed)
    if session.tally.empty:
        tell(
            f"{session.tally.empty:,} answers are empty: billed, without a caption (the column reasoning may say why; a"
            " larger --max-tokens leaves room for the answer). --retry-failed empty asks these rows again"
        )
    print_line(str(session.folder.results), sys.stdout)
    if session.is_interrupted and left:
        return _interrupted(session, left)
    return exit_codes.SOME_FAILED if failed else exit_codes.ANSWERED


def _tell_what_was_done(session: Session, left: int, stopped_by: RunError | None) -> None:
    tally = session.tally
    if not tally.attempts and not tally.failed and not left and stopped_by is None:
        tell(f"all {tally.total:,} rows were finished before; nothing was sent")
    else:
        tell(_totals(session))
    if tally.changed:
        tell(
            f"{tally.changed:,} rows changed since they were answered ({', '.join(tally.changed_examples)}); their old"
            " answers are kept: give a changed row a new id, or use a new -o"
        )
    for endpoint in session.endpoints:
        if endpoint.usage.finding is not None and stopped_by is None:
            tell(f"{endpoint.name}: {endpoint.usage.finding}")
    for example in tally.failed_examples:
        tell("  failed: " + "".join(c if c.isprintable() else " " for c in example))


def _tell_failures(session: Session, failed: int) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in session.tally.failures_by_kind.items())
    tell(
        f"{_count(failed, 'row')} {'has' if failed == 1 else 'have'} no answer{f' ({kinds})' if kinds else ''}: see {session.folder.failures};"
        " --retry-failed tries them again"
    )


def _interrupted(session: Session, left: int) -> int:
    billed = (
        f" {session.given_up} requests were in flight; they may be billed and asked again."
        if session.given_up
        else ""
    )
    tell(
        f"interrupted: {_count(left, 'row')} {'is' if left == 1 else 'are'} left; every recorded answer is saved.{billed}"
        " Run the same command to resume"
    )
    return exit_codes.INTERRUPTED


def _stopped(job: Job, session: Session, stopped_by: RunError, left: int) -> int:
    tell(f"stopped: {stopped_by}")
    for number, endpoint in enumerate(session.endpoints):
        _tell_hint(endpoint.disabled or stopped_by, job, number)
        if endpoint.disabled is None:
            break
    remedy = "Raise the budget" if stopped_by.facts.concerns == "budget" else "Fix this"
    tell(
        f"{_count(left, 'row')} {'is' if left == 1 else 'are'} left; every recorded answer is saved. {remedy}, then run the same command to resume"
    )
    return exit_codes.STOPPED


def _tell_hint(error: RunError, job: Job, number: int) -> None:
    """What to do about the error. number: of the endpoint that it is about, counted from 0."""
    if hint := error.facts.hint:
        url, entry = job.addresses[number].url, job.config.endpoints()[number]
        tell("  " + hint.format(key_env=entry.api_key_env, endpoint=url.partition("?")[0], run=job.run_path))
    if error.facts.is_about_a_name:
        _tell_nearest(job, number)


def _tell_nearest(job: Job, number: int) -> None:
    """Ask the endpoint once for its models, and name the one that was probably meant; nothing where it has no list."""
    from captionmill.rules.model_list import nearest
    from captionmill.wiring.model_names import fetch_models

    asked = job.config.endpoints()[number].model or job.config.model
    try:
        names = asyncio.run(fetch_models(job.addresses[number], job.config.proxy))
    except AnswerError:
        return
    if near := nearest(names, asked):
        tell(f"  did you mean --model {near}? The endpoint lists {len(names):,} models")


def _count_failed(session: Session) -> int:
    journal = Journal(session.folder.journal)
    try:
        return journal.counts()[1]
    finally:
        journal.close()


def _totals(session: Session) -> str:
    tally = session.tally
    seconds = session.seconds
    parts = [
        f"answered {tally.answered:,} of {tally.total:,} rows in {seconds:,.1f} s",
        f"{tally.prompt_tokens:,} tokens in, {tally.completion_tokens:,} out",
    ]
    if tally.done_before:
        parts.insert(1, f"{tally.done_before:,} finished before")
    if tally.reserved_tokens:
        parts.append(f"{tally.reserved_tokens:,} reserved")
    parts += progress.money_facts(session, places=6)
    if tally.unpriced:
        parts.append(f"no price for {tally.unpriced:,} answers")
    if tally.retries:
        parts.append(f"{tally.retries:,} retries, {tally.rate_limited:,} of them for rate limits")
    return " · ".join(parts)
