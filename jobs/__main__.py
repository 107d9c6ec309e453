"""captionmill COMMAND ...: imports the command and turns failures into exit codes."""

from __future__ import annotations

import importlib
import os
import sys

from captionmill import __version__
from captionmill.nouns.errors import RunError, UsageError

from . import exit_codes
from .no_pandas import without_pandas
from .output import make_printable, silence
from .signals import leave_at_once, raise_interrupts

# A new command takes one line here and one file, jobs/NAME.py with a function main(argv) -> exit code:
# review belongs to look.
GROUPS = {
    "work": {
        "caption": "caption a folder or a manifest; run the same command again to resume",
        "label": "label a folder or a manifest with your classes or a JSON schema",
        "plan": "estimate rows, tokens, cost and time of a run; sends nothing",
    },
    "look": {
        "status": "progress, tokens and cost of a run, also while it is running",
        "report": "rows, tokens, cost and errors of one run or several; writes report.html",
        "models": "models of an endpoint, with price and image rule of each",
        "gallery": "static pages with image, caption, tokens and cost of each row",
        "export": "write the answers as .txt beside the pictures, or in the formats of trainers and other tools",
    },
    "serve": {
        "serve": "run the built-in endpoint, to rehearse a run",
        "demo": "caption the sample images through the built-in endpoint; no key, no cost",
    },
    "mend": {"repair": "repair a damaged run folder"},
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code (see README)."""
    argv = sys.argv[1:] if argv is None else argv
    make_printable()
    # no command multiplies matrices: numpy need not start a BLAS thread for each core
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    import difflib

    near = difflib.get_close_matches(argv[0], COMMANDS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"captionmill: no command {argv[0]!r}{hint}\n\n{_usage()}", file=sys.stderr)
    return exit_codes.USAGE


def run_job(command: str, argv: list[str]) -> int:
    """Import one command, call its `main`, and print one line for an error. Returns the exit code.

    Until the command calls `raise_interrupts`, a signal ends the process without a traceback.
    """
    try:
        leave_at_once()
        with without_pandas():
            job = importlib.import_module(f".{command}", __package__)
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
        raise_interrupts()
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    return code


def _output_closed() -> int:
    """The exit code after the reader of our output (head, less) has gone."""
    silence(sys.stdout)
    return exit_codes.OUTPUT_CLOSED


def _usage() -> str:
    lines = [
        "usage: captionmill COMMAND ...",
        "",
        "Captions image folders and labels image datasets through any OpenAI-compatible endpoint.",
    ]
    width = max(map(len, COMMANDS))
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in commands.items())]
    lines += [
        "",
        "captionmill COMMAND --help shows the settings that most people need, --help-all shows all.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
