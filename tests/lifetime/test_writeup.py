# SPDX-License-Identifier: MIT
"""The write-up's generated parts: they are in the document as they would be made now."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.writeup import generated, put

from .gathered import LITTLE, WHOLE

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifetime.md"


@pytest.mark.slow
def test_the_write_up_has_what_is_generated_now() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert put(document, generated(WHOLE)) == document


def test_parts_are_put_between_their_markers() -> None:
    document = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    once = put(document, {"x": "new\n"})
    assert once == "a\n<!-- generated: x -->\nnew\n<!-- end: x -->\nb\n"
    assert put(once, {"x": "new"}) == once
    with pytest.raises(UsageError, match="'y'"):
        put(document, {"x": "", "y": ""})
    with pytest.raises(UsageError, match="nothing generates"):
        put(document, {})


@pytest.mark.slow
def test_a_property_that_fails_has_its_story_and_every_claim_a_verdict() -> None:
    parts = generated(LITTLE)
    rows = parts["properties"].splitlines()
    assert len({row.count("|") for row in rows}) == 1
    leak = next(row for row in rows if "contents-stay" in row)
    cells = [cell.strip() for cell in leak.strip("|").split("|")[1:]]
    assert [cell.startswith("**fails**") for cell in cells] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    number = cells[1].split("story ")[1].split(",")[0]
    assert f"Story {number}, contents-stay, memslot-pins-file:" in parts["stories"]
    assert parts["claims"].count('| "') == 12
    assert "| memslot-pins-file + owner-in-inode | **sufficient** | lacks" in parts["answer"]
