"""The command line of one command: a short help, the full help, and a UsageError for what is wrong.

Imports nothing but the standard library, so that a command without settings starts fast.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from captionmill.nouns.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with two helps and with our exit.

    --help shows the arguments that most people need, --help-all shows every one. A wrong argument raises
    UsageError with the nearest flag.
    """

    def __init__(self, prog: str, doc: str | None = None) -> None:
        """prog: the command as it is typed. doc: its usage line, then a blank line, then the description."""
        usage, _, description = (doc or "").partition("\n\n")
        super().__init__(
            prog=prog,
            usage=usage or None,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._rare: list[argparse.Action] = []
        self.add_argument("-h", "--help", action=_Help, help="show this help and exit")
        self.add_argument("--help-all", action=_Help, help="show all settings and exit")

    def rare(self, action: argparse.Action) -> None:
        """Leave this argument out of --help; --help-all shows it."""
        self._rare.append(action)

    def hide_rare(self) -> None:
        """Make the next help the short one, which names the other."""
        if self._rare:
            self.epilog = f"{self.prog} --help-all shows {len(self._rare)} more settings."
        for action in self._rare:
            action.help = argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, where argparse would print and exit."""
        raise UsageError(f"{message} (see {self.prog} --help-all)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments of the command. Raises UsageError; SystemExit after a help."""
        known, rest = self.parse_known_args(argv)
        if rest:
            import difflib

            flag = rest[0].partition("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            if "--param" in self._option_string_actions and (other := _hint(flag, argv, near)):
                hint = other
            self.error(f"unknown argument {rest[0]!r}{hint}")
        return known


class _Help(argparse.Action):
    """Prints the help and exits: the short one for --help, the full one for --help-all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, nargs=0, default=argparse.SUPPRESS)

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: object, _values: object, flag: str | None = None
    ) -> None:
        if isinstance(parser, Parser) and flag != "--help-all":
            parser.hide_rare()
        parser.print_help()
        parser.exit()


def positive(text: str) -> int:
    """An int from 1, for arguments that are not settings of a run. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number from 1 is needed")
    return int(text)


def user_path(text: str) -> Path:
    """A path, for arguments; ~ is the home folder, also in --output=~/captions, where no shell sees it."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  a relative path stays as it is


def _hint(unknown: str, argv: Sequence[str], near: Sequence[str]) -> str | None:
    """What may have been meant by an argument that a command with settings does not know."""
    if unknown.startswith("--"):
        name = unknown[2:].replace("-", "_")
        value = argv[argv.index(unknown) + 1] if unknown in argv[:-1] else "VALUE"
        value = next((a.partition("=")[2] for a in argv if a.startswith(f"{unknown}=")), value)
        also = f"did you mean {near[0]}? " if near else ""
        return f"; {also}A parameter of the API without a flag is given as --param {name}={value}"
    if not unknown.startswith("-"):
        folder = os.path.dirname(unknown) or "."  # noqa: PTH120
        return f"; several files are given as their folder: {os.path.join(folder, '')}"  # noqa: PTH118
    return None
