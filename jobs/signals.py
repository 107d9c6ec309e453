"""Ctrl-C and SIGTERM mean the same, from the first moment on."""

from __future__ import annotations

import os
import signal
from types import FrameType

from . import exit_codes


def leave_at_once() -> None:
    """From now on both signals end the process with exit code 130.

    For the time in which modules are imported and nothing was sent: Python may swallow an exception that is
    raised during an import.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"captionmill: interrupted, nothing was sent\n")
    os._exit(exit_codes.INTERRUPTED)


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt for both signals from now on: a command calls this after its imports."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
