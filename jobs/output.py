"""Lines for the user, on a terminal or pipe that may have gone."""

from __future__ import annotations

import io
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


def make_printable() -> None:
    """Let standard output and error take any text at any time.

    A stream that the caller closed (`>&-`) becomes one that discards: a file that is opened next would get its number,
    and all that is printed. A character that the terminal's encoding does not have is printed as an escape.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
