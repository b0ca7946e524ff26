# SPDX-License-Identifier: MIT
"""A private stage that is closed, or whose reader goes away, in the middle of an act."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import trio

from pyvmm.demo.stage.private import PrivateStage, open_private_stage
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.errors import PyvmmError

from .stages import HANG, PAGE, SETUP, done

ACTS = (
    "boot",
    "boot none mailbox",
    "boot forged-report",
    "next-exit",
    "next-exit Hlt",
    f"read guest 0 {PAGE}",
    f"write guest 0 {PAGE} 1",
    f"hide-secret {PAGE}",
    f"convert guest {PAGE} 4096 shared",
    f"convert host {PAGE} 0x400000 shared",
    "touch 0xc0000000 shared",
    "touch 0xc0000000 shared no",
    "hole 0 0 4096",
    "close file 0",
    "end",
    "look",
)


def guests() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("vcpu")]


async def cancelled_after(line: str, seconds: float) -> None:
    async with open_private_stage(SETUP, StageHost.MODEL) as stage:
        await done(stage, "boot none reset-vector")
        with trio.move_on_after(seconds):
            await stage.do(parse_act(line))
    assert guests() == []


@pytest.mark.slow
@pytest.mark.parametrize("line", ACTS)
def test_an_act_that_is_cancelled_leaves_nothing_behind(line: str) -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            for thousandths in (0, 1, 3, 10, 30):
                await cancelled_after(line, thousandths / 1000)

    trio.run(main)


@pytest.mark.slow
@pytest.mark.parametrize("line", ACTS)
def test_a_stage_that_is_closed_during_an_act_fails_as_such(line: str) -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            for turns in (0, 1, 5, 20):
                async with (
                    open_private_stage(SETUP, StageHost.MODEL) as stage,
                    trio.open_nursery() as nursery,
                ):
                    await done(stage, "boot none reset-vector")

                    async def act(stage: PrivateStage = stage) -> None:
                        with suppress(PyvmmError):
                            await stage.do(parse_act(line))

                    nursery.start_soon(act)
                    for _ in range(turns):
                        await trio.sleep(0.001)
                    await stage.close()
                assert guests() == []

    trio.run(main)


@pytest.mark.slow
def test_an_exit_that_is_waited_for_and_the_end_of_the_run_two_hundred_times() -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_private_stage(SETUP, StageHost.MODEL) as stage:
                for turn in range(200):
                    await done(stage, "boot none reset-vector")
                    with trio.move_on_after(turn % 10 / 1000):
                        await done(stage, "next-exit", "next-exit")
                    await stage.close()
                    assert guests() == []

    trio.run(main)
