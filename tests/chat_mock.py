"""aioresponses beside aiohttp >= 3.14.

aioresponses 0.7.9 builds its responses without the `stream_writer` that aiohttp 3.14 requires, so each
mocked answer is given a response class whose constructor supplies one.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from aiohttp import ClientResponse


class MockedResponse(ClientResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)
