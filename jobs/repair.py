"""captionmill repair RUN

Repair a damaged run folder: keep every answer that can be read, so that the next start asks again only for lost
ones. It deletes nothing: files that do not fit move to RUN/damaged/. `captionmill status --check RUN` lists the
damage and changes nothing.
"""

from __future__ import annotations

import sys

from . import exit_codes
from .output import TERMINAL
from .parser import Parser, user_path
from .signals import raise_interrupts


def main(argv: list[str]) -> int:
    """Repair one run and print the result. Raises UsageError if the folder is no run, RunError if it is in use."""
    parser = Parser("captionmill repair", __doc__)
    parser.add_argument("run", type=user_path, help="the run folder")
    path = parser.parse(argv).run
    from captionmill.store.folder import RunFolder
    from captionmill.wiring.repair import repair

    raise_interrupts()
    folder = RunFolder(path)
    done = repair(folder, TERMINAL)
    print(f"{folder.path}: {done.kept:,} answers kept, {done.lost:,} known to be lost")
    if done.settings_lost:
        print(
            "run.json was lost: the next `captionmill caption` assumes that the existing answers used the source and"
            " settings that you give; give the old ones"
        )
    return exit_codes.ANSWERED


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("repair", sys.argv[1:]))
