"""Where a picture is decoded: in this process if it is small and of a format whose header tells all, else in a child."""

from __future__ import annotations

import contextlib
import threading

from ..nouns.errors import RowError
from .decode import LARGE_PIXELS
from .encode import Encoded
from .header import Header, read_header
from .isolated import IsolatedRender
from .notes import DecodeNotes
from .render import Bounds, Look, Render, render

_ANIMATION = b"acTL"
_isolated = IsolatedRender()  # one pool of children for the whole process; they end with it
_one_large = threading.RLock()  # the memory of one large picture, not of one per thread


class Renderer:
    """Makes the pictures of one run or page. Safe in several threads.

    notes: of what is being decoded; a picture of which a process died is tried alone in a child, and the second time
    fails. isolated: makes a picture in a child.
    """

    def __init__(self, notes: DecodeNotes | None = None, isolated: Render = _isolated) -> None:
        self._notes = notes or DecodeNotes()
        self._isolated = isolated

    def render(self, path: str, data: bytes, sha256: str, bounds: Bounds, look: Look) -> Encoded:
        """The picture as it is sent. data: of the file. sha256: of data, hexadecimal. Raises RowError that names path."""
        deaths = self._notes.deaths(sha256)
        if deaths > 1:
            self._notes.forget(sha256)
            raise RowError(
                f"{path}: the program died twice while it decoded this picture; convert it, then retry it with"
                " --retry-failed",
                kind="image_broken",
            )
        with self._notes.noted(sha256), contextlib.ExitStack() as turn:
            if not deaths and is_bounded(data, read_header(data), look.frame):
                return render(path, data, bounds, look)
            if deaths:
                turn.enter_context(_one_large)

            def fit(width: int, height: int) -> tuple[int, int]:
                if width * height > LARGE_PIXELS:
                    turn.enter_context(_one_large)
                return bounds.fit(width, height)

            return self._isolated(path, data, bounds._replace(fit=fit), look)


def is_bounded(data: bytes, header: Header | None, frame: object) -> bool:
    """Whether the header says how much memory decoding takes, and it is little.

    Only a JPEG or a PNG, since every other format can hold further pictures, pages or layers of any size. frame: that
    is sent; a later one of an animation is not in the header.
    """
    if header is None or header.width * header.height > LARGE_PIXELS:
        return False
    return header.format == "jpeg" or frame == "first" or _ANIMATION not in data[:65_536]
