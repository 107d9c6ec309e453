"""captionmill gallery RUN [--filter NAME=VALUE ...] [--sample N] [--sort cost|latency|random|id]

Write static pages with image, caption, finish reason, tokens and cost of each row, failed rows first. Open
RUN/gallery/index.html in a browser; the pages load nothing from the network.

  captionmill gallery photos-captions --filter finish=length
  captionmill gallery photos-captions --sample 400 --sort random
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from captionmill.nouns.errors import UsageError

from . import exit_codes
from .parser import Parser, positive, user_path
from .signals import raise_interrupts

if TYPE_CHECKING:
    from captionmill.pages.selection import Filter

ROWS_PER_PAGE = 200


def main(argv: list[str]) -> int:
    """Write the pages and print the path of the first one. Raises UsageError for a wrong column or run folder."""
    return _write(_parser().parse(argv))


def _parser() -> Parser:
    parser = Parser("captionmill gallery", __doc__)
    parser.add_argument("run", type=user_path, help="the run folder")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only rows with this text or number in this column, for example finish=length or attempts=3; numbers also with"
        " != > >= < <= in quotes: 'cost_usd>0.01'; may be repeated",
    )
    parser.add_argument("--sample", type=positive, metavar="N", help="random sample of N rows [all]")
    parser.add_argument("--seed", type=int, default=0, help="random seed of --sample and --sort random [0]")
    parser.add_argument(
        "--sort",
        choices=("cost", "latency", "random", "id"),
        help="most expensive first, slowest first, random, or by id [failed rows, then in order of arrival]",
    )
    parser.add_argument(
        "--rows-per-page",
        type=positive,
        default=ROWS_PER_PAGE,
        metavar="N",
        help=f"rows on one page [{ROWS_PER_PAGE}]",
    )
    return parser


def _write(arguments: Namespace) -> int:
    from captionmill.pages.gallery import write_gallery
    from captionmill.pages.selection import View
    from captionmill.store.folder import RunFolder

    raise_interrupts()
    view = View(
        filters=tuple(_filter(text) for text in arguments.filter),
        sample=arguments.sample,
        sort=arguments.sort,
        rows_a_page=arguments.rows_per_page,
        seed=arguments.seed,
    )
    page, count = write_gallery(RunFolder(arguments.run), view)
    if not count:
        print("no rows match" if arguments.filter else "no rows are finished yet", file=sys.stderr)
    print(page)
    return exit_codes.ANSWERED


def _filter(text: str) -> Filter:
    from captionmill.pages.selection import Filter

    found = re.fullmatch(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)(.*)", text, re.S)
    if found is None:
        raise UsageError(
            f"--filter {text!r}: NAME=VALUE is needed, for example finish=length or 'cost_usd>0.01'"
        )
    return Filter(column=found[1], value=found[3].strip(), sign=found[2])


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("gallery", sys.argv[1:]))
