"""Headless Chromium, driven by the DevTools protocol over a pair of pipes: JSON with a zero byte at each end."""

from __future__ import annotations

import atexit
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sidecar

#: How long anything may take before it counts as a failure: far longer than it needs on a busy machine.
DEADLINE = 60.0

Message = dict[str, Any]
T = TypeVar("T")


def program() -> str:
    """Ends the run with a clear message where there is no browser: nothing is ever skipped."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("error: `chromium` is not in PATH\n\nhint: apt-get install chromium")
    return path


class Browser:
    """A browser with a profile of its own. Closing it ends it, and it alone."""

    def __init__(self) -> None:
        self._profile = Path(tempfile.mkdtemp(prefix="page-"))
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        # The protocol has the descriptors 3 and 4.
        started = f'exec 3<&{theirs} 4>&{answers}; exec "$@"'
        arguments = [
            program(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={self._profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        self._errors = self._profile / "stderr"
        with self._errors.open("wb") as errors:
            self._child = subprocess.Popen(
                ["bash", "-c", started, "bash", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs, answers),
                start_new_session=True,
            )
        os.close(theirs)
        os.close(answers)
        self._unread = b""
        self._number = 0
        self._events: list[Message] = []
        atexit.register(self.close)

    def close(self) -> None:
        """Ends it."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
            # Its other processes end with these.
            os.close(self._to)
            os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: object) -> Message:
        """One command, and what it gives."""
        self._number += 1
        command: Message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while True:
            message = self._message(end - time.monotonic())
            if message is None:
                raise AssertionError(f"the browser did not answer {method}\n{self._errors.read_text()[-2000:]}")
            if message.get("id") != self._number:
                self._events.append(message)
            elif "error" in message:
                raise AssertionError(f"{method}: {message['error']}")
            else:
                return dict(message["result"])

    def events(self, session: str) -> list[Message]:
        """All that a tab has told so far."""
        while (message := self._message(0)) is not None:
            self._events.append(message)
        return [event for event in self._events if event.get("sessionId") == session]

    def _message(self, patience: float) -> Message | None:
        end = time.monotonic() + patience
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._from, 1 << 16) if ready else b""
            if not data:
                return None
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))


class Tab:
    """A tab in a context of its own, that notes every request, complaint and error."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log", "Audits"]:
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Closes it."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def call(self, method: str, **parameters: object) -> Message:
        """A command for this tab."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Opens a page, and waits until it is there."""
        self.call("Page.navigate", url=url)
        wait_for(f"{url} to be loaded", lambda: self.is_at(url))

    def is_at(self, url: str) -> bool:
        return bool(self.value(f"location.href === {json.dumps(url)} && document.readyState === 'complete'"))

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise AssertionError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    @property
    def text(self) -> str:
        """What a person reads."""
        return str(self.value("document.body?.innerText ?? ''"))

    def emulate(self, width: int, scheme: str = "light") -> None:
        """A window so wide, of a person who prefers this scheme of colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shoot(self, path: Path) -> None:
        """Takes a picture of the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def told(self, method: str) -> list[Message]:
        """The parameters of all such events."""
        events = self._browser.events(self._session)
        return [event["params"] for event in events if event["method"] == method]

    @property
    def requests(self) -> list[str]:
        """The addresses of all that was asked for, wherever it is."""
        return [str(event["request"]["url"]) for event in self.told("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """All errors and warnings: of scripts, of the policy, of anything else that is worth a line in the console."""
        thrown = [str(event["exceptionDetails"]) for event in self.told("Runtime.exceptionThrown")]
        logged = [str(event["entry"]) for event in self.told("Log.entryAdded")]
        called = [str(event) for event in self.told("Runtime.consoleAPICalled")]
        issues = [str(event["issue"]) for event in self.told("Audits.issueAdded")]
        return thrown + logged + called + issues


def wait_for(what: str, probe: Callable[[], T | None]) -> T:
    """Waits until the probe finds something true, as long as a browser may take."""
    return sidecar.wait_for(what, probe, DEADLINE)
