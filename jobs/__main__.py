"""captionmill COMMAND ...: finds the command's job and turns failures into exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys

from pipeline import __version__
from pipeline.errors import RunError, UsageError

COMMANDS = {
    "caption": "caption a folder or a manifest; the same command again resumes",
    "status": "how far a run is; works while it is going on",
    "report": "what a run came to: rows, tokens, dollars, errors",
    "gallery": "static pages: picture, caption, tokens, cost",
    "serve": "the built-in endpoint on its own",
    "demo": "caption the sample pictures against the built-in endpoint",
}

EXIT_ANSWERED = 0
EXIT_SOME_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code (see README)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return EXIT_ANSWERED if argv else EXIT_USAGE
    if argv[0] in ("-V", "--version"):
        print(f"captionmill {__version__}")
        return EXIT_ANSWERED
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"captionmill: no command {argv[0]!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return EXIT_USAGE
    return run_job(argv[0], argv[1:])


def run_job(command: str, argv: list[str]) -> int:
    """Call one job's `main`, and say in one line what went wrong where something did."""
    job = importlib.import_module(f"jobs.{command}")
    try:
        return int(job.main(argv))
    except UsageError as error:
        print(f"captionmill {command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunError as error:
        print(f"captionmill {command}: stopped: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"captionmill {command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        return EXIT_ANSWERED


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
