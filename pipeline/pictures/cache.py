"""Equal pictures of a run are prepared once: several rows may ask about one file, or about copies of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from ..nouns.rows import Picture

MAX_BYTES = 32 * 2**20


class PictureCache:
    """Prepared pictures; the least recently used are dropped. Safe in several threads.

    max_bytes: of base64 in all.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # least recently used first; a future that is not done is being made. Guarded by the lock, as is _bytes
        self._held: OrderedDict[Hashable, Future[Picture]] = OrderedDict()
        self._bytes = 0  # of base64, of the pictures that are done

    def get(self, key: Hashable, make: Callable[[], Picture]) -> Picture:
        """The picture of a key. The first caller makes it; a caller that comes meanwhile waits for it.

        key: of the file's content and of all that decides how it is sent. Raises what `make` raises; a failure is
        not kept, because its message names one file.
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
        except BaseException as error:  # waiting threads must not hang, not even at an interrupt
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
            while self._bytes > self._max_bytes:
                key, oldest = next((k, held) for k, held in self._held.items() if held.done())
                self._bytes -= len(oldest.result().base64)
                del self._held[key]
