"""captionmill repair RUN

Mend a damaged run folder: keep every answer that can be read, and let the next start ask again only for what is
really lost. Nothing is deleted: what does not fit is moved to RUN/damaged/. `captionmill status --check RUN`
says what is wrong without changing anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

from captionmill.store.folder import RunFolder
from captionmill.wiring.repair import repair

from . import exit_codes
from .arguments import Parser


def main(argv: list[str]) -> int:
    """Repair one run and say what came of it. Raises UsageError where there is none, RunError where it is in use."""
    parser = Parser(prog="captionmill repair", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    folder = RunFolder(parser.parse(argv).run)
    done = repair(folder, tell=lambda text: print(text, file=sys.stderr))
    print(f"{folder.path}: {done.kept:,} answers kept, {done.lost:,} known to be lost")
    if done.settings_lost:
        print(
            "run.json was lost: the next `captionmill caption` takes source and settings as they are given; give the old ones"
        )
    return exit_codes.ANSWERED


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("repair", sys.argv[1:]))
