"""A headless Chromium, spoken to over its debugging pipe: what it shows, where its script was, and pictures of it."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
_SECONDS = 60


class Browser:
    """One page of a browser; a context manager."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._number, self.events = 0, []

    def __enter__(self):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()

        def give_pipes():
            # The browser reads commands from 3 and writes answers to 4.
            for source, target in ((os.dup(commands), 3), (os.dup(answers), 4)):
                os.dup2(source, target)

        self._process = subprocess.Popen(
            [
                PROGRAM,
                *(
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--hide-scrollbars",
                ),
                *("--remote-debugging-pipe", "--no-first-run", "--disable-extensions", "--mute-audio"),
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            preexec_fn=give_pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer, self._session = b"", None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exception):
        self._process.terminate()
        self._process.wait(timeout=_SECONDS)
        for pipe in (self._commands, self._answers):
            os.close(pipe)
        self._profile.cleanup()

    def call(self, method, **parameters):
        """A command of the DevTools protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, anchor: str = "") -> float:
        """Opens a file and waits until its script is ready; returns the seconds that took."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        start = time.monotonic()
        self.call("Page.navigate", url=path.resolve().as_uri() + anchor)
        self.wait("document.documentElement?.dataset.ready === 'true'")
        return time.monotonic() - start

    def wait(self, condition: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + _SECONDS
        while self.evaluate(condition) is not True:
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def evaluate(self, expression: str):
        """The value of an expression in the page, promises awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description", expression))
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        text = key if len(key) == 1 else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Clicks into the middle of an element with the mouse."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{where}.scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(
            f"(() => {{ const b = {where}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Gives the page another size and colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Writes a PNG of what is in sight, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What scripts threw, what the console says, and all requests but that of the page itself."""
        self.evaluate("1")
        found = []
        for event in self.events:
            method, parameters = event.get("method", ""), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(parameters))
            if method == "Network.requestWillBeSent" and parameters.get("type") != "Document":
                found.append(parameters["request"]["url"])
        return found

    def _read(self):
        while b"\0" not in self._buffer:
            data = os.read(self._answers, 2**20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
