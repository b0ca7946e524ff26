# SPDX-License-Identifier: MIT
"""The exits of the model's vCPUs are those that KVM gives for the same code."""

from __future__ import annotations

import time

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts import exits
from pyvmm.hosts.model.address_space import Span
from tests.hosts.model.small_guest import SIZE, TO_LONG_MODE, Services, after, guest

NOWHERE = 0x9000_0000


def test_ports_of_all_sizes() -> None:
    with guest("mov $0x11223344, %eax; out %al, $0x80; out %ax, $0x80; out %eax, $0x80; hlt") as v:
        assert v.run() == exits.IoOut(0x80, 1, 1, b"\x44")
        assert v.run() == exits.IoOut(0x80, 2, 1, b"\x44\x33")
        assert v.run() == exits.IoOut(0x80, 4, 1, b"\x44\x33\x22\x11")
        assert v.run() == exits.Hlt()


def test_what_a_port_answers_is_read_and_only_its_bytes_change() -> None:
    with guest("mov $-1, %eax; in $0x80, %al; mov %eax, %ebx; in $0x80, %eax; hlt") as v:
        assert v.run() == exits.IoIn(0x80, 1, 1)
        with pytest.raises(InternalError):
            v.answer(b"ab")
        v.answer(b"\x5a")
        with pytest.raises(InternalError):
            v.answer(b"\x5a")
        assert v.run() == exits.IoIn(0x80, 4, 1)
        v.answer(b"\x01\x02\x03\x04")
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.rbx, regs.rax) == (0xFFFF_FF5A, 0x0403_0201)


def test_flags_survive_a_port_access() -> None:
    with guest("xor %eax, %eax; cmp $1, %eax; out %al, $0x80; jc 1f; ud2; 1: hlt") as v:
        assert v.run() == exits.IoOut(0x80, 1, 1, b"\0")
        v.complete()
        assert v.run() == exits.Hlt()


def test_string_output_gives_all_bytes_in_order() -> None:
    source = 'mov $text, %esi; mov $5, %ecx; mov $0xe9, %edx; rep outsb; hlt; text: .ascii "hello"'
    with guest(source) as v:
        data = b""
        while isinstance(reason := v.run(), exits.IoOut):
            data += reason.data
        assert (data, reason) == (b"hello", exits.Hlt())
        assert v.get_regs().rcx == 0


def test_devices_in_memory() -> None:
    source = f"mov {NOWHERE:#x}, %eax; add $1, %eax; mov %ax, {NOWHERE + 8:#x}; hlt"
    with guest(source) as v:
        assert v.run() == exits.MmioRead(NOWHERE, 4)
        v.answer(b"\xff\x00\x00\x00")
        assert v.run() == exits.MmioWrite(NOWHERE + 8, b"\x00\x01")
        assert v.run() == exits.Hlt()


def test_an_instruction_that_reads_and_writes_a_device_does_each_once() -> None:
    with guest(f"addl $3, {NOWHERE:#x}; hlt") as v:
        assert v.run() == exits.MmioRead(NOWHERE, 4)
        v.answer(b"\x04\0\0\0")
        assert v.run() == exits.MmioWrite(NOWHERE, b"\x07\0\0\0")
        assert v.run() == exits.Hlt()


def test_a_device_access_across_two_pages_reads_every_byte() -> None:
    with guest(f"mov {NOWHERE + 0xFFE:#x}, %eax; hlt") as v:
        while isinstance(reason := v.run(), exits.MmioRead):
            v.answer(bytes((reason.gpa + i) & 0xFF for i in range(reason.size)))
        assert reason == exits.Hlt()
        assert v.get_regs().rax == 0x0100_FFFE


def test_a_write_to_read_only_memory_is_a_device_access_and_reads_are_not() -> None:
    services = Services()
    memory = services.memory
    memory.ram[0x50000:0x50004] = b"\x11\x22\x33\x44"
    memory.set_spans(
        Span(0, 0x50000, memory.address, True),
        Span(0x50000, 0x1000, memory.address + 0x50000, False),
    )
    with guest("mov 0x50000, %ebx; mov %eax, 0x50000; mov 0x50000, %ecx; hlt", services) as v:
        assert v.run() == exits.MmioWrite(0x50000, bytes(4))
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.rbx, regs.rcx) == (0x4433_2211, 0x4433_2211)
    assert memory.ram[0x50000:0x50004] == b"\x11\x22\x33\x44"


def test_a_memory_fault_is_tried_again_until_it_succeeds() -> None:
    services = Services()
    memory = services.memory
    fault = exits.MemoryFault(0x40000, 0x1000, exits.MemoryFaultFlag.PRIVATE, 14)
    memory.on_blocked = lambda gpa, size, write: fault
    memory.set_spans(Span(0, 0x40000, memory.address, True))
    with guest("movl $7, 0x40010; mov 0x40010, %ebx; hlt", services) as v:
        assert v.run() == fault
        assert v.run() == fault
        memory.set_spans(Span(0, SIZE, memory.address, True))
        assert v.run() == exits.Hlt()
        assert v.get_regs().rbx == 7


def test_memory_that_goes_away_during_an_exit_is_gone_for_the_rest_of_the_block() -> None:
    services = Services()
    memory = services.memory
    fault = exits.MemoryFault(0x40000, 0x1000, exits.MemoryFaultFlag(0), 14)
    memory.on_blocked = lambda gpa, size, write: fault
    with guest("mov 0x40000, %ebx; out %al, $0x80; movl $7, 0x40000; hlt", services) as v:
        assert v.run() == exits.IoOut(0x80, 1, 1, b"\0")
        memory.set_spans(Span(0, 0x40000, memory.address, True))
        assert v.run() == fault
    assert memory.ram[0x40000:0x40004] == bytes(4)


@pytest.mark.parametrize("spans", [1, 2, 3])
@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ("out %al, $0x10", exits.IoOut(0x10, 1, 1, b"\x07")),
        ("in $0x10, %al", exits.IoIn(0x10, 1, 1)),
        ("movb $7, 0x3ff00000", exits.MmioWrite(0x3FF0_0000, b"\x07")),
    ],
    ids=["out", "in", "mmio"],
)
def test_memory_that_no_page_table_maps_goes_away_during_an_exit_and_nothing_faults(
    access: str, expected: exits.Exit, spans: int
) -> None:
    """Nor does CR2 change: Unicorn looks such memory up as if its GPA were a linear address."""
    services = Services()
    memory = services.memory
    unmapped = [Span(number << 30, SIZE, memory.address, True) for number in (1, 2, 3)][:spans]
    memory.set_spans(*memory.spans(), *unmapped)
    source = f"""
        mov $0x1234, %ecx; mov %rcx, %cr2; mov $7, %eax; out %al, $0x20
        {access}
        mov 0x2000, %ebx; mov %cr2, %rcx; hlt"""
    with guest(TO_LONG_MODE + f"movl $0x3fe00083, 0x22ff8; {source}", services) as v:
        assert v.run() == exits.IoOut(0x20, 1, 1, b"\x07")
        # The first change only has the spans mapped in pieces from now on.
        memory.set_spans(*memory.spans())
        assert v.run() == expected
        memory.set_spans(memory.spans()[0])
        if isinstance(expected, exits.IoIn):
            v.answer(b"\x05")
        assert v.run() == exits.Hlt()
        assert v.get_regs().rcx == 0x1234


def test_a_fault_behind_an_exit_during_which_memory_went_away_is_what_it_is() -> None:
    services = Services()
    memory = services.memory
    memory.set_spans(*memory.spans(), Span(1 << 30, SIZE, memory.address, True))
    source = (
        TO_LONG_MODE
        + "mov $14, %edi; lea handler(%rip), %esi; mov $0x8e00, %edx; call set_gate\n"
        + "out %al, $0x20; out %al, $0x10; mov 0x123456789, %al\n"
        + "handler: mov %cr2, %rbx; out %al, $0x30; hlt"
    )
    with guest(source, services) as v:
        assert isinstance(v.run(), exits.IoOut)
        memory.set_spans(*memory.spans())
        assert isinstance(v.run(), exits.IoOut)
        memory.set_spans(memory.spans()[0])
        reason = v.run()
        assert isinstance(reason, exits.IoOut)
        assert reason.port == 0x30
        assert v.get_regs().rbx == 0x1_2345_6789


def test_a_jump_into_nowhere_cannot_be_emulated() -> None:
    with guest(f"mov ${NOWHERE:#x}, %eax; jmp *%eax") as v:
        reason = v.run()
        assert isinstance(reason, exits.KvmInternalError)
        assert reason.suberror == 1
        assert v.get_regs().rip == NOWHERE


def test_an_exception_without_a_handler_is_a_triple_fault() -> None:
    for source in ("ud2", "xor %ecx, %ecx; div %ecx", "int $0x80", "int3"):
        with guest(source) as v:
            assert v.run() == exits.Shutdown(), source


def test_hypercalls_that_nobody_takes_get_kvms_answers() -> None:
    source = """
    mov $99, %eax; vmcall; mov %eax, %edi
    mov $1, %eax; vmmcall; mov %eax, %ebp
    mov $12, %eax; vmmcall; hlt"""
    with guest(source) as v:
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.rdi, regs.rbp, regs.rax & 0xFFFF_FFFF) == (
            -1000 & 0xFFFF_FFFF,
            0,
            -1000 & 0xFFFF_FFFF,
        )


def test_a_hypercall_that_exits_is_answered_in_rax() -> None:
    services = Services()
    services.hypercall_exits = 1 << 12
    source = (
        TO_LONG_MODE
        + """
    mov $12, %eax; mov $0x5000, %ebx; mov $3, %ecx; mov $0x10, %edx; vmmcall; mov %rax, %r8
    mov $12, %eax; xor %ecx, %ecx; vmcall; hlt"""
    )
    with guest(source, services) as v:
        assert v.run() == exits.Hypercall(12, (0x5000, 3, 0x10, 0, 0, 0), True)
        v.answer_hypercall(-22 & (1 << 64) - 1)
        assert v.run() == exits.Hlt()
        regs = v.get_regs()
        assert (regs.r8, regs.rax) == (-22 & (1 << 64) - 1,) * 2


def test_posted_ports_end_no_run_and_keep_their_order() -> None:
    services = Services()
    services.posts.writes.add(0xE9)
    services.posts.reads[0x3FD] = 0x60
    services.posts.room = 2
    again = "inc %eax; out %al, $0xe9;"
    source = f"mov $0x3fd, %edx; in %dx, %al; out %al, $0xe9; {again} {again} hlt"
    with guest(source, services) as v:
        assert v.run() == exits.PostedFull()
        assert services.posts.ring == [(0xE9, 0x60), (0xE9, 0x61)]
        services.posts.room = 9
        assert v.run() == exits.Hlt()
        assert services.posts.ring[2:] == [(0xE9, 0x62)]
        assert v.exit_counts() == {"POSTED_READ": 1, "POSTED_WRITE": 3, "HLT": 1}


@pytest.mark.parametrize("loop", ["1: jmp 1b", "1: pause; jmp 1b", "1: inc %eax; jnz 1b; jmp 1b"])
def test_a_kick_ends_a_tight_loop(loop: str) -> None:
    with guest(loop) as v:
        timer = after(0.01, v.kick)
        assert v.run() == exits.Interrupted()
        timer.join()
        regs = v.get_regs()
        assert 0x1000 <= regs.rip < 0x1010


def test_a_kick_before_a_run_counts_once() -> None:
    with guest("hlt") as v:
        v.kick()
        v.kick()
        assert v.run() == exits.Interrupted()
        assert v.run() == exits.Hlt()


def test_complete_finishes_an_access_and_keeps_the_exit_after_it() -> None:
    with guest("mov $1, %ebx; out %al, $0x80; mov $2, %ebx; jmp 1f; 1: mov $3, %ebx; hlt") as v:
        assert v.run() == exits.IoOut(0x80, 1, 1, b"\0")
        v.complete()
        assert v.get_regs().rbx == 2
        assert v.run() == exits.Hlt()
        assert v.get_regs().rbx == 3


def test_an_exit_that_a_completion_came_to_outlasts_a_kick() -> None:
    with guest("out %al, $0x80; out %al, $0x81; hlt") as v:
        assert v.run() == exits.IoOut(0x80, 1, 1, b"\0")
        v.complete()
        v.kick()
        assert v.run() == exits.Interrupted()
        assert v.run() == exits.IoOut(0x81, 1, 1, b"\0")
        assert v.run() == exits.Hlt()


def test_closing_in_the_middle_of_an_access_ends_the_threads() -> None:
    with guest("1: in $0x80, %al; jmp 1b") as v:
        assert v.run() == exits.IoIn(0x80, 1, 1)
    v.close()
    with pytest.raises(InternalError):
        v.run()
    v.kick()


def test_records_of_exits_fold_what_repeats() -> None:
    with guest("mov $3, %ecx; 1: out %al, $0x80; loop 1b; hlt") as v:
        while v.run() != exits.Hlt():
            behind = time.monotonic_ns()
        assert 0 < v.recent_exits()[0].when <= behind
        assert behind <= v.recent_exits()[1].when <= time.monotonic_ns()
        assert [str(record) for record in v.recent_exits()] == ["IO 0x80/1 <- 0x0 x3", "HLT"]
        assert v.exit_counts() == {"IO": 3, "HLT": 1}
