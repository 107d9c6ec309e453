"""captionmill caption SOURCE [-o RUN] --model MODEL ...

Caption every picture of a folder, or every row of a .csv, .jsonl or .parquet manifest. The key is
read from OPENAI_API_KEY, the address from OPENAI_BASE_URL. The same command again goes on where the
last one ended.

  captionmill caption photos/ --model gpt-4o --max-tokens 200 --tpm 300000
  captionmill caption photos.csv --model gpt-4o --prompt "Describe this {category} photo"
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import TextIO

from captionmill.nouns.config import DEFAULT_PROMPT
from captionmill.nouns.errors import RunError, UsageError
from captionmill.store.journal import Journal
from captionmill.wiring.session import Job, Session
from tqdm import tqdm

from . import exit_codes, forecast, progress
from .arguments import (
    Parser,
    add_resume_flags,
    add_settings,
    add_source,
    read_endpoints,
    read_retry_failed,
    read_settings,
    read_source,
)
from .open_files import make_room
from .output import silence
from .signals import leave_at_once, on_signals

# what to do about it, by the kind of the error that stopped a run
HINTS = {
    "bad_key": "check the key in the variable {key_env}; it was refused by {endpoint}",
    "no_permission": "this key may not use model or endpoint: {endpoint}",
    "no_quota": "no money is left for the key in {key_env} at {endpoint}",
    "model_not_found": "check --model and the address {endpoint}",
    "wrong_address": "check the address: {endpoint}",
    "cannot_connect": "check the network and the address {endpoint}",
    "tls": "check the address {endpoint} and this machine's clock; for an authority of your own, name the file with its"
    " certificate in the variable SSL_CERT_FILE",
    "disk": "make room on the disk",
    "budget": "go on with a larger budget, or look at what there is: captionmill report {run}",
    "no_access": "give this user the right to write into {run}",
    "folder_gone": "put {run} back, or begin anew with another -o",
    "usage_anomaly": "ask another endpoint or model in a new -o, or go on with --on-usage-anomaly warn; the answers that"
    " showed it are kept",
    "open_files": "raise the limit (ulimit -n), or give a smaller --concurrency",
}


def main(argv: list[str]) -> int:
    """Parse, run, sum up. Raises UsageError before anything is sent."""
    arguments = _parser().parse(argv)
    if arguments.dry_run:
        forecast.show(arguments)
        return exit_codes.ANSWERED
    job = job_of(arguments)
    if arguments.debug_log is not None:
        _open_log(arguments.debug_log)
    return run(job)


def _open_log(path: Path) -> None:
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"--debug-log {path}: cannot be written ({error.strerror})") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    log = logging.getLogger("captionmill")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    logging.raiseExceptions = False  # a full disk under the log does not fill the terminal


def _parser() -> Parser:
    parser = Parser(
        prog="captionmill caption",
        usage="captionmill caption SOURCE [-o RUN] --model MODEL [settings]",
        description=__doc__,
    )
    add_source(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing: say what it would take (= plan)"
    )
    add_resume_flags(parser)
    parser.add_argument(
        "--debug-log",
        type=Path,
        metavar="FILE",
        help="write failed attempts, the state of each endpoint and the event loop's lag there",
    )
    add_settings(parser)
    return parser


def job_of(arguments: Namespace) -> Job:
    """What to run, from flags, TOML and environment. Raises UsageError."""
    retry_failed = read_retry_failed(arguments)
    config = make_room(read_settings(arguments), _tell)
    source, run_path = read_source(arguments)
    return Job(
        source=source,
        run_path=run_path,
        config=config,
        endpoints=read_endpoints(config),
        retry_failed=retry_failed,
        is_moved=arguments.moved,
    )


def run(job: Job) -> int:
    """One start of a run, from the checks to the summary. Returns the exit code."""
    on_signals(leave_at_once)  # until the loop has handlers of its own
    try:
        mill = Session.open(job, tell=_tell)
    except RunError as error:
        _tell(f"captionmill caption: stopped: {error}")
        _tell_hint(error, job, 0)
        return exit_codes.STOPPED
    stopped_by: RunError | None = None
    # what is there now lives to the end: the collector need not visit it again (measured: -8 % CPU)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        _tell_what_was_found(job, mill)
        asyncio.run(_run(mill))
    except RunError as error:
        stopped_by = error
    finally:
        mill.close()
    return _sum_up(job, mill, stopped_by)


def _tell_what_was_found(job: Job, mill: Session) -> None:
    survey = mill.survey
    if survey.repeated:
        _tell(f"{survey.repeated} rows stand twice with the same content; each counts once")
    if survey.skipped:
        more = ", ..." if survey.skipped > len(survey.skipped_names) else ""
        _tell(
            f"{survey.skipped} files have no picture's extension; skipped: {', '.join(survey.skipped_names)}{more}"
        )
    if survey.own_prompts and job.config.prompt != DEFAULT_PROMPT:
        _tell(f"{survey.own_prompts} rows have a prompt of their own; --prompt is for the others")
    names = [endpoint.name for endpoint in job.endpoints]
    if mill.endpoints_before not in (None, names):
        _tell(f"this run was at {', '.join(mill.endpoints_before or ())} before")
    models = " and ".join(dict.fromkeys(channel.model for channel in mill.endpoints))
    _tell(f"{survey.total:,} rows for {models} at {' and '.join(names)}")


async def _run(mill: Session) -> None:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if mill.is_interrupted:
            _tell("stopping at once")
        else:
            _tell("stopping: waiting for the answers that are out; once more to stop at once")
        mill.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    showing = asyncio.create_task(progress.show(mill))
    try:
        await mill.run()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


def _sum_up(job: Job, mill: Session, stopped_by: RunError | None) -> int:
    tally = mill.tally
    left = mill.rows_left
    if not tally.attempts and not tally.failed and not left and stopped_by is None:
        _tell(f"all {tally.total:,} rows were finished before; nothing was sent")
    else:
        _tell(_totals(mill))
    if tally.changed:
        _tell(
            f"{tally.changed:,} rows ask something else now than when they were answered, and keep the old answer"
            f" ({', '.join(tally.changed_examples)}): give a changed row a new id, or use a new -o"
        )
    for channel in mill.endpoints:
        if channel.usage.finding is not None and stopped_by is None:
            _tell(f"{channel.name}: {channel.usage.finding}")
    for example in tally.failed_examples:
        _tell("  failed: " + "".join(c if c.isprintable() else " " for c in example))
    if stopped_by is not None:
        return _stopped(job, mill, stopped_by, left)
    failed = _count_failed(mill)
    if failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in tally.failures_by_kind.items())
        _tell(
            f"{failed:,} rows have no answer{f' ({kinds})' if kinds else ''}: see {mill.folder.failures};"
            " --retry-failed tries them again"
        )
    _print(str(mill.folder.results))
    if mill.is_interrupted and left:
        billed = (
            f" {mill.given_up} requests were out; they may be billed and asked again."
            if mill.given_up
            else ""
        )
        _tell(
            f"interrupted with {left:,} rows left; every recorded answer is saved.{billed} The same command goes on"
        )
        return exit_codes.INTERRUPTED
    return exit_codes.SOME_FAILED if failed else exit_codes.ANSWERED


def _stopped(job: Job, mill: Session, stopped_by: RunError, left: int) -> int:
    _tell(f"stopped: {stopped_by}")
    for number, channel in enumerate(mill.endpoints):
        _tell_hint(channel.put_aside or stopped_by, job, number)
        if channel.put_aside is None:
            break
    when = "With a larger budget" if stopped_by.kind == "budget" else "Once that is mended,"
    _tell(f"{left:,} rows are left; every recorded answer is saved. {when} the same command goes on")
    return exit_codes.STOPPED


def _tell_hint(error: RunError, job: Job, number: int) -> None:
    """What to do about it. number: of the endpoint that it is about."""
    if hint := HINTS.get(error.kind):
        url, entry = job.endpoints[number].url, job.config.endpoints()[number]
        _tell("  " + hint.format(key_env=entry.api_key_env, endpoint=url.partition("?")[0], run=job.run_path))


def _count_failed(mill: Session) -> int:
    journal = Journal(mill.folder.journal)
    try:
        return journal.counts()[1]
    finally:
        journal.close()


def _totals(mill: Session) -> str:
    tally = mill.tally
    seconds = mill.seconds
    parts = [
        f"answered {tally.answered:,} of {tally.total:,} rows in {seconds:,.1f} s",
        f"{tally.prompt_tokens:,} tokens in, {tally.completion_tokens:,} out",
    ]
    if tally.done_before:
        parts.insert(1, f"{tally.done_before:,} finished before")
    if tally.reserved_tokens:
        parts.append(f"{tally.reserved_tokens:,} reserved for them")
    parts += progress.money_facts(mill, places=6)
    if tally.unpriced:
        parts.append(f"no price for {tally.unpriced:,} answers")
    if tally.retries:
        parts.append(f"{tally.retries:,} attempts repeated, {tally.rate_limited:,} for a limit")
    return " · ".join(parts)


def _tell(text: str) -> None:
    """A line for the person, above the bar where there is one."""
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO | None = None) -> None:
    """A closed or full output does not end a run."""
    stream = stream or sys.stdout
    try:
        tqdm.write(text, file=stream)
        stream.flush()
    except OSError:
        silence(stream)


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("caption", sys.argv[1:]))
