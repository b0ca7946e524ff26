# SPDX-License-Identifier: MIT
"""What the model's processor lacks: CPUID says so, and who uses it all the same is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.hosts import exits
from pyvmm.hosts.model.cpuid import answer
from tests.cli.command import pyvmm
from tests.hosts.model.small_guest import INTERRUPT_GATE, TO_LONG_MODE, Services, assemble, guest
from tests.hosts.model.test_interrupts import with_controllers

INVALID_OPCODE, GENERAL_PROTECTION = 6, 13
LOCAL_APIC, IO_APIC = 0xFEE0_0000, 0xFEC0_0000
ICR, VERSION, LVT_TIMER = 0x300, 0x30, 0x320
START_UP = 0x000C_4602
"""To all others, with vector 2."""

LACKING = {
    "AVX": "vaddps %ymm0, %ymm1, %ymm2",
    "AVX-512": "vpxord %zmm0, %zmm1, %zmm2",
    "SHA": "sha1nexte %xmm0, %xmm1",
    "XGETBV": "xor %ecx, %ecx; xgetbv",
    "XSETBV": "xor %ecx, %ecx; mov $7, %eax; xor %edx, %edx; xsetbv",
    "XSAVE": "xsave 0x7000",
    "MONITOR": "xor %ecx, %ecx; xor %edx, %edx; mov $0x7000, %eax; monitor",
    "INVPCID": "xor %eax, %eax; invpcid 0x7000, %rax",
    "VMRUN": "xor %eax, %eax; vmrun",
}
"""Instructions, with SSE enabled."""
ENABLE_SSE = "mov %cr4, %rax; or $0x600, %eax; mov %rax, %cr4\n"


def vector_of(source: str) -> int | None:
    """The exception that 64-bit code ends with; None: it ends."""
    vectors = (INVALID_OPCODE, GENERAL_PROTECTION)
    gates = "".join(
        f"mov ${vector}, %edi; lea handler{vector}(%rip), %esi; mov ${INTERRUPT_GATE}, %edx\n"
        "call set_gate\n"
        for vector in vectors
    )
    handlers = "".join(
        f"\nhandler{vector}: mov ${vector}, %al; out %al, $0x61; hlt" for vector in vectors
    )
    with guest(TO_LONG_MODE + gates + ENABLE_SSE + source + "\nhlt" + handlers) as v:
        match v.run():
            case exits.IoOut(0x61, 1, 1, data):
                return data[0]
            case exits.Hlt():
                return None
            case other:
                pytest.fail(str(other))


@pytest.mark.parametrize("name", LACKING)
def test_an_instruction_that_there_is_not_is_an_invalid_opcode(name: str) -> None:
    assert vector_of(LACKING[name]) == INVALID_OPCODE


def test_what_there_is_is_executed() -> None:
    assert vector_of("addps %xmm0, %xmm1; cmpxchg16b 0x7000") is None


def test_without_a_handler_it_is_a_triple_fault() -> None:
    with guest("vaddps %xmm0, %xmm1, %xmm2") as v:
        assert v.run() == exits.Shutdown()


def test_cpuid_tells_none_of_it() -> None:
    _, _, ecx, edx = answer(1, 0, 0)
    apic, ssse3, sse41, sse42, x2apic, aes, xsave, osxsave, avx = 9, 9, 19, 20, 21, 25, 26, 27, 28
    assert not edx >> apic & 1
    for bit in (ssse3, sse41, sse42, x2apic, aes, xsave, osxsave, avx):
        assert not ecx >> bit & 1, bit
    assert answer(7, 0, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize("msr", [0x802, 0x830])
def test_an_x2apic_register_is_a_protection_fault(msr: int) -> None:
    for access in ("rdmsr", "wrmsr"):
        assert vector_of(f"mov ${msr:#x}, %ecx; {access}") == GENERAL_PROTECTION


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (f"mov {LOCAL_APIC + LVT_TIMER:#x}, %eax", "local APIC at 0xfee00320"),
        (f"movl ${START_UP:#x}, {LOCAL_APIC + ICR:#x}", "local APIC at 0xfee00300"),
        (f"movl $1, {IO_APIC:#x}", "I/O APIC at 0xfec00000"),
    ],
    ids=["timer", "start-up IPI", "I/O APIC"],
)
def test_who_needs_an_apic_is_told_that_there_is_none(source: str, what: str) -> None:
    services, _ = with_controllers()
    with guest(source + "; hlt", services) as v:
        with pytest.raises(HostLacksError, match=what):
            v.run()


def test_without_controllers_these_places_are_the_monitors_as_on_kvm() -> None:
    with guest(f"mov {LOCAL_APIC + VERSION:#x}, %eax; hlt", Services()) as v:
        assert v.run() == exits.MmioRead(LOCAL_APIC + VERSION, 4)


def test_a_run_that_needs_an_apic_ends_with_one_line(tmp_path: Path) -> None:
    code = f"""
        cli; lgdtl %cs:pointer; mov %cr0, %eax; or $1, %eax; mov %eax, %cr0
        ljmpl $8, $protected
        .code32
    protected: mov $16, %eax; mov %eax, %ds
        movl ${START_UP:#x}, {LOCAL_APIC + ICR:#x}
    1:  jmp 1b
        .balign 8
    table: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    pointer: .word 23; .long table"""
    image = tmp_path / "apic.img"
    image.write_bytes(assemble(code, 16, 0x7C00))
    outcome = pyvmm("run", image, "--host", "model", "--irqchip", "on", "--timeout", "20")
    assert outcome.code == 69, outcome.err
    assert "local APIC at 0xfee00300" in outcome.err
    assert "Traceback" not in outcome.err
