"""Keeps pyarrow from importing pandas, which no command uses.

pyarrow imports pandas when it converts its first Python value, only to see whether that is a Series. That takes
0.4 s and 60 MB, and pyarrow has no option against it. It works in the same way where pandas is not installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class _NoPandas:
    """A finder for sys.meta_path. It does not derive from importlib.abc, which takes 5 ms to import."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Raises ModuleNotFoundError for pandas; None (ask the next finder) for all other modules."""
        if name == "pandas":
            raise ModuleNotFoundError(f"a command of captionmill imports no {name}", name=name)


@contextlib.contextmanager
def without_pandas() -> Iterator[None]:
    """Let every first import of pandas fail inside the block. A pandas that is loaded already stays."""
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
