# SPDX-License-Identifier: MIT
"""Machines that commands are tried on, without a server in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.machine import Machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import Command, check
from tests.machine.guests import SPIN, bundled

HANG = 240.0
"""Seconds after which something counts as hung."""

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


async def run(commands: tuple[Command, ...], machine: Machine, name: str, **arguments: Any) -> Any:
    """Check `arguments` (with _ for -) and carry the command out, as the server does."""
    command = next(one for one in commands if one.name == name)
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    return await command.run(machine, check(command.arguments, given))


@asynccontextmanager
async def spinning(
    host: HostChoice, memory: int = 4 * MIB, cpus: int = 1
) -> AsyncIterator[Machine]:
    """A machine whose guest does nothing for ever, in real mode."""
    config = MachineConfig(SPIN, memory=memory, host=host, cpus=cpus)
    with trio.fail_after(HANG):
        async with Machine(config) as machine:
            yield machine


@asynccontextmanager
async def hanging(host: HostChoice, memory: int = 16 * MIB) -> AsyncIterator[Machine]:
    """The bundled guest ``hang``, once it hangs: in 64-bit mode, with page tables."""
    console = Collector()
    config = MachineConfig(bundled("hang"), memory=memory, host=host)
    with trio.fail_after(HANG):
        async with Machine(config, console) as machine:
            while b"hang" not in console.output.lower():
                await trio.sleep(0.001)
            yield machine


def drive(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    trio.run(main)
