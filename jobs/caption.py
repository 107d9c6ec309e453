"""captionmill caption SOURCE [-o RUN] --model MODEL [settings]

Caption every image of a folder, or every row of a .csv, .jsonl or .parquet manifest. The key is read from
the variable OPENAI_API_KEY, the address from OPENAI_BASE_URL. Run the same command again to resume.

  captionmill caption photos/ --model gpt-4o --max-tokens 200 --tpm 300000
  captionmill caption photos.csv --model gpt-4o --prompt "Describe this {category} photo"
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captionmill.nouns.errors import UsageError

from . import exit_codes
from .arguments import (
    add_resume_flags,
    add_settings,
    add_source,
    read_retry_failed,
    read_settings,
    read_source,
)
from .open_files import make_room
from .output import TERMINAL
from .parser import Parser, user_path
from .signals import raise_interrupts

if TYPE_CHECKING:
    from captionmill.wiring.session import Job


def main(argv: list[str]) -> int:
    """Parse, run, print the summary. Raises UsageError before anything is sent."""
    return run_with(parser_of("captionmill caption", __doc__).parse(argv))


def run_with(arguments: Namespace) -> int:
    """Run, or plan with --dry-run, as the arguments of `parser_of` say. Returns the exit code."""
    if arguments.dry_run:
        from . import forecast

        raise_interrupts()
        forecast.show(arguments)
        return exit_codes.ANSWERED
    job = job_of(arguments)
    from . import start

    if arguments.debug_log is not None:
        _open_log(arguments.debug_log)
    return start.run(job)


def _open_log(path: Path) -> None:
    import logging

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


def parser_of(prog: str, doc: str | None) -> Parser:
    """The arguments of a command that sends. prog, doc: as of `Parser`."""
    parser = Parser(prog, doc)
    add_source(parser)
    parser.rare(
        parser.add_argument(
            "--dry-run", action="store_true", help="send nothing: print the plan (as `captionmill plan` does)"
        )
    )
    add_resume_flags(parser)
    parser.rare(
        parser.add_argument(
            "--debug-log",
            type=user_path,
            metavar="FILE",
            help="write failed attempts, the state of each endpoint and the lag of the event loop to FILE",
        )
    )
    add_settings(parser)
    return parser


def job_of(arguments: Namespace) -> Job:
    """What to run, from flags, TOML and environment. Raises UsageError."""
    retry_failed = read_retry_failed(arguments)
    config = make_room(read_settings(arguments), TERMINAL)
    source, run_path = read_source(arguments)
    from captionmill.wiring.addresses import read_addresses
    from captionmill.wiring.session import Job

    return Job(
        source=source,
        run_path=run_path,
        config=config,
        addresses=read_addresses(config),
        retry_failed=retry_failed,
        is_moved=arguments.moved,
    )


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("caption", sys.argv[1:]))
