# SPDX-License-Identifier: MIT
"""Loops in 64-bit mode, on a vCPU of the model and on an instance of Unicorn's own Python class.

Both execute the same bytes, at the same addresses, through the same page tables.
"""

from __future__ import annotations

import enum
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError
from pyvmm.hosts.exits import Hlt, Interrupted
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment, Sregs
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

_MEMORY = 64 * MIB
_TABLES = 0x1000
_CODE = 0x10000
_DATA = 32 * MIB
_DATA_SIZE = 16 * MIB
_BIG_PAGE = 2 * MIB
_CR0 = Cr0.PG | Cr0.PE | Cr0.NE | Cr0.ET | Cr0.WP
_WARM_UP_TURNS = 1000


@dataclass(frozen=True, slots=True)
class _Code:
    """A loop that ends when RCX is 0; the last byte is HLT."""

    code: bytes
    instructions: int
    """In one turn."""


_COUNTING = _Code(bytes.fromhex("4883e901 75fa f4"), 2)
"""l: sub rcx, 1; jnz l; hlt"""
_TOUCHING = _Code(bytes.fromhex("488b043b 4801c8 4889043b 4801d7 4821f7 4883e901 75ea f4"), 7)
"""l: mov rax, [rbx + rdi]; add rax, rcx; mov [rbx + rdi], rax; add rdi, rdx; and rdi, rsi;
sub rcx, 1; jnz l; hlt"""


class Loop(enum.Enum):
    """What is measured; the values are in the subjects' names."""

    COUNTING = "counting"
    """Registers only."""
    TOUCHING = "touching"
    """A read and a write of every 64th byte of 16 MiB, again and again."""
    STRIDING = "striding"
    """The same for every 4160th byte: a page that the last turn did not touch."""

    @property
    def what(self) -> str:
        """What it does, in words."""
        return {
            "counting": "counts down a register",
            "touching": "reads and writes every 64th byte of 16 MiB",
            "striding": "reads and writes another page of 16 MiB at each turn",
        }[self.value]

    @property
    def code(self) -> _Code:
        """The instructions."""
        return _COUNTING if self is Loop.COUNTING else _TOUCHING

    @property
    def turns(self) -> int:
        """How many take a third of a second or two thirds, of CPU time."""
        return {"counting": 160_000_000, "touching": 12_000_000, "striding": 4_000_000}[self.value]

    def regs(self, turns: int) -> Regs:
        """On entry, for so many turns."""
        step = 4096 + 64 if self is Loop.STRIDING else 64
        return Regs(rip=_CODE, rcx=turns, rbx=_DATA, rdi=0, rsi=_DATA_SIZE - 1, rdx=step)

    def check(self, turns: int, rcx: int, rdi: int) -> None:
        """Whether it has really run to its end. Raises `CannotRunError`."""
        regs = self.regs(turns)
        expected = 0 if self is Loop.COUNTING else turns * regs.rdx & regs.rsi
        if rcx or rdi != expected:
            raise CannotRunError(f"the guest's loop ({self.value}) ended with {rcx=:#x}, {rdi=:#x}")


Run = Callable[[int], Sample]
"""Runs a loop for so many turns."""


def _timed(loop: Loop, turns: int, run: Callable[[], object]) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    millions = turns * loop.code.instructions / 1e6
    return {
        "million_instructions_per_s": millions / wall,
        "cpu_per_million_us": cpu / millions * 1e6,
    }


def _tables() -> bytes:
    """The first 64 MiB one to one, in pages of 2 MiB: PML4, PDPT, PD."""
    upper = [_TABLES + PAGE_SIZE | 3, _TABLES + 2 * PAGE_SIZE | 3]
    pages = [gpa | 0x83 for gpa in range(0, _MEMORY, _BIG_PAGE)]
    lowest = struct.pack(f"<{len(pages)}Q", *pages)
    return b"".join(entry.to_bytes(8, "little").ljust(PAGE_SIZE, b"\0") for entry in upper) + lowest


def _sregs(before: Sregs) -> Sregs:
    code = Segment(0, 0xFFFF_FFFF, 0x08, type=11, present=1, s=1, l=1, g=1)
    data = replace(code, selector=0x10, type=3, l=0, db=1)
    return replace(
        before,
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        cr0=_CR0,
        cr3=_TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )


@contextmanager
def on_model(loop: Loop) -> Iterator[Run]:
    """A vCPU of the model that can run `loop`, through the host API."""
    with ExitStack() as stack:
        system = stack.enter_context(ModelSystem())
        vm = stack.enter_context(system.create_vm())
        ram = stack.enter_context(system.map_anonymous(_MEMORY))
        vm.set_memslot(Memslot(slot=0, gpa=0, size=_MEMORY, hva=ram.hva))
        with ram.view() as view:
            for gpa, data in ((_TABLES, _tables()), (_CODE, loop.code.code)):
                view[gpa : gpa + len(data)] = data
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.set_sregs(_sregs(vcpu.get_sregs()))

        def run(turns: int) -> Sample:
            vcpu.set_regs(loop.regs(turns))
            sample = _timed(loop, turns, lambda: _run(vcpu))
            regs = vcpu.get_regs()
            loop.check(turns, regs.rcx, regs.rdi)
            return sample

        run(_WARM_UP_TURNS)
        yield run


def _run(vcpu: ModelVcpu) -> None:
    reason = vcpu.run()
    while isinstance(reason, Interrupted):
        reason = vcpu.run()
    if reason != Hlt():
        raise CannotRunError(f"the guest stopped for {reason}")


@contextmanager
def on_unicorn(loop: Loop) -> Iterator[Run]:
    """A bare `unicorn.Uc` that can run `loop`."""
    unicorn: Any = import_module("unicorn")  # Its annotations are not complete.
    x86: Any = import_module("unicorn.x86_const")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(0, _MEMORY)
    uc.mem_write(_TABLES, _tables())
    uc.mem_write(_CODE, loop.code.code)
    uc.reg_write(x86.UC_X86_REG_CR4, int(Cr4.PAE))
    uc.reg_write(x86.UC_X86_REG_CR3, _TABLES)
    uc.reg_write(x86.UC_X86_REG_CR0, int(_CR0))
    end = _CODE + len(loop.code.code) - 1

    def run(turns: int) -> Sample:
        regs = loop.regs(turns)
        for register, value in (
            (x86.UC_X86_REG_RCX, regs.rcx),
            (x86.UC_X86_REG_RBX, regs.rbx),
            (x86.UC_X86_REG_RDI, regs.rdi),
            (x86.UC_X86_REG_RSI, regs.rsi),
            (x86.UC_X86_REG_RDX, regs.rdx),
        ):
            uc.reg_write(register, value)
        sample = _timed(loop, turns, lambda: uc.emu_start(_CODE, end))
        loop.check(turns, uc.reg_read(x86.UC_X86_REG_RCX), uc.reg_read(x86.UC_X86_REG_RDI))
        return sample

    run(_WARM_UP_TURNS)
    yield run
