# SPDX-License-Identifier: MIT
"""Images that others boot and pyvmm does not: known, so that the refusal can say what to do."""

from __future__ import annotations

import struct
from typing import NamedTuple

X86_MACHINES = (0x14C, 0x8664)
"""IMAGE_FILE_MACHINE_I386 and _AMD64 (Microsoft's PE format, "Machine types")."""
_MACHINES = {
    0x1C0: "32-bit Arm", 0x1C2: "32-bit Arm", 0xAA64: "arm64", 0x5032: "32-bit RISC-V",
    0x5064: "riscv64", 0x6232: "32-bit LoongArch", 0x6264: "loongarch64", 0x14C: "32-bit x86",
    0x8664: "x86-64",
}  # fmt: skip
_PE_OFFSET = 0x3C
_COFF = struct.Struct("<4sHH12xH2x")
"""Signature, machine, number of sections, size of the optional header."""
_SECTION = struct.Struct("<8s32x")
_MOST_SECTIONS = 96
"""As many as Windows loads; more than any image has."""
_KERNEL_MAGIC = 0x38
"""Offset of the magic in Linux's Image of two machines (``arch/arm64/kernel/head.S``)."""


class Foreign(NamedTuple):
    """Cause and remedy of an image's refusal."""

    cause: str
    remedy: str


_TO_X86 = "give a kernel for x86-64"
_FIXED = (
    (_KERNEL_MAGIC, b"ARM\x64", Foreign("it is Linux's Image for arm64", _TO_X86)),
    (_KERNEL_MAGIC, b"RSC\x05", Foreign("it is Linux's Image for RISC-V", _TO_X86)),
    (0, b"\x27\x05\x19\x56", Foreign("it is a U-Boot image (uImage)", "give what is in it")),
    (0, b"ANDROID!", Foreign("it is an Android boot image", "give the kernel that is in it")),
    (0, b"QFI\xfb", Foreign("it is a qcow2 disk", "give a kernel; a disk is for --disk")),
)
"""Offset, magic, and what to say."""


def foreign_kind(view: memoryview) -> Foreign | None:
    """Tell what the file is that begins with `view`; None for nothing that is known."""
    for offset, magic, foreign in _FIXED:
        if bytes(view[offset : offset + len(magic)]) == magic:
            return foreign
    machine = pe_machine(view)
    if machine is None:
        return None
    if b".linux" in _sections(view):
        return Foreign(
            "it is a unified kernel image (UKI), which EFI firmware boots",
            "give the .linux section (objcopy -O binary --only-section=.linux), and .initrd as "
            "--initrd",
        )
    return Foreign(
        f"it is an EFI program for {machine_name(machine)}, and there is no EFI firmware",
        "give the kernel itself",
    )


def pe_machine(view: memoryview) -> int | None:
    """The machine type of a PE file, None for a file that is none."""
    header = _coff(view)
    return None if header is None else header[1]


def machine_name(machine: int) -> str:
    """Name of a PE machine type, for messages."""
    return _MACHINES.get(machine, f"machine {machine:#x}")


def _coff(view: memoryview) -> tuple[int, int, int, int] | None:
    """Offset behind the COFF header, machine, number of sections, size of the optional header."""
    if bytes(view[:2]) != b"MZ" or len(view) < _PE_OFFSET + 4:
        return None
    (offset,) = struct.unpack_from("<I", view, _PE_OFFSET)
    if offset + _COFF.size > len(view):
        return None
    signature, machine, sections, optional = _COFF.unpack_from(view, offset)
    return (offset + _COFF.size, machine, sections, optional) if signature == b"PE\0\0" else None


def _sections(view: memoryview) -> set[bytes]:
    """Names of a PE file's sections, as far as they are in `view`."""
    header = _coff(view)
    if header is None:
        return set()
    offset, _, count, optional = header
    table = view[offset + optional :]
    whole = min(count, _MOST_SECTIONS, len(table) // _SECTION.size)
    names = _SECTION.iter_unpack(table[: whole * _SECTION.size])
    return {name.rstrip(b"\0") for (name,) in names}
