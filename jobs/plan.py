"""captionmill plan SOURCE [-o RUN] --model MODEL ... [--sample N] [--compare MODEL,...] [--calibrate N] [--json]

What a run will take, with the same flags as `caption`: rows, pictures, tokens, money low, likely and high, time
at the limits, cheaper ways, warnings. Nothing is sent and no key is needed, but for --calibrate N, which captions N
rows (they count as answered) and corrects the rest by what they reported.

  captionmill plan photos/ --model gpt-4o --max-tokens 200 --tpm 300000
  captionmill plan photos/ --model gpt-4o --max-tokens 200 --compare gpt-4o-mini,claude-3-5-sonnet-20240620
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace

from captionmill.accounts.plan import FEWEST_ANSWERS
from captionmill.nouns.errors import UsageError

from . import caption, exit_codes, forecast
from .arguments import Parser, add_resume_flags, add_settings, add_source, positive


def main(argv: list[str]) -> int:
    """Print a plan. Raises UsageError for what a start would refuse too."""
    arguments = _parser().parse(argv)
    code = exit_codes.ANSWERED
    if arguments.calibrate is not None:
        if arguments.calibrate < FEWEST_ANSWERS:
            raise UsageError(
                f"--calibrate {arguments.calibrate}: fewer than {FEWEST_ANSWERS} answers say too little"
            )
        job = replace(caption.job_of(arguments), most_rows=arguments.calibrate)
        with contextlib.redirect_stdout(sys.stderr):  # what is printed here is the plan
            code = caption.run(job)
        if code not in (exit_codes.ANSWERED, exit_codes.SOME_FAILED, exit_codes.STOPPED):
            return code
    forecast.show(
        arguments,
        compare=[name.strip() for name in (arguments.compare or "").split(",") if name.strip()],
        sample=arguments.sample,
        is_json=arguments.json,
    )
    return exit_codes.STOPPED if code == exit_codes.STOPPED else exit_codes.ANSWERED


def _parser() -> Parser:
    parser = Parser(
        prog="captionmill plan",
        usage="captionmill plan SOURCE [-o RUN] --model MODEL [settings]",
        description=__doc__,
    )
    add_source(parser)
    add_resume_flags(parser)
    section = parser.add_argument_group("plan")
    section.add_argument(
        "--sample", type=positive, metavar="N", help="look at the pictures of N rows, evenly spread [all]"
    )
    section.add_argument("--compare", metavar="MODEL,...", help="also count the same rows for these models")
    section.add_argument(
        "--calibrate", type=positive, metavar="N", help="caption N rows first (paid) and go by their usage"
    )
    section.add_argument("--json", action="store_true", help="for scripts")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("plan", sys.argv[1:]))
