# SPDX-License-Identifier: MIT
"""PVH: the note, the entry state and what the guest finds in memory."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, GuestNeed
from pyvmm.hosts.registers import DescriptorTable, Regs
from pyvmm.memory.address_map import AddressMap, MemoryType
from pyvmm.memory.layout import COMMAND_LINE, GIB, MIB

from .images import (
    ENTRY,
    HLT,
    Segment,
    elf,
    multiboot_header,
    needs_note,
    note,
    private_note,
    pvh,
    pvh_note,
)
from .soundness import assert_sound
from .test_tables import decode_descriptor

LAYOUT = AddressMap.of(64 * MIB)


def memory_of(plan: BootPlan) -> dict[str, tuple[int, bytes]]:
    return {placement.what: (placement.gpa, bytes(placement.data)) for placement in plan.placements}


def bytes_at(plan: BootPlan, gpa: int, size: int) -> bytes:
    for placement in plan.placements:
        if placement.gpa <= gpa and gpa + size <= placement.gpa + len(placement.data):
            return bytes(placement.data[gpa - placement.gpa :][:size])
    raise AssertionError(f"nothing is placed at {gpa:#x}..{gpa + size:#x}")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("descriptor_size", [4, 8])
def test_entry_state_is_that_of_the_abi(bits: int, descriptor_size: int) -> None:
    image = elf(bits=bits, notes=pvh_note(size=descriptor_size), entry=0)
    plan = plan_boot(image, LAYOUT)
    assert plan.protocol is BootProtocol.PVH
    regs, sregs = plan.entry.regs, plan.entry.sregs
    assert regs == Regs(rip=ENTRY, rbx=regs.rbx, rflags=2)
    assert struct.unpack("<I", bytes_at(plan, regs.rbx, 4)) == (0x336EC578,)
    assert sregs.cr0 & ~0x10 == 1, "protection on, paging off"
    assert (sregs.cr4, sregs.efer, sregs.cr3) == (0, 0, 0)
    assert (sregs.cs.base, sregs.cs.limit, sregs.cs.type & 0xA) == (0, 0xFFFFFFFF, 0xA)
    assert (sregs.cs.db, sregs.cs.l, sregs.cs.s, sregs.cs.present) == (1, 0, 1, 1)
    for data in (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs):
        assert (data.base, data.limit, data.type & 0xA) == (0, 0xFFFFFFFF, 0x2)
        assert (data.db, data.s, data.present) == (1, 1, 1)
    assert (sregs.tr.base, sregs.tr.limit, sregs.tr.type, sregs.tr.s) == (0, 0x67, 11, 0)
    assert sregs.idt == DescriptorTable(0, 0)


def test_the_gdt_in_memory_matches_the_registers() -> None:
    plan = plan_boot(pvh(), LAYOUT)
    sregs = plan.entry.sregs
    gdt = bytes_at(plan, sregs.gdt.base, sregs.gdt.limit + 1)
    descriptors = struct.unpack(f"<{len(gdt) // 8}Q", gdt)
    assert descriptors[0] == 0
    for register in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr):
        assert decode_descriptor(descriptors[register.selector // 8], register.selector) == register


def test_start_info_memory_map_and_command_line() -> None:
    layout = AddressMap.of(4 * GIB)
    plan = plan_boot(pvh(), layout, b"console=ttyS0 \xff")
    info = struct.unpack("<4I4Q2I", bytes_at(plan, plan.entry.regs.rbx, 56))
    magic, version, flags, modules, modlist, command_line, rsdp, memory_map, entries, zero = info
    assert (magic, version, flags, modules, modlist, rsdp, zero) == (0x336EC578, 1, 0, 0, 0, 0, 0)
    assert bytes_at(plan, command_line, 16) == b"console=ttyS0 \xff\0"
    table = [
        struct.unpack("<QQII", bytes_at(plan, memory_map + 24 * i, 24)) for i in range(entries)
    ]
    assert table == [
        (0, 0x9FC00, MemoryType.RAM, 0),
        (0x9FC00, 0x60400, MemoryType.RESERVED, 0),
        (0x100000, 0xBFF00000, MemoryType.RAM, 0),
        (0x1_0000_0000, 0x4000_0000, MemoryType.RAM, 0),
    ]
    assert_sound(plan, layout)


def test_initrd_is_the_one_module() -> None:
    initrd = bytes(range(256)) * 20
    plan = plan_boot(pvh(), LAYOUT, initrd=initrd)
    start_info = bytes_at(plan, plan.entry.regs.rbx, 56)
    count, modlist = struct.unpack_from("<IQ", start_info, 12)
    assert count == 1
    gpa, size, command_line, zero = struct.unpack("<4Q", bytes_at(plan, modlist, 32))
    assert (gpa, size) == (64 * MIB - 0x2000, len(initrd))
    assert (command_line, zero) == (0, 0)
    assert bytes_at(plan, gpa, size) == initrd
    assert_sound(plan, LAYOUT)


def test_segments_go_to_their_physical_address_without_copies() -> None:
    image = pvh(
        segments=(
            Segment(0x300000, b"data", zeros=0x5000, virtual=0xFFFFFFFF80300000),
            Segment(ENTRY, HLT, virtual=0xFFFFFFFF80100000),
            Segment(0x400000, b"", zeros=0x1000),
        )
    )
    plan = plan_boot(image, LAYOUT)
    memory = memory_of(plan)
    assert memory["segment 1"] == (0x300000, b"data")
    assert memory["segment 2"] == (ENTRY, HLT)
    assert "segment 3" not in memory, "zero fill needs no placement"
    for placement in plan.placements:
        if placement.what.startswith("segment"):
            assert isinstance(placement.data, memoryview)
            assert placement.data.obj is image
    assert [p.gpa for p in plan.placements] == sorted(p.gpa for p in plan.placements)


def test_any_view_of_bytes_is_an_image() -> None:
    buffer = bytearray(pvh())
    plan = plan_boot(memoryview(buffer), LAYOUT)
    (segment,) = (p for p in plan.placements if p.what == "segment 1")
    assert isinstance(segment.data, memoryview)
    assert segment.data.readonly
    assert segment.data.obj is buffer
    assert bytes(segment.data) == HLT


@pytest.mark.parametrize(
    ("notes", "needs"),
    [
        (b"", None),
        (needs_note(0), GuestNeed(0)),
        (needs_note(1), GuestNeed.INTERRUPTS),
        (needs_note(0) + needs_note(1), GuestNeed.INTERRUPTS),
        (note(b"pyvmm", 3, b"\1\0\0\0"), None),
        (note(b"pyvmmm", 1, b"\1\0\0\0"), None),
    ],
)
def test_needs_note(notes: bytes, needs: GuestNeed | None) -> None:
    assert plan_boot(pvh(notes=pvh_note() + notes), LAYOUT).needs == needs
    assert plan_boot(pvh(notes=notes + pvh_note()), LAYOUT).needs == needs


def test_private_entry_note() -> None:
    plan = plan_boot(pvh(), LAYOUT)
    assert (plan.private_entry, plan.start_info) == (None, 0x6000)
    private = plan_boot(pvh(notes=pvh_note() + private_note(ENTRY)), LAYOUT)
    assert (private.private_entry, private.start_info) == (ENTRY, 0x6000)
    far = plan_boot(pvh(notes=pvh_note() + private_note(0x1_2345_6789)), LAYOUT)
    assert "0x123456789 lies in no loaded segment" in far.private_flaw
    assert (private.entry, private.placements[0]) == (plan.entry, plan.placements[0])


def test_other_notes_do_not_matter() -> None:
    others = (
        note(b"GNU", 1, bytes(16)) + note(b"GNU", 3, b"id") + note(b"Xen", 3, bytes(8))
        + note(b"Linux", 18, bytes(4)) + note(b"", 18, b"") + note(b"Xen", 6, b"linux\0")
    )  # fmt: skip
    plan = plan_boot(pvh(notes=others + pvh_note(0x100000) + bytes(8)), LAYOUT)
    assert plan.entry.regs.rip == 0x100000


def test_notes_aligned_to_eight() -> None:
    """A name of 6 bytes ends at 18: the descriptor is at 24, with an alignment of 4 at 20."""
    needs = note(b"pyvmm", 1, b"\1\0\0\0", align=8)
    notes = note(b"GNU", 5, b"12345", align=8) + needs + pvh_note(size=8, align=8)
    plan = plan_boot(pvh(notes=notes, note_align=8), LAYOUT)
    assert plan.protocol is BootProtocol.PVH
    assert plan.needs is GuestNeed.INTERRUPTS


def test_pvh_wins_over_multiboot() -> None:
    unbootable = multiboot_header(flags=1 << 3)
    assert plan_boot(pvh(multiboot=unbootable), LAYOUT).protocol is BootProtocol.PVH


def test_the_smallest_machine_and_the_longest_command_line() -> None:
    layout = AddressMap.of(2 * MIB)
    line = b"x" * 0xFFFF
    plan = plan_boot(pvh(), layout, line)
    assert bytes_at(plan, COMMAND_LINE, 0x10000) == line + b"\0"
    assert_sound(plan, layout)
