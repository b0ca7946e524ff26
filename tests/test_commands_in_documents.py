# SPDX-License-Identifier: MIT
"""Commands in documents: they can be read, and the guests that they name are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.cli.main import _build_parser

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ |.*\| )?pyvmm ((?:run|measure|shell|doctor|parity)\b[^|;&<>\n]*)")


def commands() -> Iterator[tuple[str, str]]:
    """Document and arguments of each, but of those that have what a shell puts in."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in _BLOCK.findall(path.read_text(encoding="utf-8")):
            for line in block.split("\n"):
                found = _COMMAND.match(line)
                if found is not None and "$" not in found[1]:
                    yield path.name, found[1]


@pytest.mark.slow
def test_commands_can_be_read_and_name_guests_that_are_there() -> None:
    bundled = {one.name for one in bundled_guests.all_guests()}
    parsers = {}
    seen = 0
    for document, text in commands():
        words = shlex.split(text, comments=True)
        if words[0] not in parsers:
            parsers[words[0]] = _build_parser(words[0])
        options = parsers[words[0]].parse_args(words)
        image = getattr(options, "image", None)
        if image is not None and not re.search(r"[./]|vmlinuz", str(image)):
            assert str(image) in bundled, f"{document}: {text}"
        seen += 1
    assert seen > 20
