# SPDX-License-Identifier: MIT
"""The server as a process, and pages of it in Chromium, which are watched for errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

BOUND = 120_000
"""Milliseconds that a failure takes at most."""
FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking"]
AXE = (
    "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
    ".map(one => `${one.id}: ${one.help}: ${one.nodes.map(node => node.html).join(' ')}`)"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    assert program is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(*arguments: str, host: str = "model", lines: int = 1) -> Iterator[Served]:
    """``pyvmm demo --web`` within the block; its URLs as it printed them."""
    command = [sys.executable, "-m", "pyvmm", "demo", "--web", "--host", host, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = [process.stdout.readline().split() for _ in range(lines)]
            assert all(told), "the server has ended"
            yield Served(process, [one[-1] for one in told])
        finally:
            process.terminate()
            process.wait(60)


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], urls: list[str]) -> None:
        self.process, self.urls = process, urls


class Watched:
    """A page, with everything that went wrong on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.wrong: list[str] = []
        self._origin = url.partition("#")[0]
        page.set_default_timeout(BOUND)
        page.on("console", lambda one: self.wrong.append(f"{one.type}: {one.text}"))
        page.on("pageerror", lambda one: self.wrong.append(str(one)))
        page.on("request", self._asked)
        page.goto(url)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self._origin, "data:")):
            self.wrong.append(f"asked for {request.url}")

    def close(self) -> None:
        """Close it, before its server ends: to be without one would be an error on it."""
        self.page.context.close()

    def word(self, name: str) -> str:
        word: str = self.page.evaluate(f"document.body.dataset.{name} ?? ''")
        return word

    def until(self, script: str) -> None:
        """Wait until a script's value is true.

        The page's policy lets nobody turn text into a script in it, as Playwright's own way does.
        """
        bound = time.monotonic() + BOUND / 1000
        while not self.page.evaluate(script):
            assert time.monotonic() < bound, f"{script}: {self.page.inner_text('body')}"
            self.page.wait_for_timeout(20)

    def until_phase(self, *phases: str) -> None:
        self.until(f"{list(phases)}.includes(document.body.dataset.phase)")

    def until_not(self, phase: str, link: str) -> None:
        now = "document.body.dataset.phase + ' ' + document.body.dataset.link"
        self.until(f"{now} != '{phase} {link}'")

    def text(self, part: str) -> str:
        return self.page.inner_text(f"[data-part={part}]")

    def violations(self) -> list[str]:
        """What axe-core finds."""
        axe = resources.files("axe_playwright_python") / "axe.min.js"
        self.page.evaluate(axe.read_text(encoding="utf-8"))
        found: list[str] = self.page.evaluate(AXE)
        return found
