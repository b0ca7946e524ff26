# SPDX-License-Identifier: MIT
"""Memory, registers and address spaces as lines: the forms that QEMU 7.2 prints."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pyvmm.hosts.registers import (
    Cr0,
    DescriptorTable,
    Efer,
    FpuRegs,
    FurtherRegs,
    Regs,
    Segment,
    Sregs,
)
from pyvmm.machine.monitor.expressions import Base, Format, LineError
from pyvmm.machine.monitor.memory_lines import MOST_BYTES, memory_lines
from pyvmm.machine.monitor.memory_tree import (
    AddressSpace,
    TreeEntry,
    TreeKind,
    controller_entries,
    flat_lines,
    region_entries,
    tree_lines,
)
from pyvmm.machine.monitor.register_lines import VcpuRegisters, register_lines
from pyvmm.memory.address_map import AddressMap, RangeKind
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.memory.regions import MemoryRegion

MEMORY = bytes.fromhex("04000000 04000000 12000000 58656e00 50001000 06000000 08000000 27 5c 0a 80")
START = 0x10_0000


def read(address: int, size: int) -> bytes | None:
    at = address - START
    return MEMORY[at : at + size] if at >= 0 and at + size <= len(MEMORY) else None


# What QEMU 7.2 printed of the same bytes.
FORMS = [
    (Format(4, Base.HEXADECIMAL, 4),
     ["0000000000100000: 0x00000004 0x00000004 0x00000012 0x006e6558"]),
    (Format(4, Base.HEXADECIMAL, 1), ["0000000000100000: 0x04 0x00 0x00 0x00"]),
    (Format(3, Base.SIGNED, 8),
     ["0000000000100000:          17179869188    31073676069699602",
      "0000000000100010:          25770852432"]),
    (Format(5, Base.OCTAL, 2), ["0000000000100000:     04      0     04      0    022"]),
    (Format(5, Base.UNSIGNED, 1), ["0000000000100000:   4   0   0   0   4"]),
    (Format(2, Base.SIGNED, 4), ["0000000000100000:          4          4"]),
    (Format(3, Base.CHARACTER, 4),
     [r"0000000000100000: '\x04' '\x00' '\x00' '\x00' '\x04' '\x00' '\x00' '\x00' "
      r"'\x12' '\x00' '\x00' '\x00'"]),
    (Format(0, Base.HEXADECIMAL, 4), []),
]  # fmt: skip


@pytest.mark.parametrize(("format_", "lines"), FORMS)
def test_memory(format_: Format, lines: list[str]) -> None:
    assert list(memory_lines(START, format_, read)) == lines


def test_characters_that_need_an_escape() -> None:
    (line,) = memory_lines(START + 28, Format(4, Base.CHARACTER, 1), read)
    assert line == r"000000000010001c: '\'' '\\' '\n' '\x80'"


def test_signed_numbers_of_8_bytes_alone_are_negative() -> None:
    def minus_one(_address: int, size: int) -> bytes:
        return b"\xff" * size

    assert list(memory_lines(0, Format(1, Base.SIGNED, 8), minus_one)) == [
        "0000000000000000:                   -1"
    ]
    assert list(memory_lines(0, Format(1, Base.SIGNED, 4), minus_one)) == [
        "0000000000000000: 4294967295"
    ]


def test_memory_ends_where_it_cannot_be_read() -> None:
    lines = list(memory_lines(START + 16, Format(12, Base.HEXADECIMAL, 4), read))
    assert lines[-1] == "0000000000100020: Cannot access memory"
    assert len(lines) == 2
    top = (1 << 64) - 8
    assert list(
        memory_lines(top, Format(4, Base.HEXADECIMAL, 4), lambda _at, size: bytes(size))
    ) == [f"{top:016x}: Cannot access memory"]


def test_one_command_prints_so_much_and_no_more() -> None:
    most = Format(MOST_BYTES, Base.HEXADECIMAL, 1)
    assert len(list(memory_lines(0, most, lambda _at, size: bytes(size)))) == MOST_BYTES // 8
    with pytest.raises(LineError, match="too many"):
        list(memory_lines(0, replace(most, count=MOST_BYTES + 1), read))


# -- registers --

CODE = Segment(limit=0xFFFF_FFFF, selector=8, type=11, present=1, s=1, l=1, g=1)
DATA = Segment(limit=0xFFFF_FFFF, selector=16, type=3, present=1, s=1, db=1, g=1)
LONG = Sregs(
    cs=CODE, ds=DATA, es=DATA, fs=DATA, gs=DATA, ss=DATA,
    tr=Segment(0x10E000, 0x67, 0x28, 11, 1),
    ldt=Segment(limit=0xFFFF, type=2, present=1),
    gdt=DescriptorTable(0x108000, 0x37),
    idt=DescriptorTable(0x10E200, 0x2FF),
    cr0=0x80010011, cr3=0x102000, cr4=0x20, efer=0x500,
)  # fmt: skip
REGS = Regs(
    rax=8, rbx=0xF31E0, rcx=0x100F40, rdx=0x3F8, rdi=0x100F40, rsp=0x10CFD0,
    r8=0x3FD, r9=0x3F8, r10=8, r11=8, rip=0x100438,
)  # fmt: skip
FPU = FpuRegs((bytes(16),) * 8, 0x37F, 0, 0, (bytes(16),) * 16, 0x1F80)
FURTHER = FurtherRegs(dr=(0, 0, 0, 0, 0xFFFF_0FF0, 0x400), fpu=FPU)

OF_QEMU_ON_KVM = """\
CPU#0
RAX=0000000000000008 RBX=00000000000f31e0 RCX=0000000000100f40 RDX=00000000000003f8
RSI=0000000000000000 RDI=0000000000100f40 RBP=0000000000000000 RSP=000000000010cfd0
R8 =00000000000003fd R9 =00000000000003f8 R10=0000000000000008 R11=0000000000000008
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=0000000000000000
RIP=0000000000100438 RFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
CS =0008 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]
SS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
DS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
FS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
GS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]
LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT
TR =0028 000000000010e000 00000067 00008b00 DPL=0 TSS64-busy
GDT=     0000000000108000 00000037
IDT=     000000000010e200 000002ff
CR0=80010011 CR2=0000000000000000 CR3=0000000000102000 CR4=00000020
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000{space}
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000500
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
"""


def test_registers_of_a_64_bit_guest_are_as_qemu_prints_them() -> None:
    lines = list(register_lines(VcpuRegisters(0, REGS, LONG, FURTHER)))
    # DR3 has a space behind it, which no editor leaves there.
    assert lines[:22] == OF_QEMU_ON_KVM.format(space=" ").splitlines()
    assert len(lines) == 21 + 4 + 8
    assert lines[-1] == (
        "XMM14=0000000000000000 0000000000000000 XMM15=0000000000000000 0000000000000000"
    )


OF_QEMU_IN_32_BITS = """\
CPU#1
EAX=000f49f6 EBX=00000000 ECX=000002ff EDX=00000001
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00006c5c
EIP=000fd09a EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0010 00000000 ffffffff 00c09300 DPL=0 DS   [-WA]
CS =0008 00000000 ffffffff 00c09b00 DPL=0 CS32 [-RA]
SS =0010 00000000 ffffffff 00c09300 DPL=0 DS   [-WA]
DS =0010 00000000 ffffffff 00c09300 DPL=0 DS   [-WA]
FS =0010 00000000 ffffffff 00c09300 DPL=0 DS   [-WA]
GS =0010 00000000 ffffffff 00c09300 DPL=0 DS   [-WA]
LDT=0000 00000000 0000ffff 00008200 DPL=0 LDT
TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy
GDT=     000f6180 00000037
IDT=     000f61be 00000000
CR0=00000011 CR2=00000000 CR3=00000000 CR4=00000000
EFER=0000000000000000
"""


def test_registers_of_a_32_bit_guest_are_as_qemu_prints_them() -> None:
    sregs = replace(
        LONG,
        cs=replace(CODE, l=0, db=1),
        tr=Segment(limit=0xFFFF, type=11, present=1),
        gdt=DescriptorTable(0xF6180, 0x37),
        idt=DescriptorTable(0xF61BE, 0),
        cr0=int(Cr0.PE | Cr0.ET),
        cr3=0,
        cr4=0,
        efer=0,
    )
    regs = Regs(rax=0xF49F6, rcx=0x2FF, rdx=1, rsp=0x6C5C, rip=0xFD09A)
    vcpu = VcpuRegisters(1, regs, sregs, FurtherRegs(halted=True))
    assert "\n".join(register_lines(vcpu)) + "\n" == OF_QEMU_IN_32_BITS


def test_flags_and_segments_of_all_kinds() -> None:
    def line(name: str, sregs: Sregs) -> str:
        vcpu = VcpuRegisters(0, replace(REGS, rflags=0xCD7), sregs, FURTHER)
        return next(one for one in register_lines(vcpu) if one.startswith(f"{name:<3}="))

    assert "[DOSZAPC]" in line("RIP", LONG)
    expand_down = replace(LONG, ds=replace(DATA, type=6, dpl=3))
    assert line("DS", expand_down).endswith("DPL=3 DS   [EW-]")
    # Without its D bit a segment is of 16 bits, but not in long mode.
    assert line("ES", replace(LONG, es=replace(DATA, db=0))).endswith("DS   [-WA]")
    assert line("ES", replace(LONG, es=replace(DATA, db=0), efer=0)).endswith("DS16 [-WA]")
    assert line("CS", replace(LONG, cs=replace(CODE, type=12))).endswith("CS64 [C--]")
    assert line("FS", replace(LONG, fs=Segment())).endswith(" 00000000")
    assert line("GS", replace(LONG, gs=replace(DATA, unusable=1))).endswith(" 00c01300")


def test_names_of_registers() -> None:
    names = VcpuRegisters(0, REGS, LONG, FURTHER).names()
    assert names["rip"] == names["eip"] == names["pc"] == 0x100438
    assert names["rax"] == names["eax"] == 8
    assert (names["r8"], names["cs"], names["eflags"]) == (0x3FD, 8, 2)
    real = replace(LONG, cs=Segment(base=0xFFFF_0000), efer=int(Efer.LME))
    assert VcpuRegisters(0, Regs(rip=0xFFF0), real, FURTHER).names()["pc"] == 0xFFFF_FFF0


# -- address spaces --

SPACES = (
    AddressSpace(
        "memory", "system", 1 << 64,
        (
            TreeEntry(GpaRange(1 << 32, 5 << 30), TreeKind.RAM, "ram-above-4g", ("m.ram", 3 << 30)),
            TreeEntry(GpaRange(0, 3 << 30), TreeKind.RAM, "ram-below-4g", ("m.ram", 0)),
            TreeEntry(GpaRange(0xC000_0000, 0xC020_0000), TreeKind.RAM, "shared window"),
            TreeEntry(GpaRange(0xFEC0_0000, 0xFEC0_1000), TreeKind.DEVICE, "ioapic"),
        ),
    ),
    AddressSpace(
        "I/O", "io", 1 << 16, (TreeEntry(GpaRange(0x70, 0x72), TreeKind.DEVICE, "rtc"),)
    ),
)  # fmt: skip


def test_what_the_tree_has_of_an_address_map() -> None:
    address_map = AddressMap.of(4 * GIB, window=2 * MIB, controllers=True)
    window = address_map.slot(RangeKind.WINDOW)
    regions = [MemoryRegion(one.slot, one.range, True, "RAM") for one in address_map.ram]
    regions.append(MemoryRegion(window.slot, window.range, False, "shared window"))
    below, above = address_map.ram
    assert list(region_entries(address_map, regions)) == [
        TreeEntry(below.range, TreeKind.RAM, "ram-below-4g", ("pyvmm.ram", 0)),
        TreeEntry(above.range, TreeKind.RAM, "ram-above-4g", ("pyvmm.ram", 3 * GIB)),
        TreeEntry(window.range, TreeKind.RAM, "shared window"),
    ]
    assert [(one.range.start, one.name) for one in controller_entries(address_map)] == [
        (0xFEC0_0000, "ioapic"),
        (0xFEE0_0000, "apic"),
    ]
    assert list(controller_entries(AddressMap.of(4 * GIB))) == []


def test_tree() -> None:
    assert list(tree_lines(SPACES)) == [
        "address-space: memory",
        "  0000000000000000-ffffffffffffffff (prio 0, i/o): system",
        "    0000000000000000-00000000bfffffff (prio 0, ram): alias ram-below-4g "
        "@m.ram 0000000000000000-00000000bfffffff",
        "    00000000c0000000-00000000c01fffff (prio 0, ram): shared window",
        "    00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic",
        "    0000000100000000-000000013fffffff (prio 0, ram): alias ram-above-4g "
        "@m.ram 00000000c0000000-00000000ffffffff",
        "",
        "address-space: I/O",
        "  0000000000000000-000000000000ffff (prio 0, i/o): io",
        "    0000000000000070-0000000000000071 (prio 0, i/o): rtc",
        "",
        "memory-region: m.ram",
        "  0000000000000000-00000000ffffffff (prio 0, ram): m.ram",
        "",
    ]


def test_flat_view() -> None:
    lines = list(flat_lines(SPACES))
    assert lines[:3] == ["FlatView #0", ' AS "memory", root: system', " Root memory region: system"]
    assert lines[3] == "  0000000000000000-00000000bfffffff (prio 0, ram): m.ram"
    assert lines[6].endswith("(prio 0, ram): m.ram @00000000c0000000")
    assert all(re.match(r"|  [0-9a-f]{16}-|FlatView| AS| Root", line) for line in lines)
