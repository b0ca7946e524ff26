# SPDX-License-Identifier: MIT
"""The balloon's commands: QEMU's words and numbers."""

from __future__ import annotations

import pytest

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import CommandError, ErrorClass
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.qmp.guests import run

PAGE = 4096


def config(*, balloon: bool) -> MachineConfig:
    return MachineConfig(
        bundled("balloon"),
        memory=4 * MIB,
        host=HostChoice.MODEL,
        hardware=Hardware(balloon=True) if balloon else None,
        timeout=HANG,
    )


@in_trio
async def test_the_value_is_the_memory_that_the_guest_keeps() -> None:
    async with open_machine(config(balloon=True)) as machine:
        assert await machine.console.wait_for(b"one reported\n")
        assert await run(machine, "query-balloon") == {"actual": 4 * MIB}
        assert await run(machine, "balloon", value=4 * MIB - 5 * PAGE) == {}
        assert await machine.console.wait_for(b"balloon of 5 pages\n")
        assert await run(machine, "query-balloon") == {"actual": 4 * MIB - 5 * PAGE}
        for bad in (0, -1):
            with pytest.raises(CommandError, match="Parameter 'target' expects a size"):
                await run(machine, "balloon", value=bad)
        # More than there is: all of it.
        assert await run(machine, "balloon", value=1 << 40) == {}
        assert (await machine.control.wait()).ending.status == 0


@in_trio
async def test_without_a_balloon_both_say_so() -> None:
    async with open_machine(config(balloon=False), paused=True) as machine:
        for name, arguments in (("query-balloon", {}), ("balloon", {"value": 1})):
            with pytest.raises(CommandError, match="No balloon device has been activated") as no:
                await run(machine, name, **arguments)
            assert no.value.error_class is ErrorClass.DEVICE_NOT_ACTIVE
