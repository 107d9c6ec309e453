"""The exit codes of every command; the README has a table of them."""

from __future__ import annotations

ANSWERED = 0
SOME_FAILED = 1
USAGE = 2
STOPPED = 3
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # the reader of our output has gone; the code that a shell reports for SIGPIPE
