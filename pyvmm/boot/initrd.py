# SPDX-License-Identifier: MIT
"""Initial RAM disk: its parts in one, and its place in guest memory."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.boot.claims import Claim, Kernel, claim_of
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.plan import BootProtocol
from pyvmm.errors import ImageError
from pyvmm.memory.layout import HIGH_MEMORY_START, HOLE_START, MIB
from pyvmm.rules.abi import PAGE_SIZE

_PART_ALIGN = 4
"""Archives begin at a multiple of that (Linux ``init/initramfs.c``, do_header)."""


def joined(parts: Sequence[bytes]) -> bytes:
    """The parts one behind the other, each padded to 4 bytes with zeroes, which Linux skips.

    One part is left as it is.
    """
    if len(parts) == 1:
        return parts[0]
    return b"".join(piece for part in parts for piece in (part, bytes(-len(part) % _PART_ALIGN)))


def place_initrd(
    initrd: bytes | memoryview, kernel: Kernel, free: FreeMemory, attempt: str
) -> Claim:
    """The initrd between 1 MiB and the MMIO hole: where other loaders of the protocol put it.

    For PVH and Linux that is the highest page (QEMU ``hw/i386/x86.c``, x86_load_linux), but not
    above the image's ``initrd_addr_max``; for Multiboot the first one behind the kernel (QEMU
    ``hw/i386/multiboot.c``; GRUB allocates upwards from there). A kernel that takes it above 4 GiB
    gets it there if it does not fit below. Raises `ImageError` where it fits nowhere, or is empty.
    """
    data = memoryview(initrd).toreadonly().cast("B")
    if not data:
        raise ImageError(attempt, "the initrd is empty", "leave it out")
    gpa = _place(len(data), kernel, free)
    if gpa is None:
        raise _no_room(len(data), kernel, attempt)
    return claim_of(gpa, data, "the initrd")


def _place(size: int, kernel: Kernel, free: FreeMemory) -> int | None:
    if kernel.protocol is BootProtocol.MULTIBOOT:
        end = max(claim.range.end for claim in kernel.claims)
        gpa = free.lowest_pages(size, end)
        return free.lowest_pages(size, HIGH_MEMORY_START) if gpa is None else gpa
    if kernel.header is None:
        return free.highest_pages(size)
    gpa = free.highest_pages(size, kernel.header.initrd_addr_max + 1)
    takes_high = kernel.protocol is BootProtocol.LINUX_64 and kernel.header.takes_data_above_4g
    return free.highest_pages_above_4g(size) if gpa is None and takes_high else gpa


def _no_room(size: int, kernel: Kernel, attempt: str) -> ImageError:
    below_hole = (claim.range.end for claim in kernel.claims if claim.range.end <= HOLE_START)
    needed = max((HIGH_MEMORY_START, *below_hole)) + size + PAGE_SIZE
    cause = f"the initrd of {size} bytes does not fit beside the kernel"
    if kernel.header is not None and needed > kernel.header.initrd_addr_max:
        last = kernel.header.initrd_addr_max
        return ImageError(
            attempt, f"{cause} below {last:#x}, the image's initrd_addr_max", "make it smaller"
        )
    if needed > HOLE_START:
        return ImageError(attempt, f"{cause} below 3 GiB", "make it smaller")
    return ImageError(attempt, cause, f"give --memory {-(-needed // MIB)}M")
