"""A headless Chromium for tests, spoken to over the DevTools protocol: aiohttp is there already, a driver would be 50 MB."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
_START_SECONDS = 30.0


def find() -> str | None:
    """The program; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page that is open. requests: every address that it asked for; errors: what its console and scripts complained of."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.loaded = asyncio.Event()
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.run(self._browser.call(method, self._session, **parameters))

    def show(self, path: Path, size: tuple[int, int] = DESKTOP, is_dark: bool = False) -> Page:
        """Open a file in a window of this size."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._browser.run(asyncio.wait_for(self.loaded.wait(), 30))
        return self

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def type_into(self, selector: str, text: str) -> None:
        self.evaluate(f"document.querySelector({selector!r}).focus()")
        self.call("Input.insertText", text=text)

    @property
    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return int(
            self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    def screenshot(self, path: Path) -> None:
        """All of the page, not only what is in the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """One process for many pages; see `opened`."""

    def __init__(self, program: str, folder: str) -> None:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [program, *FLAGS, *root, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._runner = asyncio.Runner()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self.run(self._connect(Path(folder) / "DevToolsActivePort"))

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    async def _connect(self, port_file: Path) -> None:
        until = time.monotonic() + _START_SECONDS
        while not port_file.exists() or len(port_file.read_text().split()) < 2:
            assert time.monotonic() < until and self._process.poll() is None, "the browser did not start"
            await asyncio.sleep(0.05)
        port, path = port_file.read_text().split()[:2]
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            else:
                self._note(
                    event.get("method"), event.get("params", {}), self._pages.get(event.get("sessionId", ""))
                )

    def _note(self, method: str | None, parameters: dict[str, Any], page: Page | None) -> None:
        if page is None:
            return
        if method == "Page.loadEventFired":
            page.loaded.set()
        elif method == "Network.requestWillBeSent":
            page.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            page.errors.append(str(parameters["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            page.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            page.errors.append(parameters["entry"]["text"])

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": parameters}
            | ({"sessionId": session} if session else {})
        )
        answer = await self._answers[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def new_page(self) -> Page:
        """A tab of its own."""
        target = self.run(self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = self.run(self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        return page

    def close(self) -> None:
        async def end() -> None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            await self._socket.close()
            await self._http.close()

        self.run(end())
        self._runner.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def opened(program: str) -> Iterator[Browser]:
    """A browser with a profile of its own, which goes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            yield browser
        finally:
            browser.close()
