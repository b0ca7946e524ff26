# SPDX-License-Identifier: MIT
"""Exceptions and software interrupts reach the guest's handlers as the processor delivers them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.model.reset_state import reset_registers
from pyvmm.hosts.model.vcpu import ModelVcpu
from tests.hosts.model.small_guest import (
    INTERRUPT_GATE,
    OPEN_GATE,
    STACK,
    TO_LONG_MODE,
    Services,
    after,
    assemble,
    guest,
)


def gate(vector: int, handler: str, flags: int = INTERRUPT_GATE) -> str:
    return f"mov ${vector}, %edi; lea {handler}(%rip), %esi; mov ${flags}, %edx; call set_gate\n"


def frame(services: Services, vcpu: ModelVcpu, words: int) -> list[int]:
    """What is on the stack, from RSP on."""
    at = vcpu.get_regs().rsp
    raw = services.memory.ram[at : at + 8 * words]
    return [int.from_bytes(raw[i : i + 8], "little") for i in range(0, 8 * words, 8)]


@pytest.mark.parametrize(
    ("vector", "instruction", "error_code", "flags"),
    [
        (0, "xor %ecx, %ecx; bad: div %ecx", None, 0x10000),
        (6, "bad: ud2", None, 0x10000),
        (13, "mov $0x1234, %eax; bad: mov %eax, %ds", 0x1234, 0x10000),
        (14, "mov $0x80000000, %eax; bad: mov (%rax), %eax", 0, 0x10000),
        (14, "mov $0x80000000, %eax; bad: mov %eax, (%rax)", 2, 0x10000),
        (13, "mov $0x12345, %ecx; bad: rdmsr", 0, 0x10000),
        (13, "mov $0xc0000080, %ecx; mov $-1, %eax; bad: wrmsr", 0, 0x10000),
        (3, "int3; bad:", None, 0),
        (33, "int $33; bad:", None, 0),
    ],
)
def test_frames(vector: int, instruction: str, error_code: int | None, flags: int) -> None:
    services = Services()
    source = TO_LONG_MODE + gate(vector, "handler") + f"{instruction}; hlt; handler: hlt"
    source += "\n.balign 8; .quad bad"
    with guest(source, services) as v:
        assert v.run() == exits.Hlt()
        code = assemble(source)
        bad = int.from_bytes(code[-8:], "little")
        regs = v.get_regs()
        words = frame(services, v, 6)
        if error_code is not None:
            assert words.pop(0) == error_code
        rip, cs, rflags, rsp, ss = words[:5]
        assert (rip, cs, rsp, ss) == (bad, 8, STACK, 0x10)
        assert rflags & 0x10000 == flags
        assert not regs.rflags & 0x10300


def test_a_page_fault_tells_its_address() -> None:
    source = (
        TO_LONG_MODE + gate(14, "handler") + "mov 0x123456789, %al; handler: mov %cr2, %rbx; hlt"
    )
    with guest(source) as v:
        assert v.run() == exits.Hlt()
        assert v.get_regs().rbx == 0x1_2345_6789


def test_the_handler_returns_to_the_instruction_and_it_is_tried_again() -> None:
    source = (
        TO_LONG_MODE
        + gate(14, "handler")
        + "mov $0x40000000, %eax; movl $5, (%rax); mov (%rax), %ebx; hlt\n"
        + "handler: movq $0x83, 0x21008; add $8, %rsp; iretq"
    )
    with guest(source) as v:
        assert v.run() == exits.Hlt()
        assert v.get_regs().rbx == 5


def test_ring_3_comes_in_through_an_open_gate_on_the_tasks_stack_and_goes_back() -> None:
    services = Services()
    source = (
        TO_LONG_MODE
        + gate(3, "handler", OPEN_GATE)
        + gate(13, "refused")
        + """
        orb $4, 0x20000; orb $4, 0x21000; orb $4, 0x22000
        mov %cr3, %rax; mov %rax, %cr3
        movl $0x9000, task + 4
        pushq $0x1b; pushq $0xa000; pushq $2; pushq $0x23; lea user(%rip), %rax; push %rax; iretq
user:   mov $1, %ebx; int3; mov $2, %ebx; int $0x20
handler: mov %rsp, %r9; mov %cs, %r10d; iretq
refused: hlt"""
    )
    with guest(source, services) as v:
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.rbx, regs.r9, regs.r10) == (2, 0x9000 - 40, 8)
        # INT 0x20 has no gate that is open to ring 3, nor any: #GP names the entry of the IDT.
        error, _, cs, _, rsp, ss = frame(services, v, 6)
        assert (error, cs, rsp, ss) == (0x20 * 8 + 2, 0x23, 0xA000, 0x1B)


def test_a_double_fault_has_its_own_stack() -> None:
    services = Services()
    source = (
        TO_LONG_MODE
        + gate(8, "handler", INTERRUPT_GATE | 1)
        + gate(14, "nobody")
        + """
        movl $0xb000, task + 0x24
        mov $0x80000000, %esp
        push %rax
nobody: ud2
handler: hlt"""
    )
    with guest(source, services) as v:
        assert v.run() == exits.Hlt()
        assert v.get_regs().rsp == 0xB000 - 48
        assert frame(services, v, 6)[0] == 0


def test_a_fault_on_the_double_faults_stack_is_a_triple_fault() -> None:
    source = (
        TO_LONG_MODE
        + gate(8, "handler", INTERRUPT_GATE | 1)
        + gate(14, "handler")
        + "movl $0x90000000, task + 0x24; mov $0x80000000, %esp; push %rax; handler: hlt"
    )
    with guest(source) as v:
        assert v.run() == exits.Shutdown()


def test_a_guest_that_loops_on_a_fault_can_be_kicked() -> None:
    source = TO_LONG_MODE + gate(6, "handler") + "again: ud2; handler: iretq"
    with guest(source) as v:
        timer = after(0.02, v.kick)
        assert v.run() == exits.Interrupted()
        timer.join()


def test_real_mode_goes_through_its_vectors() -> None:
    services = Services()
    code = assemble("cli; mov $0x7000, %sp; int $0x21; mov $2, %bx; hlt", 16)
    handler = assemble("mov $1, %cx; iret", 16, 0x2000)
    with guest("hlt", services) as v:
        services.memory.ram[0x1000 : 0x1000 + len(code)] = code
        services.memory.ram[0x2000 : 0x2000 + len(handler)] = handler
        services.memory.ram[0x84:0x88] = b"\x00\x20\x00\x00"
        regs, sregs = reset_registers(0)
        v.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
        v.set_regs(replace(regs, rip=0x1000))
        assert v.run() == exits.Hlt()
        ended = v.get_regs()
        assert (ended.rbx, ended.rcx, ended.rsp & 0xFFFF) == (2, 1, 0x7000)


def test_the_shadow_of_sti_lets_one_instruction_through() -> None:
    with guest("sti; hlt") as v:
        assert v.run() == exits.Hlt()
        assert v.get_regs().rflags & 0x200


def test_syscall_goes_where_the_registers_say_and_is_invalid_where_it_is_off() -> None:
    source = (
        TO_LONG_MODE
        + gate(6, "invalid")
        + """
        mov $0xc0000081, %ecx; xor %eax, %eax; mov $8, %edx; wrmsr
        mov $0xc0000082, %ecx; lea entry(%rip), %eax; xor %edx, %edx; wrmsr
        mov $0xc0000084, %ecx; mov $1, %eax; wrmsr
        syscall
invalid: mov $0xc0000080, %ecx; rdmsr; or $1, %eax; wrmsr
        inc %ebx; stc
        syscall; back:
        ud2
entry:  lea back(%rip), %rdx; setc %r8b; hlt"""
    )
    with guest(source) as v:
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.rbx, regs.rcx, regs.r8 & 0xFF, regs.r11 & 1) == (1, regs.rdx, 0, 1)
