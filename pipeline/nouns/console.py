"""Where lines for the user go while a run goes on."""

from __future__ import annotations

from typing import Protocol


class Console(Protocol):
    """Shows lines to the user; a command prints them, a test collects them."""

    def tell(self, text: str) -> None:
        """Show one line at once."""


class ProgressConsole(Console, Protocol):
    """A console with a progress bar."""

    def advance(self, done: int, total: int) -> None:
        """So many of `total` are done."""


class Silent:
    """A console that shows nothing."""

    def tell(self, text: str) -> None:
        """Show nothing."""

    def advance(self, done: int, total: int) -> None:
        """Show nothing."""
