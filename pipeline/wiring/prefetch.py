"""Rows whose pictures are prepared before a worker needs them, bounded in number and in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from ..nouns.errors import RowError
from ..nouns.rows import Picture, Prepared, Row

MOST_BYTES_HELD = 512 * 2**20  # of base64: waiting and in flight
MOST_ROWS_AT_ONCE = 16


@dataclass(slots=True)
class Prefetch:
    """The queue between preparing and sending.

    source: what feeds it. queue: prepared rows; None for a worker that may end. taken: rows read from the source
    that are not being prepared yet. at_once: how many rows the next preparation is given; doubles while it takes
    all of them, falls back to one when it does not. bytes_held: of base64, in the queue and in flight.
    """

    source: AsyncGenerator[list[Row]]
    queue: asyncio.Queue[Prepared | None]
    taken: deque[Row] = field(default_factory=deque)
    at_once: int = 1
    bytes_held: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def next_rows(self) -> list[Row]:
        """The next rows to prepare; none at the end. Waits while too many bytes are held."""
        async with self.turn:
            while self.bytes_held > MOST_BYTES_HELD:
                self.room.clear()
                await self.room.wait()
            if not self.taken:
                self.taken.extend(await anext(self.source, []))
            return [self.taken.popleft() for _ in range(min(self.at_once, len(self.taken)))]

    async def put(self, asked: list[Row], prepared: list[Prepared]) -> None:
        """Queue what was prepared of `asked`: its first rows, at least one. The rest is asked for again."""
        self.taken.extendleft(reversed(asked[len(prepared) :]))
        is_all = len(prepared) == len(asked)
        self.at_once = min(self.at_once * 2, MOST_ROWS_AT_ONCE) if is_all else 1
        for item in prepared:
            self.bytes_held += _byte_count(pictures_of(item))
            await self.queue.put(item)

    def release(self, pictures: tuple[Picture, ...]) -> None:
        """The pictures of a row are no longer needed."""
        self.bytes_held -= _byte_count(pictures)
        self.room.set()


def pictures_of(prepared: Prepared) -> tuple[Picture, ...]:
    """The pictures of a prepared row; none where they could not be prepared."""
    return () if isinstance(prepared[1], RowError) else prepared[1]


def _byte_count(pictures: tuple[Picture, ...]) -> int:
    return sum(len(picture.base64) for picture in pictures)
