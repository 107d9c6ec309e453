"""captionmill plan SOURCE [-o RUN] --model MODEL [--sample N] [--compare MODEL,...] [--calibrate N] [settings]

Estimate a run, with the same flags as `caption`: rows, images, tokens, cost (low, likely, high), time at the limits,
cheaper alternatives, warnings. It sends nothing and needs no key, except with --calibrate N: that captions N rows
first (they count as answered) and corrects the estimate of the rest by their usage.

  captionmill plan photos/ --model gpt-4o --max-tokens 200 --tpm 300000
  captionmill plan photos/ --model gpt-4o --max-tokens 200 --compare gpt-4o-mini,claude-3-5-sonnet-20240620
"""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from dataclasses import replace

from captionmill.nouns.errors import UsageError

from . import caption, exit_codes
from .arguments import add_resume_flags, add_settings, add_source
from .parser import Parser, positive
from .signals import raise_interrupts


def main(argv: list[str]) -> int:
    """Print a plan. Raises UsageError for everything that `caption` would refuse too."""
    arguments = _parser().parse(argv)
    code = exit_codes.ANSWERED if arguments.calibrate is None else _calibrate(arguments)
    if code not in (exit_codes.ANSWERED, exit_codes.SOME_FAILED, exit_codes.STOPPED):
        return code
    from . import forecast

    raise_interrupts()
    forecast.show(
        arguments,
        compare=[name.strip() for name in (arguments.compare or "").split(",") if name.strip()],
        sample=arguments.sample,
        is_json=arguments.json,
    )
    return exit_codes.STOPPED if code == exit_codes.STOPPED else exit_codes.ANSWERED


def _calibrate(arguments: Namespace) -> int:
    """Caption the first rows. Returns the exit code of that start."""
    from captionmill.accounts.plan import FEWEST_ANSWERS

    from . import start

    if arguments.calibrate < FEWEST_ANSWERS:
        raise UsageError(
            f"--calibrate {arguments.calibrate}: fewer than {FEWEST_ANSWERS} answers say too little"
        )
    job = replace(caption.job_of(arguments), most_rows=arguments.calibrate)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the plan only
        return start.run(job)


def _parser() -> Parser:
    parser = Parser("captionmill plan", __doc__)
    add_source(parser)
    add_resume_flags(parser)
    section = parser.add_argument_group("plan")
    section.add_argument(
        "--sample", type=positive, metavar="N", help="read the images of N evenly spaced rows only [all]"
    )
    section.add_argument(
        "--compare", metavar="MODEL,...", help="also estimate the same rows for these models"
    )
    section.add_argument(
        "--calibrate",
        type=positive,
        metavar="N",
        help="caption N rows first (billed) and correct the estimate by their usage",
    )
    section.add_argument("--json", action="store_true", help="print JSON for scripts")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("plan", sys.argv[1:]))
