"""The same picture twice in a run is prepared once: rows that ask several things of one file, copies."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from ..nouns.rows import Picture

MOST_BYTES = 32 * 2**20


class PictureCache:
    """Prepared pictures, those used last kept. All methods may be called from several threads.

    most_bytes: of base64 in all.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Future[Picture]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Picture]) -> Picture:
        """The picture of this key, made now if nobody has; who comes meanwhile waits for it.

        Raises what `make` raises; a failure is not kept, its message names one file.
        """
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
            else:
                mine: Future[Picture] = Future()
                self._held[key] = mine
        if held is not None:
            return make() if held.exception() else held.result()
        try:
            picture = make()
        except BaseException as error:
            with self._lock:
                del self._held[key]
            mine.set_exception(error)
            raise
        self._keep(mine, picture)
        return picture

    def _keep(self, mine: Future[Picture], picture: Picture) -> None:
        with self._lock:
            mine.set_result(picture)
            self._bytes += len(picture.base64)
            while self._bytes > self._most_bytes:
                key, oldest = next((k, held) for k, held in self._held.items() if held.done())
                self._bytes -= len(oldest.result().base64)
                del self._held[key]
