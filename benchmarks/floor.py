"""The least a client can do: read, base64, post, write a line. No limiter, no checkpoint, no prices.

It is what captionmill is measured against. A 429 is sat out by the one worker that met it and tried again;
any other failure ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import pybase64

LAG_SECONDS = 0.02


def encode(path: str) -> bytes:
    return pybase64.b64encode(Path(path).read_bytes())


async def lag(longest: list[float]) -> None:
    """The same figure as captionmill's debug log has."""
    while True:
        due = time.monotonic() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        longest[0] = max(longest[0], time.monotonic() - due)


async def one(session: aiohttp.ClientSession, url: str, body: bytes) -> Any:
    while True:
        async with session.post(url, data=body) as response:
            answer = await response.read()
            if response.status == 200:
                return json.loads(answer)
            if response.status != 429:
                raise SystemExit(f"{response.status}: {answer[:200]!r}")
            wait_seconds = float(response.headers.get("retry-after", 1))
        await asyncio.sleep(wait_seconds)


async def run(url: str, lines: list[str], concurrency: int, out: TextIO) -> float:
    rows = iter(lines)
    head = b'{"model":"gpt-4o","max_tokens":100,"messages":[{"role":"user","content":[{"type":"text","text":"'
    middle = b'"},{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,'
    longest = [0.0]
    headers = {"Authorization": "Bearer benchmark", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work() -> None:
            for line in rows:
                row = json.loads(line)
                picture = encode(
                    row["image"]
                )  # in the loop: a slow disk holds up all requests, but nothing costs less
                answer = await one(session, url, head + b"Describe." + middle + picture + b'"}}]}]}')
                content = answer["choices"][0]["message"]["content"]
                out.write(json.dumps({"id": row["id"], "content": content}) + "\n")

        watching = asyncio.create_task(lag(longest))
        await asyncio.gather(*(work() for _ in range(concurrency)))
        watching.cancel()
    return longest[0]


def main() -> None:
    base_url, manifest, concurrency, out = sys.argv[1:]
    with Path(out).open("w") as file:
        longest = asyncio.run(
            run(
                f"{base_url}/chat/completions",
                Path(manifest).read_text().splitlines(),
                int(concurrency),
                file,
            )
        )
    print(f"event loop at most {longest * 1000:.0f} ms late")


if __name__ == "__main__":
    main()
