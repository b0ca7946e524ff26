# SPDX-License-Identifier: MIT
"""Pictures of the demo for the README: ``python -m tests.demo.pictures FOLDER``.

All is made on the model, by the demo itself: a screen of the terminal, and the page of a hand-out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from pyvmm.cli.main import main
from tests.demo.pictures.screen_svg import screen_svg
from tests.demo.terminal.on_screen import screen_terminal

_CHROMIUM = "/usr/bin/chromium"


def terminal(folder: Path) -> None:
    """A refusal that was predicted."""
    with screen_terminal(80, 24) as terminal:
        terminal.demo("slots/overlap", "--host", "model")
        terminal.until_shown("EEXIST, and nothing changes")
        terminal.type(b"2")
        terminal.until_shown("ANSWER: refused, EEXIST")
        svg = screen_svg(terminal.screen, "pyvmm demo in a terminal: a memslot is refused")
        terminal.type(b"q")
    (folder / "demo-terminal.svg").write_text(svg)


def page(folder: Path) -> None:
    """A conversion, with what was predicted."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        file = Path(name) / "run.html"
        assert main(["demo", "--host", "model", "--html", str(file), "conversion"]) == 0
        browser = playwright.chromium.launch(executable_path=_CHROMIUM)
        context = browser.new_context(
            viewport={"width": 1240, "height": 940}, reduced_motion="reduce", offline=True
        )
        shown = context.new_page()
        shown.goto(f"{file.as_uri()}#conversion/ask")
        shown.keyboard.press("1")
        shown.screenshot(path=folder / "demo-page.png")
        browser.close()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    terminal(place)
    page(place)
