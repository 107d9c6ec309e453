"""captionmill gallery RUN [--filter NAME=VALUE ...] [--sample N] [--sort cost|latency|random|id]

Static pages to look through: picture, caption, finish reason, tokens, cost; failed rows first. Open
RUN/gallery/index.html in a browser; nothing is fetched from outside.

  captionmill gallery photos-captions --filter finish=length
  captionmill gallery photos-captions --sample 400 --sort random
"""

from __future__ import annotations

import sys
from pathlib import Path

from captionmill.nouns.errors import UsageError
from captionmill.pages.gallery import write_gallery
from captionmill.pages.selection import ROWS_A_PAGE, View
from captionmill.store.folder import RunFolder

from . import exit_codes
from .arguments import Parser, positive


def main(argv: list[str]) -> int:
    """Write the pages and say where they are."""
    parser = Parser(
        prog="captionmill gallery", usage="captionmill gallery RUN [settings]", description=__doc__
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only rows with this text in this column, as finish=length or status=failed; may be repeated",
    )
    parser.add_argument("--sample", type=positive, metavar="N", help="so many rows by chance [all]")
    parser.add_argument("--seed", type=int, default=0, help="of --sample and --sort random [0]")
    parser.add_argument(
        "--sort",
        choices=("cost", "latency", "random", "id"),
        help="dearest or slowest first, by chance, or by id [failed rows, then as they came]",
    )
    parser.add_argument(
        "--rows-per-page", type=positive, default=ROWS_A_PAGE, metavar="N", help=f"[{ROWS_A_PAGE}]"
    )
    arguments = parser.parse(argv)
    view = View(
        filters=tuple(_filter(text) for text in arguments.filter),
        sample=arguments.sample,
        sort=arguments.sort,
        rows_a_page=arguments.rows_per_page,
        seed=arguments.seed,
    )
    page, count = write_gallery(RunFolder(arguments.run), view)
    if not count:
        print("no row fits" if arguments.filter else "no row has ended yet", file=sys.stderr)
    print(page)
    return exit_codes.ANSWERED


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--filter {text!r}: NAME=VALUE is needed, for example finish=length")
    return name, value


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("gallery", sys.argv[1:]))
