# SPDX-License-Identifier: MIT
"""Machines that commands are tried on, without a server in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import Requester
from pyvmm.machine.events import MachineEvent
from pyvmm.machine.hardware import Hardware
from pyvmm.machine.machine import Machine
from pyvmm.machine.monitor.commands import execute
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import check
from pyvmm.qmp.command_table import commands
from pyvmm.qmp.event_names import QmpEvent, qmp_events
from pyvmm.qmp.served import Served
from tests.machine.guests import SPIN, bundled

HANG = 240.0
"""Seconds after which something counts as hung."""

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


class Asked:
    """A machine with what its commands share, and the events that were told."""

    def __init__(self, machine: Machine, nursery: trio.Nursery | None = None) -> None:
        self.told: list[QmpEvent] = []
        self.served = Served(
            machine,
            commands(),
            self.told.append,
            _nowhere if nursery is None else nursery.start_soon,
            partial(execute, machine, requester=Requester.QMP),
        )

    def hear(self, event: MachineEvent) -> None:
        self.told.extend(qmp_events(event))


def _nowhere(_task: object) -> None:
    raise AssertionError("a command that needs a nursery: use asked")


@asynccontextmanager
async def asked(machine: Machine) -> AsyncIterator[Asked]:
    """As a server has it, without clients."""
    async with trio.open_nursery() as nursery:
        one = Asked(machine, nursery)
        try:
            with machine.events.listen(one.hear):
                yield one
        finally:
            nursery.cancel_scope.cancel()


async def run(machine: Machine | Asked, name: str, /, **arguments: Any) -> Any:
    """Check `arguments` (with _ for -) and carry the command out, as the server does."""
    one = machine if isinstance(machine, Asked) else Asked(machine)
    command = commands()[name]
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    return await command.run(one.served, check(command.arguments, given))


@asynccontextmanager
async def spinning(
    host: HostChoice, memory: int = 4 * MIB, cpus: int = 1, hardware: Hardware | None = None
) -> AsyncIterator[Machine]:
    """A machine whose guest does nothing for ever, in real mode."""
    config = MachineConfig(SPIN, memory=memory, host=host, cpus=cpus, hardware=hardware)
    with trio.fail_after(HANG):
        async with open_machine(config) as machine:
            yield machine


@asynccontextmanager
async def hanging(host: HostChoice, memory: int = 16 * MIB) -> AsyncIterator[Machine]:
    """The bundled guest ``hang``, once it hangs: in 64-bit mode, with page tables."""
    console = Collector()
    config = MachineConfig(bundled("hang"), memory=memory, host=host)
    with trio.fail_after(HANG):
        async with open_machine(config, console) as machine:
            while b"hang" not in console.output.lower():
                await trio.sleep(0.001)
            yield machine


def drive(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    trio.run(main)
