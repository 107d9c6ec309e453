"""The exit codes of every command; the README's table says what they mean."""

from __future__ import annotations

ANSWERED = 0
SOME_FAILED = 1
USAGE = 2
STOPPED = 3
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # the reader of our output has gone (as a shell reports SIGPIPE)
