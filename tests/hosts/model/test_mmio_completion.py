# SPDX-License-Identifier: MIT
"""An access to a device is done once, also where its instruction is broken off behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.model.system import ModelSystem
from tests.hosts.model.both_hosts import on_kvm_and_model, ran
from tests.hosts.model.small_guest import SIZE, Services, after, guest
from tests.hosts.model.test_interrupts import HANDLER, SET_UP, set_up_controller, with_controllers

NOWHERE = 0x9000_0000
READ, WRITE = exits.MmioRead(NOWHERE, 4), exits.MmioWrite(NOWHERE, b"\4\3\2\1")
SOURCES = {
    "a read": f"inc %ebx; mov {NOWHERE:#x}, %eax; inc %ebx; jmp 1f; 1: hlt",
    "a write": f"mov $0x01020304, %eax; inc %ebx; mov %eax, {NOWHERE:#x}; inc %ebx; hlt",
    "a read and a write, first the one": (
        f"mov {NOWHERE:#x}, %eax; inc %ebx; mov %eax, {NOWHERE:#x}; inc %ebx; hlt"
    ),
    "read, change, write": f"addl $3, {NOWHERE:#x}; inc %ebx; hlt",
    "exchange": f"mov $0x01020304, %eax; xchg %eax, {NOWHERE:#x}; hlt",
    "to memory": f"mov ${NOWHERE:#x}, %esi; mov $0x10000, %edi; mov $4, %ecx; rep movsl; hlt",
    "from memory": f"mov $0x10000, %esi; mov ${NOWHERE:#x}, %edi; mov $4, %ecx; rep movsl; hlt",
    "onto the stack": f"push {NOWHERE:#x}; pop %eax; inc %ebx; hlt",
    "the same again and again": f"mov $5, %ecx; 1: mov {NOWHERE:#x}, %eax; loop 1b; hlt",
    "polling": f"1: mov {NOWHERE:#x}, %al; cmp $5, %al; jne 1b; inc %ebx; hlt",
}


def reads_and_writes(seen: tuple[exits.Exit, ...]) -> list[exits.Exit]:
    return [access for access in seen if isinstance(access, exits.MmioRead | exits.MmioWrite)]


@pytest.mark.parametrize("name", SOURCES)
def test_completing_changes_nothing(name: str) -> None:
    with ModelSystem() as model:
        plain = ran(model, SOURCES[name])
        completed = ran(model, SOURCES[name], complete=True)
    assert isinstance(plain.exits[-1], exits.Hlt)
    assert completed == plain


@pytest.mark.kvm
@pytest.mark.parametrize("name", SOURCES)
def test_it_is_what_kvm_does(name: str) -> None:
    kvm, model = on_kvm_and_model(SOURCES[name], complete=True)
    assert reads_and_writes(model.exits) == reads_and_writes(kvm.exits)
    assert model.data == kvm.data
    for register in ("rip", "rax", "rbx", "rcx", "rsp"):
        assert getattr(model.regs, register) == getattr(kvm.regs, register), register


def test_a_completed_instruction_is_behind_the_guest() -> None:
    with guest(f"nop; mov {NOWHERE:#x}, %eax; jmp 1f; 1: hlt") as v:
        assert v.run() == READ
        v.answer(b"\4\3\2\1")
        v.complete()
        regs = v.get_regs()
        assert (regs.rip, regs.rax) == (0x1006, 0x0102_0304)
        assert v.run() == exits.Hlt()


def test_completing_an_access_comes_back_though_the_guest_never_exits_again() -> None:
    with guest(f"1: inc %ebx; jmp 2f; .balign 64; 2: mov {NOWHERE:#x}, %eax; 3: jmp 3b") as v:
        assert v.run() == READ
        v.answer(b"\4\3\2\1")
        v.complete()
        regs = v.get_regs()
        assert (regs.rip, regs.rax, regs.rbx) == (0x1045, 0x0102_0304, 1)


def test_a_second_part_comes_after_completing_the_first() -> None:
    with guest(f"mov {NOWHERE + 2:#x}, %eax; hlt") as v:
        seen: list[exits.Exit] = []
        while isinstance(reason := v.run(), exits.MmioRead):
            seen.append(reason)
            v.answer(bytes((reason.gpa + i) & 0xFF for i in range(reason.size)))
            v.complete()
        assert len(seen) == len(set(seen))
        assert reason == exits.Hlt()
        assert v.get_regs().rax == 0x0504_0302


def test_interrupts_come_behind_an_instruction_that_has_not_been_broken_off() -> None:
    """CMPXCHG8B accesses memory in one go, where Unicorn does not look whether it is to stop."""
    services, controllers = with_controllers()
    wait = "1: test %ebx, %ebx; jz 1b; mov $0x11, %al; out %al, $0x80"
    source = f"mov ${SIZE + 0x4000:#x}, %edi; cmpxchg8b (%rdi); sti; {wait}"
    with guest(SET_UP + source + HANDLER, services) as v:
        set_up_controller(v)
        kick = after(20, v.kick)
        while isinstance(reason := v.run(), exits.MmioRead | exits.MmioWrite):
            if isinstance(reason, exits.MmioRead):
                v.answer(bytes(reason.size))
            v.complete()
            controllers.raise_line(1, True)
            kick.cancel()
            kick = after(20, v.kick)
        kick.cancel()
        assert v.get_regs().rbx == 1
        assert reason == exits.IoOut(0x80, 1, 1, b"\x11")


def test_what_was_broken_off_is_not_begun_again_elsewhere() -> None:
    """Registers are set behind a write; a later one of the same value is another write."""
    services = Services()
    source = f"mov %al, 0x9000; mov %al, {NOWHERE:#x}; 1: jmp 1b"
    with guest(source, services) as v:
        start = v.get_regs()
        kick = after(20, v.kick)
        for value in (0x11, 0, 0x22, 0x11, 0x22, 0):
            v.set_regs(replace(start, rax=value))
            assert v.run() == exits.MmioWrite(NOWHERE, bytes((value,)))
            services.memory.generation += 1
        kick.cancel()
