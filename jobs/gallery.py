"""captionmill gallery RUN

Static pages to look through: picture, caption, finish reason, tokens, cost; failed rows first. Open
RUN/gallery/index.html in a browser; nothing is fetched from outside.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.edges.folder import RunFolder
from pipeline.wiring import pages

from .arguments import Parser


def main(argv: list[str]) -> int:
    """Write the pages and say where they are."""
    parser = Parser(prog="captionmill gallery", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    print(pages.write_gallery(RunFolder(parser.parse(argv).run)))
    return 0


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("gallery", sys.argv[1:]))
