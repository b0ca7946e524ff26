# SPDX-License-Identifier: MIT
"""What ``pyvmm run --private --json`` tells about memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .command import pyvmm

pytestmark = pytest.mark.slow  # each starts a process

PAGES = 16 * 256
WINDOW = 2 * 256
"""Pages of 16 MiB of RAM, and of the shared window."""


def memory_of(tmp_path: Path, program: str, append: str, *more: str) -> dict[str, Any]:
    file = tmp_path / "result.json"
    options = ("--host", "model", "--private", "-m", "16M", "--append", append, "--json", file)
    outcome = pyvmm("run", program, *options, *more)
    assert outcome.code == 0, outcome.err
    memory: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["memory"]
    return memory


def amounts(memory: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """By origin and side: how many conversions, of how many pages."""
    for one in memory["converted"]:
        assert one["bytes"] == one["pages"] * 4096
    return {
        (one["origin"], one["to"]): (one["conversions"], one["pages"])
        for one in memory["converted"]
    }


def totals(memory: dict[str, Any]) -> dict[str, int]:
    """Pages in each state."""
    for one in memory["page_totals"].values():
        assert one["bytes"] == one["pages"] * 4096
    return {state: one["pages"] for state, one in memory["page_totals"].items()}


def test_what_the_guest_announces_is_told_by_side(tmp_path: Path) -> None:
    memory = memory_of(tmp_path, "convert", "size=12288 offset=4096 rounds=1")
    found = amounts(memory)
    assert found["guest", "shared"] == (2, 2 * 3), "three pages, twice"
    assert found["host", "private"] == (1, WINDOW), "the window is withheld at first"
    assert not any(origin == "fault" for origin, _ in found)
    assert totals(memory) == {"shared": 0, "private": PAGES, "withheld": WINDOW}
    assert memory["converted_in_run_loop"] == 0
    counts = {f"{origin} to {to}": count for (origin, to), (count, _) in found.items()}
    assert memory["conversions"] == counts


def test_in_place_nothing_is_withheld_and_all_is_there_once(tmp_path: Path) -> None:
    append = "size=12288 offset=4096 rounds=1 in-place=1"
    memory = memory_of(tmp_path, "convert", append, "--private-backing", "in-place")
    assert not any(origin == "host" for origin, _ in amounts(memory))
    assert totals(memory) == {"shared": WINDOW, "private": PAGES, "withheld": 0}
    ram, window = memory["residency"]
    assert ram["shared_resident"] == window["private_resident"] == 0
    assert 0 < ram["private_resident"] < PAGES * 4096


def test_what_the_guest_only_touches_is_told_as_faults(tmp_path: Path) -> None:
    memory = memory_of(tmp_path, "touch", "step=64")
    count, pages = amounts(memory)["fault", "shared"]
    assert count == pages > 0
    left = totals(memory)
    assert (left["shared"], left["withheld"]) == (pages, WINDOW - pages)
    assert sum(left.values()) == PAGES + WINDOW
    assert sum(run["end"] - run["start"] for run in memory["pages"]) == 4096 * (PAGES + WINDOW)
