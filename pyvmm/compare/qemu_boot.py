# SPDX-License-Identifier: MIT
"""Boot protocol that QEMU's ``-kernel`` uses for an image, not always the one of pyvmm.

It looks for a Multiboot header before it looks for a PVH note, while pyvmm prefers the note; and of
Multiboot ELF files it takes 32-bit ones only (QEMU ``hw/i386/x86.c`` x86_load_linux,
``hw/i386/multiboot.c`` load_multiboot). So it is told before anything is started.
"""

from __future__ import annotations

from pyvmm.boot import elf
from pyvmm.boot.multiboot import HeaderFlag, find_header
from pyvmm.boot.plan import BootProtocol
from pyvmm.errors import UsageError

_HEADER_END = 8192 - 48
"""QEMU finds a Multiboot header that begins below this offset in the file."""
_MACHINE_OFFSET = 18
_EM_X86_64 = 62

REFUSALS = {
    "Cannot load x86-64 image": "it is an ELF file for x86-64 with a Multiboot header",
    "Error loading uncompressed kernel without PVH ELF Note": "QEMU finds no PVH note in it",
    "Error while loading elf kernel": "QEMU cannot load its ELF segments",
    "invalid load_addr address": "QEMU takes its Multiboot load address for wrong",
    "invalid header_addr address": "QEMU takes its Multiboot header address for wrong",
    "invalid load_end_addr address": "QEMU takes the end of its Multiboot load address for wrong",
    "invalid bss_end_addr address": "QEMU takes the end of its Multiboot bss for wrong",
    "invalid entry_addr address": "QEMU takes its Multiboot entry for wrong",
    "Some ROM regions are overlapping": "QEMU needs the place of one of its segments itself",
    "initrd is too large": "the initrd is larger than QEMU takes",
}
"""QEMU's messages on standard error when it refuses an image, each with its meaning."""


def qemu_protocol(image: bytes | memoryview, ours: BootProtocol, attempt: str) -> BootProtocol:
    """Return the protocol by which QEMU enters `image` (unpacked); pyvmm enters it by `ours`.

    Raises `UsageError` where it boots no such image; `attempt` is for its text.
    """
    view = memoryview(image)
    if ours is BootProtocol.FLAT:
        raise UsageError(
            attempt,
            "it is a flat image, which QEMU's -kernel does not boot",
            "make it an ELF with a PVH note or a Multiboot header",
        )
    header = find_header(view)
    if header is None or header.offset >= _HEADER_END:
        return BootProtocol.PVH
    machine = int.from_bytes(view[_MACHINE_OFFSET : _MACHINE_OFFSET + 2], "little")
    is_64_bit = bytes(view[:4]) == elf.MAGIC and machine == _EM_X86_64
    if is_64_bit and not header.flags & HeaderFlag.ADDRESSES:
        raise UsageError(
            attempt,
            "it is an ELF file for x86-64 with a Multiboot header, which QEMU's -kernel refuses, "
            "with or without a PVH note",
            "make it 32-bit (objcopy -O elf32-i386), or leave the Multiboot header out",
        )
    return BootProtocol.MULTIBOOT


def refusal(last_lines: str) -> str | None:
    """Explain, by QEMU's last lines, why it refused the image; None if it failed otherwise."""
    return next((why for said, why in REFUSALS.items() if said in last_lines), None)
