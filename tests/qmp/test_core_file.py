# SPDX-License-Identifier: MIT
"""The layout of a core: what pyelftools reads out of it is what was put in."""

from __future__ import annotations

import io
import struct

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.hosts.registers import DescriptorTable, Regs, Segment, Sregs
from pyvmm.memory.mappings import LinearRun
from pyvmm.qmp.core_file import CoreFile, CoreMemory, CoreVcpu, core_file

PAGE = 4096
USER_REGS = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi"
QEMU_REGS = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"
NUMBERS = {name: 0x1111 * (1 + index) for index, name in enumerate(Regs.__slots__)}
REGS = Regs(**NUMBERS)
CODE = Segment(base=0, limit=0xFFFF_FFFF, selector=8, type=11, present=1, s=1, l=1, g=1)
SREGS = Sregs(
    cs=CODE,
    ss=Segment(selector=16, type=3, present=1, s=1, db=1, g=1, dpl=3),
    fs=Segment(base=0xF5F5, selector=24),
    gs=Segment(base=0x6565, selector=32),
    tr=Segment(base=0x7070, limit=0x67, selector=40, type=11, present=1),
    ldt=Segment(base=0x1D1D, selector=48, type=2, present=1),
    gdt=DescriptorTable(0x500, 0x37),
    idt=DescriptorTable(0x600, 0xFFF),
    cr0=0x8000_0011,
    cr2=2,
    cr3=0x3000,
    cr4=0x20,
)


def memory(gpa: int, size: int) -> bytes:
    """What is at `gpa`: every 4 bytes are their own address, so that no two are alike."""
    first = gpa // 4 * 4
    words = (at // 4 & 0xFFFF_FFFF for at in range(first, gpa + size, 4))
    whole = b"".join(word.to_bytes(4, "little") for word in words)
    return whole[gpa - first : gpa - first + size]


def written(laid_out: CoreFile) -> io.BytesIO:
    """The whole file."""
    data = bytearray(laid_out.size)
    data[: len(laid_out.head)] = laid_out.head
    for one in laid_out.contents:
        gpa, size = one.memory.gpa, one.memory.size
        data[one.offset : one.offset + size] = memory(gpa, size)
    data[laid_out.size - len(laid_out.tail) :] = laid_out.tail
    return io.BytesIO(data)


def loads(file: io.BytesIO) -> list[tuple[int, int, int, bytes]]:
    """Every PT_LOAD: linear, gpa, size in memory, contents."""
    return [
        (one["p_vaddr"], one["p_paddr"], one["p_memsz"], one.data())
        for one in ELFFile(file).iter_segments("PT_LOAD")
    ]


def test_memory_is_where_the_headers_say() -> None:
    pieces = [CoreMemory(0, 2 * PAGE), CoreMemory(1 << 32, PAGE)]
    file = written(core_file([CoreVcpu(0, REGS, SREGS)], pieces))
    assert loads(file) == [
        (0, 0, 2 * PAGE, memory(0, 2 * PAGE)),
        (1 << 32, 1 << 32, PAGE, memory(1 << 32, PAGE)),
    ]
    elf = ELFFile(file)
    assert (elf["e_type"], elf["e_machine"], elf.elfclass) == ("ET_CORE", "EM_X86_64", 64)
    assert [section.name for section in elf.iter_sections()] == ["", ".shstrtab"]


def test_what_the_host_cannot_see_is_there_without_contents() -> None:
    pieces = [CoreMemory(0, PAGE), CoreMemory(PAGE, PAGE, present=False), CoreMemory(9 * PAGE, 100)]
    laid_out = core_file([], pieces)
    assert loads(written(laid_out)) == [
        (0, 0, PAGE, memory(0, PAGE)),
        (PAGE, PAGE, PAGE, b""),
        (9 * PAGE, 9 * PAGE, 100, memory(9 * PAGE, 100)),
    ]
    assert laid_out.size == len(laid_out.head) + PAGE + 100 + len(laid_out.tail)


def test_mapped_memory_is_in_the_file_once_and_shown_as_often_as_it_is_mapped() -> None:
    pieces = [CoreMemory(0, 4 * PAGE), CoreMemory(8 * PAGE, PAGE, present=False)]
    mapped = [
        LinearRun(0x7000_0000, PAGE, PAGE),
        LinearRun(0xFFFF_8000_0000_0000, 3 * PAGE, 6 * PAGE),
        LinearRun(0x1000, 1 << 40, PAGE),
    ]
    laid_out = core_file([], pieces, mapped)
    assert loads(written(laid_out)) == [
        (0x7000_0000, PAGE, PAGE, memory(PAGE, PAGE)),
        (0xFFFF_8000_0000_0000, 3 * PAGE, PAGE, memory(3 * PAGE, PAGE)),
        (0xFFFF_8000_0000_0000 + 5 * PAGE, 8 * PAGE, PAGE, b""),
    ]
    assert len(laid_out.contents) == 1


def test_notes_hold_every_register_where_gdb_and_crash_look() -> None:
    vcpus = [CoreVcpu(0, REGS, SREGS, 0xABCD), CoreVcpu(1, Regs(rip=0x77), SREGS)]
    file = written(core_file(vcpus, [CoreMemory(0, PAGE)]))
    (segment,) = ELFFile(file).iter_segments("PT_NOTE")
    notes = [(note["n_name"], note["n_descdata"]) for note in segment.iter_notes()]
    assert [(name, len(data)) for name, data in notes] == [
        ("CORE", 336), ("CORE", 336), ("QEMU", 440), ("QEMU", 440),
    ]  # fmt: skip
    status = notes[0][1]
    status = status if isinstance(status, bytes) else status.encode("latin-1")
    assert struct.unpack_from("<I", status, 32) == (1,)
    # struct user_regs_struct, in its order.
    found = struct.unpack_from("<27Q", status, 112)
    assert list(found[:15]) == [NUMBERS[name] for name in USER_REGS.split()]
    assert found[16:23] == (
        NUMBERS["rip"], 8, NUMBERS["rflags"], NUMBERS["rsp"], 16, 0xF5F5, 0x6565,
    )  # fmt: skip
    assert found[23:] == (0, 0, 24, 32)
    second = notes[1][1]
    second = second if isinstance(second, bytes) else second.encode("latin-1")
    assert struct.unpack_from("<I", second, 32) == (2,)
    assert struct.unpack_from("<Q", second, 112 + 16 * 8) == (0x77,)


def test_qemus_note_is_qemus() -> None:
    head = core_file([CoreVcpu(0, REGS, SREGS, 0xABCD)], []).head
    state = head[-440:]
    assert struct.unpack_from("<II", state) == (1, 440)
    assert list(struct.unpack_from("<18Q", state, 8)) == [
        NUMBERS[name] for name in QEMU_REGS.split()
    ]
    assert struct.unpack_from("<IIIIQ", state, 152) == (8, 0xFFFF_FFFF, 0x00A0_9B00, 0, 0)
    stack = struct.unpack_from("<IIIIQ", state, 152 + 5 * 24)
    assert stack[:3] == (16, 0, 0x00C0_F300)
    ldt, task = (struct.unpack_from("<IIIIQ", state, 152 + at * 24) for at in (6, 7))
    assert ldt == (48, 0, 0x8200, 0, 0x1D1D)
    assert task == (40, 0x67, 0x8B00, 0, 0x7070)
    assert struct.unpack_from("<IIIIQ", state, 152 + 8 * 24) == (0, 0x37, 0, 0, 0x500)
    assert struct.unpack_from("<6Q", state, 152 + 240) == (0x8000_0011, 0, 2, 0x3000, 0x20, 0xABCD)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans()), max_size=8),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.integers(1, 20)), max_size=8),
)
def test_every_mapping_shows_what_is_at_its_gpa(
    layout: list[tuple[int, int, bool]], mappings: list[tuple[int, int, int]]
) -> None:
    pieces: list[CoreMemory] = []
    at = 0
    for pages, gap, present in layout:
        at += gap * PAGE
        pieces.append(CoreMemory(at, pages * PAGE, present))
        at += pages * PAGE
    mapped = [LinearRun(v * PAGE, g * PAGE, size * PAGE) for v, g, size in mappings]
    shown = loads(written(core_file([], pieces, mapped)))
    for linear, gpa, size, data in shown:
        assert any(
            run.linear <= linear and run.gpa - run.linear == gpa - linear
            and linear + size <= run.linear + run.size
            for run in mapped
        )  # fmt: skip
        piece = next(one for one in pieces if one.gpa <= gpa < one.gpa + one.size)
        assert gpa + size <= piece.gpa + piece.size
        assert data == (memory(gpa, size) if piece.present else b"")
    covered = sum(size for _linear, _gpa, size, _data in shown)
    overlap = sum(
        max(0, min(run.gpa + run.size, one.gpa + one.size) - max(run.gpa, one.gpa))
        for run in mapped
        for one in pieces
    )
    assert covered == overlap


@pytest.mark.slow
def test_more_segments_than_the_header_can_count() -> None:
    pieces = [CoreMemory(0, PAGE)]
    count = 0x1_0000
    mapped = [LinearRun(index * PAGE, 0, PAGE) for index in range(count)]
    head = core_file([], pieces, mapped).head
    (number,) = struct.unpack_from("<H", head, 56)
    (info,) = struct.unpack_from("<I", head, 64 + 44)
    assert (number, info) == (0xFFFF, count + 1)
    assert len(head) == 64 + 2 * 64 + (count + 1) * 56


@pytest.mark.parametrize("size", [PAGE, 100])
def test_sizes_add_up(size: int) -> None:
    laid_out = core_file([CoreVcpu(0, REGS, SREGS)], [CoreMemory(0, size)])
    assert laid_out.contents[0].offset == len(laid_out.head)
    assert laid_out.size == len(laid_out.head) + size + len(laid_out.tail)
