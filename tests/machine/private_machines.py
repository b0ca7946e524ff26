# SPDX-License-Identifier: MIT
"""Machines with private memory, beside which a test talks to the guest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pyvmm import bundled_guests
from pyvmm.machine.config import HostChoice, ImplicitPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import RunResult
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.vcpu_thread import Allow
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import memory_of, ram_of

from .guests import bundled
from .mailbox import Mailbox

BOTH_BACKINGS = (PrivateBacking.TWO_SIDED, PrivateBacking.IN_PLACE)
"""Ways to convert, of which a kernel has one, and the model each."""
HANG = 300.0
"""Seconds after which a guest counts as hung; the lab's processor is an emulated one."""


def config(
    program: str,
    command_line: str = "",
    *,
    expected: bytes | None = None,
    window: int = 16 * PAGE_SIZE,
    implicit: ImplicitPolicy = ImplicitPolicy.HONOUR,
    memory: int = 16 * MIB,
    cpus: int = 1,
    backing: PrivateBacking = PrivateBacking.AUTO,
    host: HostChoice = HostChoice.AUTO,
) -> MachineConfig:
    """A machine with private memory for a bundled guest."""
    return MachineConfig(
        bundled(program),
        command_line=command_line.encode(),
        memory=memory,
        cpus=cpus,
        timeout=HANG,
        host=host,
        private=PrivateConfig(bundled_guests.firmware(), expected, window, implicit, backing),
    )


@dataclass(frozen=True)
class Talk:
    """A running guest that has opened its mailbox."""

    machine: Machine
    console: Collector
    mailbox: Mailbox

    @property
    def memory(self) -> GuestMemory:
        return memory_of(self.machine)

    async def ask(self, command: str, *arguments: int) -> int:
        """Have the guest do ``MAIL_`` `command` (guest/include/mailbox.h)."""
        return await self.mailbox.ask(command, *arguments)

    async def take(self, size: int) -> int:
        """The GPA of `size` bytes that the guest has no other use for, aligned to 2 MiB."""
        gpa = await self.ask("TAKE", size)
        assert gpa
        return gpa

    def file_offset(self, gpa: int) -> int:
        """Where `gpa` is in the host's mapping, and in the guest_memfd."""
        offset = ram_of(self.machine).address_map.file_offset(gpa, PAGE_SIZE)
        assert offset is not None
        return offset

    def shared_is_there(self, gpa: int) -> bool:
        """Whether the shared side holds memory for a page, asked of the kernel."""
        return bool(ram_of(self.machine).mapping.resident(self.file_offset(gpa), PAGE_SIZE))

    def private_is_there(self, gpa: int) -> bool:
        """Whether the private side does."""
        file = ram_of(self.machine).guest_memfd
        assert file is not None
        return bool(file.resident(self.file_offset(gpa), PAGE_SIZE))


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    result: RunResult
    output: str


async def _mailbox(machine: Machine, console: Collector) -> Mailbox:
    """The guest's mailbox; fails at once where the guest ends without one."""
    found: list[Mailbox] = []
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            found.append(await Mailbox.of(memory_of(machine), console))
            nursery.cancel_scope.cancel()

        nursery.start_soon(look)
        ending = (await machine.control.wait()).ending
        if not found:
            said = console.output.decode(errors="replace")
            raise AssertionError(f"the guest ended without a mailbox: {ending}\n{said}")
        nursery.cancel_scope.cancel()
    return found[0]


def talk(
    machine_config: MachineConfig,
    conversation: Callable[[Talk], Awaitable[None]],
    allow: Allow | None = None,
) -> Ended:
    """Run a guest that has a mailbox, beside `conversation`, to its end."""
    console = Collector()

    async def whole() -> RunResult:
        with trio.fail_after(HANG):
            async with open_machine(machine_config, console, allow=allow) as machine:
                mailbox = await _mailbox(machine, console)
                await conversation(Talk(machine, console, mailbox))
                return await machine.control.wait()

    return Ended(trio.run(whole), console.output.decode())
