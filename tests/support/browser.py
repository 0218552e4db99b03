"""A real browser for the tests: headless Chromium, spoken to over a pipe in its own debugging protocol.

Nothing is to be installed beside Chromium itself: `--remote-debugging-pipe` takes JSON messages, each ended by a
zero byte, on descriptor 3 and answers on 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S: Final = 60
SEEN_S: Final = 60

_FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def find_chromium() -> str:
    """Return the browser's program; where it is missing the test is skipped, or fails in CI (env CI)."""
    for program in PROGRAMS:
        if (path := shutil.which(program)) is not None:
            return path
    missing = "no Chromium on PATH: install the system's package chromium"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class Browser:
    """One page in a browser of its own, which ends with the `with` block. Not for several threads."""

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        self._profile = profile
        self._program = find_chromium()
        self._size = (width, height)
        self._process: subprocess.Popen[bytes] | None = None
        self._write_fd = self._read_fd = -1
        self._buffer = b""
        self._sent = 0
        self._session: str | None = None
        self.errors: list[str] = []
        """What went wrong in the page: exceptions, failed loads and what its policy forbade."""

    def __enter__(self) -> Self:
        to_read, self._write_fd = os.pipe()
        self._read_fd, to_write = os.pipe()
        # Chromium refuses its sandbox to root; the descriptors' numbers are fixed.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        shell = f'exec 3<&{to_read} 4>&{to_write}; exec "$@"'
        command = [self._program, *_FLAGS, *sandbox, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "browser", *command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.resize(*self._size)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        os.close(self._write_fd)  # it ends when nobody can speak to it
        os.close(self._read_fd)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def resize(self, width: int, height: int, *, scale: float = 1, is_phone: bool = False) -> None:
        """Make the page so many pixels large."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def prefer(self, scheme: str) -> None:
        """Be a reader who likes `light` or `dark`."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go to a page; returns when it has begun to load."""
        assert "errorText" not in self._call("Page.navigate", url=url), url

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text that is shown in the first element of a selector; empty where none is, or it is not seen."""
        seen = (
            f"(e => e && e.getClientRects().length ? e.innerText : '')(document.querySelector({json.dumps(selector)}))"
        )
        found: str = self.run(seen)
        return found

    def count(self, selector: str) -> int:
        """Return how many elements a selector has."""
        found: int = self.run(f"document.querySelectorAll({json.dumps(selector)}).length")
        return found

    def click(self, selector: str) -> None:
        """Click the middle of the first element of a selector, with the mouse; it has to be what lies there."""
        quoted = json.dumps(selector)
        self.wait_for(lambda: self.run(f"!!document.querySelector({quoted})?.getClientRects().length"), selector)
        x, y, is_there = self.run(
            f"(() => {{ const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2;"
            " const at = document.elementFromPoint(x, y); return [x, y, e.contains(at)]; })()"
        )
        assert is_there, f"{selector} is covered by something"
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition()` holds; fail, with what the page shows, where it does not in a minute."""
        deadline = time.monotonic() + SEEN_S
        while not condition():
            if time.monotonic() > deadline:
                shown = self.run("document.body.innerText")
                pytest.fail(f"the page never shows {what}\n{shown}\n{self.errors}")
            time.sleep(0.05)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Store what is seen, or the `whole` page, as PNG."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"the browser does not answer within {ANSWER_S} s"
            chunk = os.read(self._read_fd, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what says that something is wrong in the page."""
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                thrown = details["exceptionDetails"]
                self.errors.append(thrown.get("exception", {}).get("description") or thrown["text"])
            case "Log.entryAdded" if details["entry"]["level"] == "error":
                self.errors.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
