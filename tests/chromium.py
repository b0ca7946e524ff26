# SPDX-License-Identifier: MIT
"""Pages in a headless Chromium, which say by a script what they find of themselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

FLAGS = (
    "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
LIGHT, DARK = 1, 0
"""Values of Chromium's preferredColorScheme."""


def found_by(body: str, tmp_path: Path, scheme: int = LIGHT) -> list[dict[str, object]]:
    """Open a page of this body. A script of its own puts what it found, as ``<<JSON>>``."""
    page = tmp_path / "page.html"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{body}')
    program = shutil.which("chromium")
    assert program is not None
    done = subprocess.run(
        [
            program, *FLAGS, f"--blink-settings=preferredColorScheme={scheme}",
            f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", page.as_uri(),
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<<(.*)>>", unescape(done.stdout), re.DOTALL)
    assert found is not None, done.stderr
    plain: list[dict[str, object]] = json.loads(found[1])
    return plain
