# SPDX-License-Identifier: MIT
"""A guest that reads or writes one byte where it is told to, and what its host makes of that."""

from __future__ import annotations

import ctypes
import errno
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from pyvmm.errors import SystemCallError
from pyvmm.hosts import exits, interface
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment

PAGE = 4096
GUEST_SLOT = 0
"""The slot of the guest's code and page tables, below the addresses that sequences use."""
_CODE = 0x1000
_TABLES = 0x2000
_SIZE = 0x5000
_READ = bytes.fromhex("8a07 e661 ebfe")
"""mov al, [rdi]; out 0x61, al; l: jmp l"""
_WRITE = bytes.fromhex("8807 e661 ebfe")
"""mov [rdi], al; out 0x61, al; l: jmp l"""
_WRITE_AT = _CODE + 0x100

MMIO = "MMIO"
PLAIN_FAULT = "EFAULT without an address"


class Guest(Protocol):
    """What touches guest memory from inside."""

    def touch(self, gpa: int, value: int | None) -> str:
        """Write `value`, one byte, at `gpa`, or read: what comes of it, in words."""
        ...

    def close(self) -> None:
        """Give it up; the VM stays."""
        ...


def told(exit_: exits.Exit) -> str:
    """An exit for an access to memory, in words."""
    match exit_:
        case exits.MemoryFault(gpa, size, flags, number):
            side = "private" if exits.MemoryFaultFlag.PRIVATE in flags else "shared"
            return f"MEMORY_FAULT {gpa:#x} {size} {side} {errno.errorcode[number]}"
        case exits.MmioRead() | exits.MmioWrite():
            return MMIO
        case _:
            return str(exit_)


class RunningGuest:
    """A vCPU in 64-bit mode at ring 3: hosts without hardware virtualization emulate ring 0."""

    def __init__(self, system: interface.System, vm: interface.Vm) -> None:
        with ExitStack() as owned:
            memory = owned.enter_context(system.map_anonymous(_SIZE))
            with memory.view() as view:
                view[_CODE : _CODE + len(_READ)] = _READ
                view[_WRITE_AT : _WRITE_AT + len(_WRITE)] = _WRITE
                for number, entry in enumerate((_TABLES + 0x1027, _TABLES + 0x2027, 0xE7)):
                    at = _TABLES + number * PAGE
                    view[at : at + 8] = entry.to_bytes(8, "little")
            vm.set_memslot(Memslot(GUEST_SLOT, 0, _SIZE, memory.hva))
            self._vcpu = owned.enter_context(vm.create_vcpu(0))
            self._vcpu.use_host_cpuid()
            code = Segment(0, 0xFFFF_FFFF, 0x1B, 11, 1, 3, 0, 1, 1, 1, 0, 0)
            data = replace(code, selector=0x23, type=3, l=0, db=1)
            sregs = replace(
                self._vcpu.get_sregs(),
                cs=code,
                ds=data,
                es=data,
                fs=data,
                gs=data,
                ss=data,
                cr0=Cr0.PG | Cr0.PE,
                cr3=_TABLES,
                cr4=Cr4.PAE,
                efer=Efer.LME | Efer.LMA,
            )
            self._vcpu.set_entry(Regs(rip=_CODE, rflags=0x3002), sregs)
            self._owned = owned.pop_all()

    def touch(self, gpa: int, value: int | None) -> str:
        """As `Guest.touch`."""
        rip = _CODE if value is None else _WRITE_AT
        self._vcpu.set_regs(Regs(rip=rip, rdi=gpa, rax=value or 0, rflags=0x3002))
        try:
            exit_ = self._vcpu.run()
        except SystemCallError as error:
            return PLAIN_FAULT if error.errno == errno.EFAULT else str(error)
        if isinstance(exit_, exits.IoOut):
            self._vcpu.complete()
            return "done" if value is not None else f"reads {exit_.data[0]:#04x}"
        if isinstance(exit_, exits.MmioRead):
            self._vcpu.answer(bytes(exit_.size))
        if isinstance(exit_, exits.MmioRead | exits.MmioWrite):
            self._vcpu.complete()
        return told(exit_)

    def close(self) -> None:
        """The vCPU goes, and the memory that it runs from."""
        self._owned.close()


class SpanGuest:
    """What a vCPU of the model does with an access, without a processor."""

    def __init__(self, system: interface.System, vm: interface.Vm) -> None:
        assert isinstance(vm, ModelVm)
        self._vm = vm
        vm.set_memslot(Memslot(GUEST_SLOT, 0, _SIZE, 0))
        vm.hold()

    def touch(self, gpa: int, value: int | None) -> str:
        """As `Guest.touch`."""
        memory = self._vm.memory
        while True:
            generation = memory.generation
            for span in memory.spans():
                if span.gpa <= gpa < span.gpa + span.size and (span.writable or value is None):
                    byte = ctypes.c_ubyte.from_address(span.address + gpa - span.gpa)
                    if value is None:
                        return f"reads {byte.value:#04x}"
                    byte.value = value
                    return "done"
            exit_ = memory.blocked(gpa, 1, value is not None)
            if exit_ is not None:
                return told(exit_)
            if memory.generation == generation:
                return MMIO

    def close(self) -> None:
        """The VM is held no longer."""
        self._vm.release()
