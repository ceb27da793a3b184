"""A real Chromium without a window, spoken to through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.commands import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_KEYS = {"Enter": "\r", " ": " ", "/": "/", "*": "*"}


class Tab:
    """One page. `errors` and `requests` are what it has complained of and asked for since it was opened."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(self._answers[number], 60)

    async def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until its program says that all is there."""
        await self.send("Page.navigate", url="about:blank")
        self.errors.clear()
        self.requests.clear()
        await self.send("Page.navigate", url=path.as_uri() + fragment)
        await self.until("document.documentElement?.dataset.ready === 'all'")

    async def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        done = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(seconds):
            while not await self.run(script):  # noqa: ASYNC110 - what happens in the page is no event here
                await asyncio.sleep(0.02)

    async def press(self, *keys: str) -> None:
        """Keys by their names, such as `ArrowDown`."""
        for key in keys:
            text = _KEYS.get(key, key if len(key) == 1 else "")
            more = {"text": text} if text else {}
            code = {"Enter": 13, "Escape": 27}.get(key, 0)
            await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
            await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click in the middle of the first element that the selector finds."""
        at = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoViewIfNeeded();"
        at += " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        x, y = await self.run(at)
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and whether its user prefers the dark."""
        mobile = width < 600
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        shot = await self.send("Page.captureScreenshot")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def print(self) -> bytes:
        """The page as it is printed, a PDF."""
        return base64.b64decode((await self.send("Page.printToPDF", printBackground=True))["data"])

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if not answer.done():
                    self._settle(answer, data)
            else:
                self._note(data["method"], data["params"])

    @staticmethod
    def _settle(answer: asyncio.Future[dict[str, Any]], data: dict[str, Any]) -> None:
        if "error" in data:
            answer.set_exception(AssertionError(data["error"]["message"]))
        else:
            answer.set_result(data["result"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded":
                self.errors.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.errors.append(f"console.{params['type']}: {params['args']}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case _:
                pass


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A browser with a profile of its own, and the one page in it."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *_FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await asyncio.to_thread(_port, Path(profile))
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [target for target in await answer.json() if target["type"] == "page"]
                tab = Tab(await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0))
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.send(f"{domain}.enable")
                await tab.send("Emulation.setFocusEmulationEnabled", enabled=True)
                yield tab
                await tab.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _port(profile: Path) -> int:
    """Where the browser listens, once it has said so."""
    file = profile / "DevToolsActivePort"
    until(lambda: file.exists() and bool(file.read_text().strip()), 60)
    return int(file.read_text().splitlines()[0])
