"""What the requests of one start need: prices, one client and one live endpoint each, and threads for the pictures."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ..edges.chat import ChatClient
from ..nouns.address import Address
from ..nouns.config import RunConfig
from ..nouns.console import Console
from ..pictures.notes import DecodeNotes
from ..pictures.pool import PicturePool
from ..pictures.prepare import PicturePreparer
from ..pictures.remote import RemotePictures
from ..rules.prices import PriceBook
from ..vision.sizes import picture_bounds
from .connect import connect


class Supplies:
    """Made without opening anything; used inside `opened`.

    addresses: for each of `config.endpoints()`, in the same order. chance: for backoff. console: gets lines that
    the user should see at once. decode_notes: the file that says what is being decoded; None for none.
    """

    def __init__(
        self,
        config: RunConfig,
        addresses: Sequence[Address],
        prices: PriceBook,
        chance: random.Random,
        console: Console,
        decode_notes: Path | None = None,
    ) -> None:
        self.prices = prices
        self._clients = tuple(
            ChatClient(
                address,
                config.timeout,
                config.connect_timeout,
                config.read_timeout,
                config.proxy,
                sends_again=not config.has_budget,
            )
            for address in addresses
        )
        self.endpoints = tuple(
            connect(config, entry, client, prices, chance, console)
            for entry, client in zip(config.endpoints(), self._clients, strict=True)
        )
        self._remote = RemotePictures() if config.allow_remote else None
        self._notes = DecodeNotes(decode_notes)
        preparer = PicturePreparer(config, picture_bounds(config), self._notes)
        self.pool = PicturePool(preparer, self._remote, config.prepare_threads)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connections are open and threads run; at the end they are closed. Prices are loaded."""
        models = sorted({endpoint.model for endpoint in self.endpoints})
        loading = asyncio.get_running_loop().run_in_executor(None, self.prices.load, models)
        self._notes.open()
        try:
            async with contextlib.AsyncExitStack() as stack:
                for client in self._clients:
                    await stack.enter_async_context(client)
                if self._remote is not None:
                    await stack.enter_async_context(self._remote)
                await asyncio.wait([loading])  # a ticket holds its price; the import would block the loop
                yield
        finally:
            self.pool.close()
            self._notes.close()
            # answers without a price are better than no answers
            await asyncio.gather(loading, return_exceptions=True)
