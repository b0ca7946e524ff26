# SPDX-License-Identifier: MIT
"""From the bytes of an image to a `BootPlan`: the one door of this room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from pyvmm.boot.claims import Claim, Kernel, claim_of
from pyvmm.boot.elf import parse_elf
from pyvmm.boot.flat import flat_kernel
from pyvmm.boot.multiboot import find_header, multiboot_boot_data, multiboot_kernel
from pyvmm.boot.plan import BootPlan, BootProtocol, Placement
from pyvmm.boot.pvh import entry_of, needs_of, pvh_boot_data, pvh_kernel
from pyvmm.boot.recognise import ImageKind, recognise
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.layout import (
    COMMAND_LINE_MAX,
    HIGH_MEMORY_START,
    HOLE_END,
    HOLE_START,
    LOW_USABLE_END,
    MIB,
    PAGE_SIZE,
    GpaRange,
    MemoryLayout,
)

_RESERVED = GpaRange(LOW_USABLE_END, HIGH_MEMORY_START)
_HOLE = GpaRange(HOLE_START, HOLE_END)
_PHYSICAL_LIMIT = 1 << 52
"""No x86 processor has wider physical addresses (SDM vol. 3A, 4.1.4)."""


def plan_boot(
    image: bytes | memoryview,
    layout: MemoryLayout,
    command_line: bytes = b"",
    initrd: bytes | memoryview | None = None,
    name: str = "image",
) -> BootPlan:
    """Decide what of `image` (the whole file) goes where in guest memory and how it is entered.

    `command_line` is without a zero byte, shorter than `COMMAND_LINE_MAX`. `initrd` is placed as
    high as it goes below the MMIO hole, page-aligned. `name` is for error texts only. Placements
    are slices of `image` and `initrd`, which therefore must stay open and unchanged until they are
    copied; they are sorted by address.

    Raises `ImageError` for an image (or initrd) that is broken, contradicts itself, does not fit
    the layout, or is of a kind that cannot be booted; `UsageError` for a command line that cannot
    be passed on.
    """
    attempt = f"boot {name}"
    view = memoryview(image).toreadonly().cast("B")
    _check_command_line(command_line, attempt)
    kernel = _kernel(view, attempt)
    _check_fit(kernel.claims, layout, attempt)
    initrd_claims = () if initrd is None else (_place_initrd(initrd, kernel, layout, attempt),)
    where = initrd_claims[0].range if initrd_claims else None
    boot_data = _boot_data(kernel, layout, command_line, where, attempt)
    plan = _checked_plan(kernel, (*kernel.claims, *initrd_claims, *boot_data), layout, attempt)
    return replace(plan, kernel=_span(kernel.claims), initrd=where)


def _span(claims: Sequence[Claim]) -> GpaRange:
    """From the first byte of all to the last."""
    return GpaRange(
        min(claim.range.start for claim in claims), max(claim.range.end for claim in claims)
    )


def _kernel(view: memoryview, attempt: str) -> Kernel:
    match recognise(view, attempt):
        case ImageKind.ELF:
            return _elf_kernel(view, attempt)
        case ImageKind.MULTIBOOT:
            header = find_header(view)
            assert header is not None  # that is how it was recognised
            return multiboot_kernel(view, header, None, None, attempt)
        case ImageKind.FLAT:
            return flat_kernel(view)
        case ImageKind.BZIMAGE:
            raise ImageError(
                attempt,
                "it is a Linux bzImage, which is not supported yet",
                "give the uncompressed vmlinux, built with CONFIG_PVH",
            )


def _elf_kernel(view: memoryview, attempt: str) -> Kernel:
    """PVH where the image has the note, Multiboot otherwise."""
    elf = parse_elf(view, attempt)
    entry = entry_of(elf, attempt)
    if entry is not None:
        return pvh_kernel(elf, entry, attempt)
    header = find_header(view)
    if header is not None:
        return multiboot_kernel(view, header, elf, needs_of(elf, attempt), attempt)
    raise ImageError(
        attempt,
        "the ELF file has no PVH note and no Multiboot header",
        "add a XEN_ELFNOTE_PHYS32_ENTRY note (Linux: CONFIG_PVH), or a Multiboot 1 header within "
        "the first 8 KiB",
    )


def _check_command_line(command_line: bytes, attempt: str) -> None:
    if b"\0" in command_line:
        raise UsageError(attempt, "the command line contains a zero byte", "remove it")
    if len(command_line) >= COMMAND_LINE_MAX:
        raise UsageError(
            attempt,
            f"the command line has {len(command_line)} bytes, at most {COMMAND_LINE_MAX - 1} fit",
            "shorten it",
        )


def _boot_data(
    kernel: Kernel,
    layout: MemoryLayout,
    command_line: bytes,
    initrd: GpaRange | None,
    attempt: str,
) -> tuple[Claim, ...]:
    match kernel.protocol:
        case BootProtocol.PVH:
            return pvh_boot_data(layout, command_line, initrd)
        case BootProtocol.MULTIBOOT:
            return multiboot_boot_data(layout, command_line, initrd)
        case BootProtocol.FLAT:
            if command_line or initrd is not None:
                what = "a command line" if command_line else "an initrd"
                raise UsageError(attempt, f"raw code has no way to be given {what}", "leave it out")
            return ()


def _place_initrd(
    initrd: bytes | memoryview, kernel: Kernel, layout: MemoryLayout, attempt: str
) -> Claim:
    """The initrd at the highest free page between 1 MiB and the MMIO hole."""
    data = memoryview(initrd).toreadonly().cast("B")
    if not data:
        raise ImageError(attempt, "the initrd is empty", "leave it out")
    end = layout.regions[0].range.end
    taken = sorted((claim.range for claim in kernel.claims), key=lambda range_: -range_.end)
    for other in taken:
        gpa = _page_below(end - len(data))
        if gpa >= other.end:
            break
        end = min(end, other.start)
    gpa = _page_below(end - len(data))
    if gpa < HIGH_MEMORY_START:
        raise _no_room_for_initrd(len(data), kernel, attempt)
    return claim_of(gpa, data, "the initrd")


def _no_room_for_initrd(size: int, kernel: Kernel, attempt: str) -> ImageError:
    below_hole = (claim.range.end for claim in kernel.claims if claim.range.end <= HOLE_START)
    needed = max((HIGH_MEMORY_START, *below_hole)) + size + PAGE_SIZE
    cause = f"the initrd of {size} bytes does not fit beside the kernel"
    if needed > HOLE_START:
        return ImageError(attempt, f"{cause} below 3 GiB", "make it smaller")
    return ImageError(attempt, cause, f"give --memory {_mebibytes(needed)}M")


def _check_fit(claims: Sequence[Claim], layout: MemoryLayout, attempt: str) -> None:
    """Raise `ImageError` unless each claim lies within one usable range of the memory map."""
    for claim in claims:
        where = claim.range
        if layout.is_usable(where.start, where.size):
            continue
        if where.end > _PHYSICAL_LIMIT:
            raise ImageError(
                attempt,
                f"{claim} is beyond every physical address",
                "link it with physical load addresses (AT in the linker script)",
            )
        if where.overlaps(_HOLE):
            raise ImageError(
                attempt, f"{claim} runs into the MMIO hole, 3..4 GiB", "link it to another address"
            )
        if where.overlaps(_RESERVED):
            raise ImageError(
                attempt,
                f"{claim} runs into the reserved range {_RESERVED.start:#x}..{_RESERVED.end:#x}",
                "link it at 1 MiB or above",
            )
        above_hole = where.start >= HOLE_END
        needed = where.end - (_HOLE.size if above_hole else 0)
        raise ImageError(
            attempt,
            f"{claim} lies outside the guest's {layout.memory >> 20} MiB of memory",
            f"give --memory {_mebibytes(needed)}M or more",
        )


def _checked_plan(
    kernel: Kernel, claims: Sequence[Claim], layout: MemoryLayout, attempt: str
) -> BootPlan:
    """The last look at everything: all of it in usable RAM, nothing twice, an entry that exists."""
    _check_fit(claims, layout, attempt)
    ordered = sorted(claims, key=lambda claim: claim.range.start)
    for first, second in pairwise(ordered):
        if first.range.overlaps(second.range):
            raise ImageError(attempt, f"{first} overlaps {second}", "link it to another address")
    entry = kernel.entry.regs.rip
    if not any(claim.range.contains(entry, 1) for claim in kernel.claims):
        raise ImageError(attempt, f"its entry point {entry:#x} lies in no loaded segment")
    placements = tuple(
        Placement(claim.range.start, claim.data, claim.what) for claim in ordered if claim.data
    )
    return BootPlan(
        kernel.protocol,
        placements,
        kernel.entry,
        kernel.needs,
        kernel.private_entry,
        kernel.start_info,
    )


def _page_below(gpa: int) -> int:
    return gpa // PAGE_SIZE * PAGE_SIZE


def _mebibytes(size: int) -> int:
    return -(-size // MIB)
