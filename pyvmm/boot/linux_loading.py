# SPDX-License-Identifier: MIT
"""Loading a Linux bzImage by its boot protocol, in long or protected mode (boot.rst)."""

from __future__ import annotations

from pyvmm.boot import elf
from pyvmm.boot.claims import BootData, Claim, Kernel, claim_of
from pyvmm.boot.compression import Compression, compression_of
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.linux_header import LinuxHeader, version_text
from pyvmm.boot.long_mode import PAGE_TABLES_SIZE, identity_map, linux_gdt, linux_sregs
from pyvmm.boot.plan import BootProtocol, EntryState, EntryWish
from pyvmm.boot.unpacking import Unpacked, unpacked
from pyvmm.boot.zero_page import KernelInput, zero_page
from pyvmm.errors import ImageError, UsageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import (
    BOOT_GDT,
    BOOT_PAGE_TABLES,
    COMMAND_LINE,
    HIGH_MEMORY_START,
    HOLE_END,
    ZERO_PAGE,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE

_ENTRY_64 = 0x200
"""The 64-bit entry is that many bytes behind the 32-bit one (boot.rst, 1.15)."""
_SIZE_BYTES = 4
_UNPACKED_RATIO = 3
"""A kernel that does not say what it needs while it unpacks itself gets so much of its size."""


def entry_protocol(header: LinuxHeader, wish: EntryWish, attempt: str) -> BootProtocol:
    """The protocol by which an image with `header` is entered.

    Raises `UsageError` for a wish that the image does not fulfil.
    """
    match wish:
        case EntryWish.AUTO if header.has_64_bit_entry:
            return BootProtocol.LINUX_64
        case EntryWish.AUTO:
            return BootProtocol.LINUX_32 if header.code32_start else BootProtocol.LINUX_16
        case EntryWish.LONG if not header.has_64_bit_entry:
            raise UsageError(
                attempt,
                f"this {header.title} has no 64-bit entry (XLF_KERNEL_64, from "
                f"{version_text(0x20C)} on)",
                "leave --entry out",
            )
        case EntryWish.LONG:
            return BootProtocol.LINUX_64
        case EntryWish.PROTECTED if not header.code32_start:
            raise UsageError(
                attempt,
                f"this {header.title} has no 32-bit entry (code32_start is 0)",
                "leave --entry out",
            )
        case EntryWish.PROTECTED:
            return BootProtocol.LINUX_32
        case EntryWish.REAL:
            return BootProtocol.LINUX_16
        case EntryWish.PVH:
            return BootProtocol.PVH


def linux_kernel(
    view: memoryview, header: LinuxHeader, protocol: BootProtocol, attempt: str
) -> Kernel:
    """The kernel of the bzImage in `view` (the whole file), entered by `protocol`.

    `protocol` is the 64-bit or the 32-bit entry. Raises `ImageError` as `code_claim` does.
    """
    claim = code_claim(view, header, attempt)
    entry = claim.range.start + (_ENTRY_64 if protocol is BootProtocol.LINUX_64 else 0)
    return Kernel(protocol, (claim,), entry, None, header=header)


def code_claim(view: memoryview, header: LinuxHeader, attempt: str) -> Claim:
    """The place of the protected-mode part, with the memory that it needs to unpack itself.

    Raises `ImageError` for a kernel that runs where no entry reaches.
    """
    start = load_address(header)
    data = view[header.setup_size : header.setup_size + header.code_size]
    size = max(header.init_size or _UNPACKED_RATIO * len(data), len(data))
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    if start + size > HOLE_END:
        raise ImageError(
            attempt,
            f"this {header.title} runs at {start:#x} (pref_address), and its entry reaches 4 GiB",
            "build it for another address (CONFIG_PHYSICAL_START)",
        )
    return Claim(GpaRange(start, start + size), data, f"the {header.title}'s kernel")


def unpacked_payload(view: memoryview, header: LinuxHeader, attempt: str) -> Unpacked:
    """The ELF file that is compressed in the bzImage in `view` (the whole file).

    Raises `UsageError` where there is none to be entered by PVH, `ImageError` where it is cut off
    or something else, and what `unpacked` raises.
    """
    if header.payload is None:
        raise UsageError(
            attempt,
            f"this {header.title} names no payload (payload_length), which could have a PVH entry",
            "leave --entry out",
        )
    start, size = header.payload
    if start + size > len(view):
        raise ImageError(
            attempt,
            f"it looks like a {header.title} that is cut: its payload ends at {start + size} "
            f"bytes, it has {len(view)}",
            "get the file anew",
        )
    payload = view[start : start + size]
    suffix = None
    if compression_of(payload) is not Compression.GZIP and size > _SIZE_BYTES:
        # Behind the other formats, which do not have it, Linux's build puts the unpacked size.
        suffix = int.from_bytes(payload[-_SIZE_BYTES:], "little")
        payload = payload[:-_SIZE_BYTES]
    found = unpacked(payload, attempt)
    if bytes(found.image[: len(elf.MAGIC)]) != elf.MAGIC:
        raise ImageError(attempt, "its payload is no ELF file", "leave --entry out")
    if suffix is not None and suffix != len(found.image) & 0xFFFF_FFFF:
        raise ImageError(
            attempt,
            f"{len(found.image)} bytes are not the size that its payload says, {suffix}",
            "get the file anew",
        )
    return found


def load_address(header: LinuxHeader) -> int:
    """The GPA where the protected-mode part goes: where the kernel will run.

    A kernel that is relocatable runs at the next multiple of its alignment, and moves itself up to
    its preferred address from anywhere below, so a lower place gains nothing (boot.rst,
    pref_address); above there is RAM only if there is some at that address, too.
    """
    preferred = header.pref_address or HIGH_MEMORY_START
    if not header.relocatable:
        return preferred
    return _aligned(max(preferred, HIGH_MEMORY_START), header.alignment)


def linux_boot_data(
    kernel: Kernel,
    header: LinuxHeader,
    address_map: AddressMap,
    command_line: bytes,
    initrd: GpaRange | None,
    *,
    rsdp: int,
    free: FreeMemory,
) -> BootData:
    """GDT, zero page, command line and, for the 64-bit entry, page tables.

    `command_line` is without its zero byte; `rsdp` is a GPA or 0. Raises `ImageError` where there
    is no room for it.
    """
    is_long = kernel.protocol is BootProtocol.LINUX_64
    gdt = free.table(BOOT_GDT, linux_gdt(is_long=is_long), "the boot GDT")
    line = free.table(COMMAND_LINE, command_line + b"\0", "the command line")
    load = kernel.claims[0].range.start
    given = KernelInput(load, line.range.start, initrd, rsdp)
    page = free.table(ZERO_PAGE, zero_page(header, given, address_map), "the zero page")
    claims = [gdt, line, page]
    tables = None
    if is_long:
        what = "the boot page tables"
        tables = free.place(BOOT_PAGE_TABLES, PAGE_TABLES_SIZE, what, align=PAGE_SIZE)
        claims.append(claim_of(tables, identity_map(tables), what))
    regs = Regs(rsi=page.range.start, rip=kernel.entry)
    return BootData(
        tuple(claims), EntryState(regs, linux_sregs(gdt.range.start, page_tables=tables))
    )


def _aligned(gpa: int, alignment: int) -> int:
    return -(-gpa // alignment) * alignment
