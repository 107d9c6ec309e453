"""The limit of open files and connections of this process: raised as far as the system allows."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from captionmill.nouns.errors import UsageError

if TYPE_CHECKING:
    from captionmill.nouns.config import RunConfig
    from captionmill.nouns.console import Console

FOR_THE_REST = 64  # files besides connections: journal, parts, images, Python itself


def make_room(config: RunConfig, console: Console) -> RunConfig:
    """The configuration with `max_concurrency` lowered to the connections that may be open.

    console: gets a line when it was lowered. Raises UsageError if --concurrency asks for more than the system
    allows.
    """
    entries = config.endpoints()
    needed = sum(entry.concurrency or config.max_concurrency for entry in entries) + FOR_THE_REST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return config
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a limit of its own
        allowed = soft
    if allowed >= needed:
        return config
    given = sum(entry.concurrency or 0 for entry in entries)
    found_out = sum(entry.concurrency is None for entry in entries)
    most = (allowed - FOR_THE_REST - given) // found_out if found_out else 0
    if most < 1:
        raise UsageError(
            f"{needed - FOR_THE_REST} requests in flight need {needed} open files and this system allows {allowed}:"
            f" raise it (ulimit -n), or --concurrency {max(1, allowed - FOR_THE_REST)}"
        )
    console.tell(f"at most {most} requests in flight: this system allows {allowed} open files (ulimit -n)")
    return config.model_copy(update={"max_concurrency": most})
