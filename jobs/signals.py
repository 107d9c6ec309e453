"""Ctrl-C and SIGTERM mean the same, from the first moment on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import exit_codes


def on_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    """Call it for both."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def leave_at_once(_number: int, _frame: FrameType | None) -> None:
    """While modules are imported and nothing was sent: an exception raised there may be swallowed by Python."""
    os.write(2, b"captionmill: interrupted, nothing was sent\n")
    os._exit(exit_codes.INTERRUPTED)
