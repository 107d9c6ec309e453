"""Lines for the user, on a terminal or pipe that may have gone."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class Terminal:
    """The console of a command: messages go to stderr."""

    def tell(self, text: str) -> None:
        """Print one message."""
        print_line(text, sys.stderr)


TERMINAL = Terminal()


def tell(text: str) -> None:
    """Print one message to stderr."""
    TERMINAL.tell(text)


def print_line(text: str, stream: TextIO) -> None:
    """Print one line, above the progress bar if there is one. A closed or full output does not end a run."""
    from tqdm import tqdm

    try:
        tqdm.write(text, file=stream)
        stream.flush()
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Discard all further output of a closed or full stream.

    Otherwise the interpreter meets the same error when it exits, and its exit code is 120.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
