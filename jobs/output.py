"""A terminal or pipe that has gone."""

from __future__ import annotations

import os
from typing import TextIO


def silence(stream: TextIO) -> None:
    """Send what is still written to a closed or full output nowhere.

    Else the interpreter meets the same error at its end, and exits with 120.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
