# SPDX-License-Identifier: MIT
"""From the bytes of an image to a `BootPlan`: the one door of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from pyvmm.boot.claims import BootData, Claim, Kernel
from pyvmm.boot.elf import parse_elf
from pyvmm.boot.flat import flat_boot_data, flat_kernel
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.multiboot import (
    find_header,
    has_multiboot_2_header,
    multiboot_boot_data,
    multiboot_kernel,
)
from pyvmm.boot.plan import BootPlan, BootProtocol, EntryWish, Placement
from pyvmm.boot.pvh import entry_of, needs_of, pvh_boot_data, pvh_kernel
from pyvmm.boot.recognise import ImageKind, is_zboot, recognise
from pyvmm.boot.unpacking import Unpacked, unpacked
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.address_map import AddressMap, memory_below
from pyvmm.memory.layout import (
    COMMAND_LINE_MAX,
    HIGH_MEMORY_START,
    HOLE_END,
    HOLE_START,
    LOW_USABLE_END,
    MIB,
    GpaRange,
)

_RESERVED = GpaRange(LOW_USABLE_END, HIGH_MEMORY_START)
_HOLE = GpaRange(HOLE_START, HOLE_END)
_KINDS_OF_WISH = {
    EntryWish.PVH: (ImageKind.ELF, ImageKind.BZIMAGE),
    EntryWish.LONG: (ImageKind.BZIMAGE,),
    EntryWish.PROTECTED: (ImageKind.BZIMAGE,),
    EntryWish.REAL: (ImageKind.BZIMAGE,),
}
_PHYSICAL_LIMIT = 1 << 52
"""No x86 processor has wider physical addresses (SDM vol. 3A, 4.1.4)."""


def plan_boot(
    image: bytes | memoryview,
    address_map: AddressMap,
    command_line: bytes = b"",
    initrd: bytes | memoryview | None = None,
    name: str = "image",
    *,
    initrd_name: str = "initrd",
    wish: EntryWish = EntryWish.AUTO,
    rsdp: int = 0,
    bios: Callable[[], bytes] | None = None,
) -> BootPlan:
    """Decide what of `image` (the whole file) goes where in guest memory and how it is entered.

    A compressed image is unpacked first (`pyvmm.boot.unpacking.unpacked`).
    `command_line` is without a zero byte, shorter than `COMMAND_LINE_MAX`. `initrd` is placed where
    other loaders do (`pyvmm.boot.initrd.place_initrd`). `wish` is the entry to use where an image
    has several. `rsdp` is the GPA of the ACPI tables' RSDP, 0 for none. `bios` gets the BIOS
    (``firmware/bios``), a page, for an image that is entered in real mode. `name` and `initrd_name`
    are for error texts, and a Multiboot kernel is told them. Placements are slices of `image` and
    `initrd`, which therefore must stay open and unchanged until they are copied; they are sorted by
    address.

    Raises `ImageError` for an image (or initrd) that is broken, contradicts itself, does not fit
    the address map, or is of a kind that cannot be booted; `UsageError` for a command line that
    cannot be passed on; and what `unpacked` raises.
    """
    attempt = f"boot {name}"
    view, remarks = _unpacked(memoryview(image).toreadonly().cast("B"), attempt)
    _check_command_line(command_line, attempt)
    kernel = _kernel(view, wish, address_map, attempt)
    _check_room_for_line(kernel, command_line, attempt)
    _check_fit(kernel.claims, address_map, attempt)
    _check_flat(kernel, command_line, initrd, attempt)
    free = FreeMemory(address_map, [claim.range for claim in kernel.claims], attempt)
    claims = list(kernel.claims)
    where = None
    if initrd is not None:
        from pyvmm.boot.initrd import place_initrd

        claim = place_initrd(initrd, kernel, free, attempt)
        free.take(claim)
        claims.append(claim)
        where = claim.range
    names = (name, initrd_name)
    data = _boot_data(
        kernel,
        address_map,
        command_line,
        where,
        names=names,
        rsdp=rsdp,
        bios=_bios_for(kernel, bios, attempt),
        free=free,
    )
    plan = _checked_plan(kernel, data, (*claims, *data.claims), address_map, attempt)
    # Setup code for real mode is a kernel's second claim, and far from it.
    is_real = kernel.protocol is BootProtocol.LINUX_16
    span = _span(kernel.claims[:1] if is_real else kernel.claims)
    return plan._replace(kernel=span, initrd=where, remarks=remarks + plan.remarks)


def _bios_for(kernel: Kernel, bios: Callable[[], bytes] | None, attempt: str) -> bytes:
    if kernel.protocol is not BootProtocol.LINUX_16:
        return b""
    if bios is None:
        raise ImageError(
            attempt,
            "it is entered in real mode, and here is no BIOS that it could call",
            "give an image with a 32-bit or 64-bit entry",
        )
    return bios()


def _unpacked(view: memoryview, attempt: str) -> Unpacked:
    """The image in `view`, out of an EFI zboot image, too, if that is its wrapping."""
    outer = unpacked(view, attempt)
    if not is_zboot(outer.image):
        return outer
    from pyvmm.boot.zboot import zboot_payload

    inner = unpacked(zboot_payload(outer.image, attempt), attempt)
    if is_zboot(inner.image):
        raise ImageError(attempt, "it is an EFI zboot image in another one", "give the inner one")
    return Unpacked(inner.image, outer.remarks + inner.remarks)


def _span(claims: Sequence[Claim]) -> GpaRange:
    """From the first byte of all to the last."""
    return GpaRange(
        min(claim.range.start for claim in claims), max(claim.range.end for claim in claims)
    )


def _kernel(view: memoryview, wish: EntryWish, address_map: AddressMap, attempt: str) -> Kernel:
    kind = recognise(view, attempt)
    if wish is not EntryWish.AUTO and kind not in _KINDS_OF_WISH[wish]:
        raise UsageError(
            attempt, f"it is {kind.value}, which has no {wish.title}", "leave --entry out"
        )
    match kind:
        case ImageKind.ELF:
            return _elf_kernel(view, address_map, attempt, wish)
        case ImageKind.MULTIBOOT:
            header = find_header(view)
            assert header is not None  # that is how it was recognised
            return multiboot_kernel(view, header, None, address_map, attempt)
        case ImageKind.FLAT:
            return flat_kernel(view)
        case ImageKind.MULTIBOOT_2:
            raise _only_multiboot_2(attempt)
        case ImageKind.ZBOOT | ImageKind.FOREIGN:
            raise _foreign(view, attempt)
        case ImageKind.BZIMAGE:
            return _linux_kernel(view, wish, address_map, attempt)


def _linux_kernel(
    view: memoryview, wish: EntryWish, address_map: AddressMap, attempt: str
) -> Kernel:
    from pyvmm.boot.linux_header import parse_linux  # Most guests are ours, which are ELF files.
    from pyvmm.boot.linux_loading import entry_protocol, linux_kernel, unpacked_payload

    header = parse_linux(view, attempt)
    protocol = entry_protocol(header, wish, attempt)
    if protocol is BootProtocol.PVH:
        image, remarks = unpacked_payload(view, header, attempt)
        kernel = _elf_kernel(image, address_map, attempt, wish)
        return _with_remarks(remarks, kernel._replace(header=header))
    if protocol is BootProtocol.LINUX_16:
        from pyvmm.boot.real_mode import real_mode_kernel

        return real_mode_kernel(view, header, attempt)
    return linux_kernel(view, header, protocol, attempt)


def _elf_kernel(view: memoryview, address_map: AddressMap, attempt: str, wish: EntryWish) -> Kernel:
    """PVH where the image has the note, Multiboot otherwise, and where the note is broken.

    Multiboot is not what somebody gets who wishes for PVH.
    """
    elf = parse_elf(view, attempt)
    header = find_header(view) if wish is EntryWish.AUTO else None
    remarks = elf.note_damage
    try:
        entry = entry_of(elf, attempt)
        if entry is not None and header is not None and not elf.contains(entry):
            raise _no_such_entry(entry, attempt)
    except ImageError as error:
        if header is None:
            raise
        remarks += (f"{error.cause}; so it is booted by its Multiboot header",)
    else:
        if entry is not None:
            return _with_remarks(remarks, pvh_kernel(elf, entry, address_map, attempt))
    if header is not None:
        needs = needs_of(elf, attempt)
        kernel = multiboot_kernel(view, header, elf, address_map, attempt, needs=needs)
        return _with_remarks(remarks, kernel)
    if has_multiboot_2_header(view):
        raise _only_multiboot_2(attempt)
    if elf.note_damage:
        raise ImageError(
            attempt,
            f"it has no PVH note that could be read, and no Multiboot header: {elf.note_damage[0]}",
            "the image is cut off or damaged",
        )
    raise ImageError(
        attempt,
        "the ELF file has no PVH note and no Multiboot header",
        "add a XEN_ELFNOTE_PHYS32_ENTRY note (Linux: CONFIG_PVH), or a Multiboot 1 header within "
        "the first 8 KiB",
    )


def _foreign(view: memoryview, attempt: str) -> ImageError:
    from pyvmm.boot.foreign import foreign_kind

    foreign = foreign_kind(view)
    assert foreign is not None  # that is how it was recognised; zboot images are unpacked
    return ImageError(attempt, foreign.cause, foreign.remedy)


def _with_remarks(remarks: tuple[str, ...], kernel: Kernel) -> Kernel:
    return kernel._replace(remarks=remarks + kernel.remarks)


def _no_such_entry(entry: int, attempt: str) -> ImageError:
    return ImageError(attempt, f"its entry point {entry:#x} lies in no loaded segment")


def _only_multiboot_2(attempt: str) -> ImageError:
    return ImageError(
        attempt,
        "it has a Multiboot 2 header only, and Multiboot 2 is not supported",
        "add a Multiboot 1 header or a PVH note (XEN_ELFNOTE_PHYS32_ENTRY), which are",
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


def _check_room_for_line(kernel: Kernel, command_line: bytes, attempt: str) -> None:
    most, why = kernel.most_command_line, "Linux's COMMAND_LINE_SIZE"
    if kernel.header is not None:
        most, why = kernel.header.cmdline_size, "cmdline_size"
    if most is not None and len(command_line) > most:
        raise UsageError(
            attempt,
            f"the command line has {len(command_line)} bytes, and the image takes {most} at most "
            f"({why})",
            "shorten it",
        )


def _check_flat(
    kernel: Kernel, command_line: bytes, initrd: bytes | memoryview | None, attempt: str
) -> None:
    if kernel.protocol is BootProtocol.FLAT and (command_line or initrd is not None):
        what = "a command line" if command_line else "an initrd"
        raise UsageError(attempt, f"raw code has no way to be given {what}", "leave it out")


def _boot_data(
    kernel: Kernel,
    address_map: AddressMap,
    command_line: bytes,
    initrd: GpaRange | None,
    *,
    names: tuple[str, str],
    rsdp: int,
    bios: bytes,
    free: FreeMemory,
) -> BootData:
    match kernel.protocol:
        case BootProtocol.PVH:
            return pvh_boot_data(
                kernel.entry, address_map, command_line, initrd, rsdp=rsdp, free=free
            )
        case BootProtocol.MULTIBOOT:
            # As from QEMU (hw/i386/multiboot.c) and GRUB Legacy: programs count on it.
            image_name, module_name = (name.encode("utf-8", "surrogateescape") for name in names)
            line = image_name + b" " + command_line
            return multiboot_boot_data(
                kernel.entry, address_map, line, initrd, module_name=module_name, free=free
            )
        case BootProtocol.FLAT:
            return flat_boot_data()
        case BootProtocol.LINUX_16:
            from pyvmm.boot.real_mode import real_mode_boot_data

            return real_mode_boot_data(
                kernel, address_map, command_line, initrd, bios=bios, free=free
            )
        case BootProtocol.LINUX_64 | BootProtocol.LINUX_32:
            from pyvmm.boot.linux_loading import linux_boot_data

            assert kernel.header is not None  # that is what makes it one of these
            return linux_boot_data(
                kernel, kernel.header, address_map, command_line, initrd, rsdp=rsdp, free=free
            )


def _check_fit(claims: Sequence[Claim], address_map: AddressMap, attempt: str) -> None:
    """Raise `ImageError` unless each claim lies within one usable range of the memory map."""
    for claim in claims:
        where = claim.range
        if address_map.is_usable(where.start, where.size):
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
        needed = memory_below(where.end)
        raise ImageError(
            attempt,
            f"{claim} lies outside the guest's {address_map.memory >> 20} MiB of memory",
            f"give --memory {_mebibytes(needed)}M or more",
        )


def _checked_plan(
    kernel: Kernel, data: BootData, claims: Sequence[Claim], address_map: AddressMap, attempt: str
) -> BootPlan:
    """The last look at everything: all of it in usable RAM, nothing twice, an entry that exists."""
    _check_fit(claims, address_map, attempt)
    # What replaces a claim begins where that does; the BIOS lies where no claim may.
    replaced = {one.range.start: one for one in data.in_place_of}
    claims = [replaced.get(one.range.start, one) for one in claims]
    if data.firmware is not None:
        claims.append(data.firmware)
    ordered = sorted(claims, key=lambda claim: claim.range.start)
    for first, second in pairwise(ordered):
        if first.range.overlaps(second.range):
            raise ImageError(attempt, f"{first} overlaps {second}", "link it to another address")
    entry = kernel.entry
    if not any(claim.range.contains(entry, 1) for claim in kernel.claims):
        raise _no_such_entry(entry, attempt)
    placements = tuple(
        Placement(claim.range.start, claim.data, claim.what) for claim in ordered if claim.data
    )
    return BootPlan(
        kernel.protocol,
        placements,
        data.entry,
        kernel.needs,
        kernel.private_entry,
        data.start_info,
        kernel.private_flaw,
        kernel.remarks,
    )


def _mebibytes(size: int) -> int:
    return -(-size // MIB)
