"""A real browser, driven through the DevTools protocol: pages opened, keys pressed, fingers put down, pixels read."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.playing import websocket
from tests.support.waiting import wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at the page with")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
SECONDS = 60


class Page:
    """One tab. What it says on its console, and what it could not load, is kept in ``said``."""

    def __init__(self, address: str) -> None:
        self._socket = websocket(address)
        self._numbers = itertools.count(1)
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=SECONDS))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                found: dict[str, Any] = message["result"]
                return found
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(told["exceptionDetails"]))
            case "Log.entryAdded" if "getImageData" not in told["entry"]["text"]:  # a hint at how tests read pixels
                self.said.append(told["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.said.append(json.dumps(told["args"]))

    def __call__(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def wait(self, expression: str, seconds: float = SECONDS) -> None:
        """Until a JavaScript expression holds."""
        wait_for(expression, lambda: self(expression), seconds)

    def key(self, kind: str, code: str) -> None:
        """A key goes ``keyDown`` or ``keyUp``, by its place on the keyboard: ``ArrowLeft``, ``KeyA``, ``Digit1``."""
        letter = code.removeprefix("Key").lower() if code.startswith("Key") else code.removeprefix("Digit")
        number = KEY_CODES.get(code, ord(letter.upper()[0]))
        self.call("Input.dispatchKeyEvent", type=kind, code=code, key=letter, windowsVirtualKeyCode=number)

    def press(self, code: str) -> None:
        """A key goes down, and up again."""
        self.key("keyDown", code)
        self.key("keyUp", code)

    def touch(self, selector: str) -> None:
        """A finger on an element, and off again."""
        found = f"document.querySelector({json.dumps(selector)})"
        self(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y = self(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({found}.getBoundingClientRect())")
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def phone(self, width: int = 390, height: int = 844) -> None:
        """Be a phone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)
        self.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def dark(self) -> None:
        """Be a device whose owner likes it dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))

    def leave_picture(self, name: str) -> None:
        """A screenshot for people, if TIW_SCREENSHOTS names a folder for them."""
        if folder := os.environ.get("TIW_SCREENSHOTS"):
            self.screenshot(Path(folder) / name)

    def close(self) -> None:
        self.call("Page.close")
        self._socket.close()


class Chromium:
    """A running browser."""

    def __init__(self, address: str) -> None:
        self._address, self._socket = address, websocket(address)

    def tab(self, width: int = 1200, height: int = 900) -> Page:
        """A new tab, with nothing in it."""
        request = {"url": "about:blank", "width": width, "height": height, "newWindow": True}
        self._socket.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": request}))
        while (message := json.loads(self._socket.recv(timeout=SECONDS))).get("id") != 1:
            pass
        return Page(f"{self._address.partition('/devtools/')[0]}/devtools/page/{message['result']['targetId']}")


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser for the length of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told = Path(profile) / "DevToolsActivePort"
            wait_for("the browser", lambda: told.exists() and len(told.read_text().splitlines()) == 2, SECONDS)
            port, path = told.read_text().splitlines()
            yield Chromium(f"ws://127.0.0.1:{port}{path}")
        finally:
            process.terminate()
            process.wait()
