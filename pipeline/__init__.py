"""captionmill: caption image folders through any OpenAI-compatible endpoint.

The command line is `captionmill` (jobs/). From Python:

    import captionmill

    run = captionmill.caption("photos/", model="gpt-4o", max_tokens=200)   # a Run; the same call resumes it
    frame = captionmill.load(run)                                          # a pandas.DataFrame

docs/architecture.md has the layers, a glossary, and the map of every file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Run, caption, export, load, plan, report

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "caption", "export", "load", "plan", "report"]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are used: `captionmill --help` needs none of them."""
    if name in __all__:
        from . import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
