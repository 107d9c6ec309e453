"""Ctrl-C and SIGTERM mean the same, from the first moment on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import exit_codes


def on_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    """Call `handler` for both signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def leave_at_once(_number: int, _frame: FrameType | None) -> None:
    """End the process with exit code 130.

    For the time in which modules are imported and nothing was sent: Python may swallow an exception that is
    raised during an import.
    """
    os.write(2, b"captionmill: interrupted, nothing was sent\n")
    os._exit(exit_codes.INTERRUPTED)


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt for both signals from now on: a command calls this after its imports."""
    on_signals(signal.default_int_handler)
