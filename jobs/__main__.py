"""captionmill COMMAND ...: finds the command's job and turns failures into exit codes."""

from __future__ import annotations

import difflib
import importlib
import signal
import sys

from captionmill import __version__
from captionmill.nouns.errors import RunError, UsageError

from . import exit_codes
from .output import silence
from .signals import leave_at_once, on_signals

COMMANDS = {
    "caption": "caption a folder or a manifest; the same command again resumes",
    "plan": "what a run will take: rows, tokens, money, time; sends nothing",
    "status": "how far a run is; works while it is going on",
    "report": "what a run came to: rows, tokens, dollars, errors",
    "gallery": "static pages: picture, caption, tokens, cost",
    "repair": "mend a damaged run folder",
    "serve": "the built-in endpoint on its own",
    "demo": "caption the sample pictures against the built-in endpoint",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code (see README)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return run_job(argv[0], argv[1:])
    try:
        return _without_command(argv)
    except BrokenPipeError:
        return _output_closed()


def _without_command(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), flush=True)
        return exit_codes.ANSWERED if argv else exit_codes.USAGE
    if argv[0] in ("-V", "--version"):
        print(f"captionmill {__version__}", flush=True)
        return exit_codes.ANSWERED
    near = difflib.get_close_matches(argv[0], COMMANDS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"captionmill: no command {argv[0]!r}{hint}\n\n{_usage()}", file=sys.stderr)
    return exit_codes.USAGE


def run_job(command: str, argv: list[str]) -> int:
    """Call one job's `main`, and say in one line what went wrong where something did."""
    try:
        on_signals(leave_at_once)
        job = importlib.import_module(f"captionmill.jobs.{command}")
        on_signals(signal.default_int_handler)
        code = int(job.main(argv))
    except UsageError as error:
        print(f"captionmill {command}: {error}", file=sys.stderr)
        return exit_codes.USAGE
    except RunError as error:
        print(f"captionmill {command}: stopped: {error}", file=sys.stderr)
        return exit_codes.STOPPED
    except KeyboardInterrupt:
        print(f"captionmill {command}: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        return _output_closed()
    finally:
        on_signals(signal.default_int_handler)
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    return code


def _output_closed() -> int:
    """The reader (head, less) has gone."""
    silence(sys.stdout)
    return exit_codes.OUTPUT_CLOSED


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: captionmill COMMAND ...",
            "",
            "Captions image folders and labels image datasets through any OpenAI-compatible endpoint.",
            "",
            *lines,
            "",
            "captionmill COMMAND --help shows the settings of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
