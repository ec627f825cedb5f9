"""Drives headless Chromium over the pipe of its DevTools protocol: it needs no package beside the browser.

Every wait ends with an event of the page, or at the deadline.
"""

import base64
import json
import os
import pathlib
import select
import subprocess
import tempfile
import time

DEADLINE_SECONDS = 60


class Browser:
    """One browser with a folder of its own. `open` gives pages."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        (their_input, self.output), (self.input, their_output) = os.pipe(), os.pipe()

        def wire():
            # Chromium reads from descriptor 3 and writes to 4. Neither may be overwritten before it is copied.
            reading, writing = os.dup(their_input), os.dup(their_output)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                   f"--user-data-dir={self.folder.name}", "about:blank"]
        self.process = subprocess.Popen(command, preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(their_input)
        os.close(their_output)
        self.received, self.number, self.events = b"", 0, []
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(DEADLINE_SECONDS)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.output)
        os.close(self.input)
        self.folder.cleanup()

    def message(self, until):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.input], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise RuntimeError("the browser does not answer")
            more = os.read(self.input, 1 << 20)
            if not more:
                raise RuntimeError("the browser has gone")
            self.received += more
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if session:
            request["sessionId"] = session
        os.write(self.output, json.dumps(request).encode() + b"\0")
        until = time.monotonic() + DEADLINE_SECONDS
        while True:
            message = self.message(until)
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def event(self, method, session):
        """Until the browser tells of this."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not any(message["method"] == method and message.get("sessionId") == session for message in self.events):
            message = self.message(until)
            if "method" in message:
                self.events.append(message)

    def open(self, url, width=1280, height=900, dark=False):
        return Page(self, url, width, height, dark)


class Page:
    def __init__(self, browser, url, width, height, dark):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        browser.event("Page.loadEventFired", self.session)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def value(self, script):
        """What an expression is, or what its promise comes to."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, event):
        """Until the page has told of `figures` or `silence` once more."""
        self.value(f"new Promise((done) => document.addEventListener('{event}', () => done(true), {{ once: true }}))")

    def wait_for(self, event, script):
        """Until an expression holds, which is looked at after each such event."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not self.value(script):
            if time.monotonic() > until:
                raise RuntimeError(f"it never came to be: {script}")
            self.wait(event)

    def complaints(self):
        """What the page threw, or the browser refused it."""
        told = []
        for message in self.browser.events:
            if message.get("sessionId") != self.session:
                continue
            if message["method"] == "Runtime.exceptionThrown":
                told.append(message["params"]["exceptionDetails"])
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                told.append(message["params"]["entry"])
        return told

    def picture(self, file, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        pathlib.Path(file).write_bytes(base64.b64decode(shot["data"]))
