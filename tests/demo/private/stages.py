# SPDX-License-Identifier: MIT
"""Private stages that lines of words are carried out on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from pyvmm.demo.house.lines import line_of, said
from pyvmm.demo.stage.private import PrivateStage, open_private_stage
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.chapter import Setup, StageKind
from pyvmm.demo.telling.orders import ActDone
from pyvmm.demo.telling.outcomes import Outcome, StageHost

HANG = 240.0
SETUP = Setup(StageKind.PRIVATE)
PAGE = "0x400000"
"""A page that the guest has no use for."""


async def done(stage: PrivateStage, *lines: str) -> list[Outcome]:
    """Carry lines out; each outcome is one that a process of stages can tell."""
    found = []
    for line in lines:
        outcome = await stage.do(parse_act(line))
        told = ActDone(outcome, 1, None)
        assert said(line_of(told)) == told
        found.append(outcome)
    return found


def with_stage(
    function: Callable[[PrivateStage], Awaitable[None]], host: StageHost = StageHost.MODEL
) -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_private_stage(SETUP, host) as stage:
                await function(stage)

    trio.run(main)


def outcomes(*lines: str, host: StageHost = StageHost.MODEL) -> list[Outcome]:
    found: list[Outcome] = []

    async def act(stage: PrivateStage) -> None:
        found.extend(await done(stage, *lines))

    with_stage(act, host)
    return found
