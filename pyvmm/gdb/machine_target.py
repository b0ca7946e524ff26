# SPDX-License-Identifier: MIT
"""A machine as what a session of GDB's works on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import trio

from pyvmm.gdb.registers import Values
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.registers import Cr4, Efer, Sregs
from pyvmm.machine.ending import Requester
from pyvmm.machine.machine import Machine
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_walk import linear_parts
from pyvmm.rules.abi import PAGE_SIZE

_TOP = 1 << 64


class MachineTarget:
    """`pyvmm.gdb.target.Target` of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def vcpus(self) -> int:
        """Number of vCPUs."""
        return len(self._machine.vcpus)

    async def read(self, vcpu: int) -> Values:
        """All registers. Raises `InternalError` where the guest has ended."""
        found = await self._machine.vcpus[vcpu].registers()
        return Values(found.regs, found.sregs, found.further)

    async def write(self, vcpu: int, values: Values) -> None:
        """Set general and special registers. Raises `SystemCallError` for what the host refuses."""

        def write(host_vcpu: Vcpu) -> None:
            # Setting general registers forgets an exception that is about to be delivered.
            if host_vcpu.get_regs() != values.regs:
                host_vcpu.set_regs(values.regs)
            if host_vcpu.get_sregs() != values.sregs:
                host_vcpu.set_sregs(values.sregs)

        await self._machine.vcpus[vcpu].call(write)

    async def read_memory(self, vcpu: int, address: int, size: int) -> bytes:
        """As many bytes from a linear address on as are mapped and shared, at most `size`."""
        sregs = (await self.read(vcpu)).sregs
        return await trio.to_thread.run_sync(partial(self._read, sregs, address, size))

    def _read(self, sregs: Sregs, address: int, size: int) -> bytes:
        memory = self._machine.memory
        found: list[bytes] = []
        for part in self._parts(sregs, address, size):
            data = None if part is None else memory.read(part.start, part.size)
            if data is None:
                break
            found.append(data)
        return b"".join(found)

    async def write_memory(self, vcpu: int, address: int, data: bytes) -> bool:
        """Write all of it, or nothing and give False."""
        sregs = (await self.read(vcpu)).sregs
        try:
            return await trio.to_thread.run_sync(partial(self._write, sregs, address, data))
        finally:
            for one in self._machine.vcpus:
                await one.call(lambda vcpu: vcpu.code_has_changed())

    def _write(self, sregs: Sregs, address: int, data: bytes) -> bool:
        if len(self._read(sregs, address, len(data))) != len(data):
            return False
        at = 0
        for part in self._parts(sregs, address, len(data)):
            if part is None or not self._machine.memory.write(
                part.start, data[at : at + part.size]
            ):
                return False
            at += part.size
        return True

    def _parts(self, sregs: Sregs, address: int, size: int) -> Iterator[GpaRange | None]:
        """Places of [address, address + size) in guest-physical memory, a page each; None: none."""
        end = min(address + size, _TOP)
        while address < end:
            length = min(end - address, PAGE_SIZE - address % PAGE_SIZE)
            if not _is_canonical(sregs, address):
                yield None
                return
            for part in linear_parts(self._machine.memory.read, sregs, address, length, length):
                yield None if part.gpa is None else part.range
            address += length

    async def set_breakpoint(self, address: int) -> None:
        """As `Control.set_breakpoint`."""
        await self._machine.control.set_breakpoint(address)

    async def clear_breakpoint(self, address: int) -> None:
        """Take it away, if it is there and the guest has not ended."""
        control = self._machine.control
        if address in control.breakpoints and control.ending is None:
            await control.clear_breakpoint(address)

    async def monitor(self, line: str, vcpu: int) -> str:
        """A line for the human monitor; gives its text."""
        from pyvmm.machine.monitor.commands import execute  # Few ask.

        return await execute(self._machine, line, vcpu, Requester.OWNER)


def _is_canonical(sregs: Sregs, address: int) -> bool:
    """Tell whether 64-bit paging translates `address` at all (SDM vol. 1, 3.3.7.1)."""
    if not sregs.efer & Efer.LMA:
        return True
    bits = 57 if sregs.cr4 & Cr4.LA57 else 48
    return address >> bits - 1 in (0, (1 << 65 - bits) - 1)
