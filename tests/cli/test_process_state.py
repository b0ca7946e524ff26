# SPDX-License-Identifier: MIT
"""Commands called from a program leave that program's process as it was."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from tests.process_state import unchanged

LITTLE = ("-m", "16M", "--host", "model")
COMMANDS = [
    ("--help",),
    ("no-such-command",),
    ("guests",),
    ("doctor",),
    ("run", "/nowhere"),
    ("run", "hello", *LITTLE, "--console", "none"),
    ("measure", "hello"),
    ("lifetime", "show"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_a_command_leaves_behind(command: tuple[str, ...]) -> None:
    with unchanged():
        assert main(command) != 70


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with unchanged():
            assert main(["guests"]) == 0
    finally:
        gc.enable()


@pytest.mark.qemu
@pytest.mark.slow
def test_a_comparison_between_two_uses_of_asyncio(tmp_path: Path) -> None:
    async def use() -> int:
        await asyncio.sleep(0)
        return 5

    with unchanged():
        assert asyncio.run(use()) == 5
        options = (*LITTLE, "--accel", "tcg", "--runs", "1", "--json", str(tmp_path / "told"))
        assert main(["compare", "exit", *options]) == 0
        assert asyncio.run(use()) == 5
