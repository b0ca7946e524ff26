# SPDX-License-Identifier: MIT
"""A dump of a guest as an ELF64 core file: what stands where in it. Pure.

The shape is that of QEMU 7.2's ``dump-guest-memory``, for which gdb, crash and makedumpfile look: a
section header that says where nothing is, one PT_NOTE with NT_PRSTATUS of every vCPU and QEMU's own
CPU state of every vCPU, one PT_LOAD per piece of memory, the memory itself.

Sources: the ELF specification (gABI), ``struct elf_prstatus`` of Linux on x86-64, and for QEMU's
note ``struct QEMUCPUState`` (target/i386/arch_dump.c).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyvmm.hosts.registers import Regs, Segment, Sregs
from pyvmm.memory.mappings import LinearRun

NT_PRSTATUS = 1
QEMU_STATE_VERSION = 1

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_NOTE_HEADER = struct.Struct("<III")
_QEMU_SEGMENT = struct.Struct("<IIIIQ")
_ET_CORE = 4
_EM_X86_64 = 62
_PT_LOAD = 1
_PT_NOTE = 4
_PN_XNUM = 0xFFFF
"""A count of program headers that e_phnum cannot hold: it is in the first section header then."""
_SHT_STRTAB = 3
_SECTION_NAMES = b"\0.shstrtab\0"

_PRSTATUS_SIZE = 336
_PRSTATUS_PID = 32
_PRSTATUS_REGS = 112
_QEMU_STATE_SIZE = 440


@dataclass(frozen=True, slots=True)
class CoreVcpu:
    """One vCPU for the notes: `index` from 0; `kernel_gs_base` is 0 where nobody knows it."""

    index: int
    regs: Regs
    sregs: Sregs
    kernel_gs_base: int = 0


@dataclass(frozen=True, slots=True)
class CoreMemory:
    """A piece of memory: `size` bytes at guest-physical `gpa`.

    Without `present` the file says that the memory is there, and does not have its contents.
    """

    gpa: int
    size: int
    present: bool = True


@dataclass(frozen=True, slots=True)
class CoreContents:
    """`memory`, of which the file has the contents from byte `offset` on."""

    offset: int
    memory: CoreMemory


@dataclass(frozen=True, slots=True)
class CoreFile:
    """A laid out file: `head` comes first, then all `contents`, ascending and without gaps, then
    `tail`. `size` is that of all of it, in bytes."""

    head: bytes
    contents: tuple[CoreContents, ...]
    tail: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        contents = sum(one.memory.size for one in self.contents)
        return len(self.head) + contents + len(self.tail)


def core_file(
    vcpus: Sequence[CoreVcpu],
    memory: Sequence[CoreMemory],
    mapped: Sequence[LinearRun] | None = None,
    *,
    vmcoreinfo: bytes | None = None,
    qemu_notes: bool = True,
) -> CoreFile:
    """Lay out the dump of a guest in this state; `memory` ascends and does not overlap.

    `vmcoreinfo` is what a Linux kernel says of itself (Documentation/admin-guide/kdump). Without
    it, debuggers for kernels refuse a file that has `qemu_notes`.

    Memory is at its guest-physical addresses; with `mapped` it is where that says, and memory that
    nothing maps is in the file without being anywhere.
    """
    if mapped is None:
        mapped = [LinearRun(piece.gpa, piece.gpa, piece.size) for piece in memory]
    segments = _segments(memory, mapped)
    # All of the first kind, then all of the second, as QEMU has them.
    notes = b"".join(_note(b"CORE", NT_PRSTATUS, _prstatus(vcpu)) for vcpu in vcpus)
    if qemu_notes:
        notes += b"".join(_note(b"QEMU", 0, _qemu_state(vcpu)) for vcpu in vcpus)
    if vmcoreinfo is not None:
        notes += _note(b"VMCOREINFO", 0, vmcoreinfo)
    sections_at = _FILE_HEADER.size
    programs_at = sections_at + 2 * _SECTION_HEADER.size
    programs = 1 + len(segments)
    notes_at = programs_at + programs * _PROGRAM_HEADER.size
    at = notes_at + len(notes)
    offsets: list[int] = []
    for piece in memory:
        offsets.append(at)
        at += piece.size if piece.present else 0
    headers = [_PROGRAM_HEADER.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)]
    for linear, gpa, size, index in segments:
        piece = memory[index]
        offset = offsets[index] + (gpa - piece.gpa if piece.present else 0)
        there = size if piece.present else 0
        headers.append(_PROGRAM_HEADER.pack(_PT_LOAD, 0, offset, linear, gpa, there, size, 0))
    many = programs >= _PN_XNUM
    first_section = _SECTION_HEADER.pack(0, 0, 0, 0, 0, 0, 0, programs if many else 0, 0, 0)
    names = _SECTION_HEADER.pack(1, _SHT_STRTAB, 0, 0, at, len(_SECTION_NAMES), 0, 0, 0, 0)
    file_header = _FILE_HEADER.pack(
        b"\x7fELF\x02\x01\x01", _ET_CORE, _EM_X86_64, 1, 0, programs_at, sections_at, 0,
        _FILE_HEADER.size, _PROGRAM_HEADER.size, _PN_XNUM if many else programs,
        _SECTION_HEADER.size, 2, 1,
    )  # fmt: skip
    return CoreFile(
        b"".join((file_header, first_section, names, *headers, notes)),
        tuple(
            CoreContents(offset, piece)
            for offset, piece in zip(offsets, memory, strict=True)
            if piece.present
        ),
        _SECTION_NAMES,
    )


def _segments(
    memory: Sequence[CoreMemory], mapped: Iterable[LinearRun]
) -> list[tuple[int, int, int, int]]:
    """`mapped` cut where pieces of memory meet: linear, gpa, size, index of the piece."""
    starts = [piece.gpa for piece in memory]
    found: list[tuple[int, int, int, int]] = []
    for run in mapped:
        end = run.gpa + run.size
        index = max(bisect_right(starts, run.gpa) - 1, 0)
        while index < len(memory) and memory[index].gpa < end:
            first = max(run.gpa, memory[index].gpa)
            last = min(end, memory[index].gpa + memory[index].size)
            if first < last:
                found.append((run.linear + first - run.gpa, first, last - first, index))
            index += 1
    return found


def _note(owner: bytes, kind: int, content: bytes) -> bytes:
    name = owner + b"\0"
    return (
        _NOTE_HEADER.pack(len(name), len(content), kind)
        + name.ljust(-(-len(name) // 4) * 4, b"\0")
        + content.ljust(-(-len(content) // 4) * 4, b"\0")
    )


def _prstatus(vcpu: CoreVcpu) -> bytes:
    """``struct elf_prstatus``: the vCPU's number for a thread's, and ``user_regs_struct``."""
    regs, sregs = vcpu.regs, vcpu.sregs
    values = (
        regs.r15, regs.r14, regs.r13, regs.r12, regs.rbp, regs.rbx, regs.r11, regs.r10,
        regs.r9, regs.r8, regs.rax, regs.rcx, regs.rdx, regs.rsi, regs.rdi,
        0,  # orig_rax
        regs.rip, sregs.cs.selector, regs.rflags, regs.rsp, sregs.ss.selector,
        sregs.fs.base, sregs.gs.base,
        sregs.ds.selector, sregs.es.selector, sregs.fs.selector, sregs.gs.selector,
    )  # fmt: skip
    status = bytearray(_PRSTATUS_SIZE)
    struct.pack_into("<I", status, _PRSTATUS_PID, vcpu.index + 1)
    struct.pack_into(f"<{len(values)}Q", status, _PRSTATUS_REGS, *values)
    return bytes(status)


def _qemu_state(vcpu: CoreVcpu) -> bytes:
    """``struct QEMUCPUState``, version 1."""
    regs, sregs = vcpu.regs, vcpu.sregs
    general = (
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp,
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        regs.rip, regs.rflags,
    )  # fmt: skip
    segments = (
        sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.ldt, sregs.tr,
        Segment(sregs.gdt.base, sregs.gdt.limit), Segment(sregs.idt.base, sregs.idt.limit),
    )  # fmt: skip
    control = (sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4)
    return b"".join(
        (
            struct.pack("<II", QEMU_STATE_VERSION, _QEMU_STATE_SIZE),
            struct.pack(f"<{len(general)}Q", *general),
            *(
                _QEMU_SEGMENT.pack(one.selector, one.limit, one.descriptor_flags, 0, one.base)
                for one in segments
            ),
            struct.pack("<5Q", *control),
            struct.pack("<Q", vcpu.kernel_gs_base),
        )
    )
