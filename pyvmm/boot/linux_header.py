# SPDX-License-Identifier: MIT
"""Setup header of a Linux bzImage (Linux ``Documentation/arch/x86/boot.rst``, 1.2, 1.3).

Memory testers and boot loaders have one, too: it is what makes other loaders take them.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from pyvmm.errors import ImageError

SETUP_HEADER = 0x1F1
"""Offset of the first field, in the file and in the zero page."""
SETUP_HEADER_END = 0x290
"""The header may reach up to here in the zero page (``struct boot_params``)."""
OLDEST = 0x206
"""The first version that says how long a command line may be; of 2007."""
SECTOR = 512

_LEAST_ENDS = {0x206: 0x23C, 0x207: 0x248, 0x208: 0x250, 0x209: 0x258, 0x20A: 0x264}
"""Version since which a header has the fields below an offset (boot.rst, 1.2)."""
_FIELDS = struct.Struct("<B2xI")
"""setup_sects and syssize, from `SETUP_HEADER` on."""
_USUAL_SECTORS = 4
"""A header whose setup_sects is 0 means 4 (boot.rst, 1.3)."""
_DEFAULT_COMMAND_LINE = 255
_ADDRESS_END = 1 << 64


class LoadFlag(enum.IntFlag):
    """Bits of ``loadflags``."""

    LOADED_HIGH = 1 << 0
    CAN_USE_HEAP = 1 << 7


class ExtendedFlag(enum.IntFlag):
    """Bits of ``xloadflags``."""

    KERNEL_64 = 1 << 0
    ABOVE_4G = 1 << 1


class LinuxHeader(NamedTuple):
    """The fields that loading goes by; what a version lacks has the value that boot.rst gives.

    `setup_size` is where the protected-mode part begins in the file, `code_size` its size: both in
    bytes. `alignment` is a power of two, in bytes. `initrd_addr_max` is the last byte that an
    initrd may have. `init_size` is 0 where the version has none. `payload` is (offset in the file,
    bytes) of the compressed kernel in it. `header` is what goes to the zero page, from 0x1F1 on.
    """

    version: int
    setup_size: int
    code_size: int
    load_high: bool
    code32_start: int
    xloadflags: int
    cmdline_size: int
    initrd_addr_max: int
    alignment: int
    relocatable: bool
    pref_address: int
    init_size: int
    payload: tuple[int, int] | None
    header: bytes

    @property
    def title(self) -> str:
        """The kind of image, for messages."""
        return f"bzImage {version_text(self.version)}"

    @property
    def has_64_bit_entry(self) -> bool:
        """True if it can be entered in long mode."""
        return self.version >= 0x20C and bool(self.xloadflags & ExtendedFlag.KERNEL_64)

    @property
    def takes_data_above_4g(self) -> bool:
        """True if the initrd may lie above 4 GiB, for a kernel entered in long mode."""
        return self.version >= 0x20C and bool(self.xloadflags & ExtendedFlag.ABOVE_4G)


def version_text(version: int) -> str:
    """As boot.rst writes it: 2.06."""
    return f"{version >> 8}.{version & 0xFF:02}"


def parse_linux(view: memoryview, attempt: str) -> LinuxHeader:
    """Read the header of the bzImage in `view` (bytes, the whole file).

    Raises `ImageError` for one that is too old, cut off, or contradicts itself, and names the field
    or what is missing.
    """
    fields = bytes(view[:SETUP_HEADER_END]).ljust(SETUP_HEADER_END, b"\0")
    if len(view) < _LEAST_ENDS[OLDEST]:
        raise _cut(attempt, f"its setup header needs {_LEAST_ENDS[OLDEST]} bytes", len(view))
    version = _u16(fields, 0x206)
    if version < OLDEST:
        raise ImageError(
            attempt,
            f"it looks like a bzImage {version_text(version)} (before {version_text(OLDEST)})",
            "give a kernel of 2.6.22 or newer",
        )
    sectors, paragraphs = _FIELDS.unpack_from(fields, SETUP_HEADER)
    setup_size = ((sectors or _USUAL_SECTORS) + 1) * SECTOR
    end = 0x202 + fields[0x201]
    needed = max(size for since, size in _LEAST_ENDS.items() if version >= since)
    if end < needed:
        raise ImageError(
            attempt,
            f"the setup header of this bzImage {version_text(version)} ends at {end:#x}, where "
            f"{needed:#x} is the least",
            "the image is cut off or damaged",
        )
    parsed = LinuxHeader(
        version=version,
        setup_size=setup_size,
        code_size=_code_size(len(view), setup_size, paragraphs * 16, attempt),
        load_high=bool(fields[0x211] & LoadFlag.LOADED_HIGH),
        code32_start=_u32(fields, 0x214),
        xloadflags=_u16(fields, 0x236) if version >= 0x20C else 0,
        cmdline_size=_u32(fields, 0x238) or _DEFAULT_COMMAND_LINE,
        initrd_addr_max=_u32(fields, 0x22C),
        alignment=_u32(fields, 0x230) or 1,
        relocatable=fields[0x234] != 0,
        pref_address=_u64(fields, 0x258) if version >= 0x20A else 0,
        init_size=_u32(fields, 0x260) if version >= 0x20A else 0,
        payload=(setup_size + _u32(fields, 0x248), _u32(fields, 0x24C))
        if version >= 0x208 and _u32(fields, 0x24C)
        else None,
        header=fields[SETUP_HEADER : min(end, SETUP_HEADER_END)],
    )
    _check(parsed, attempt)
    return parsed


def _code_size(file_size: int, setup_size: int, stated: int, attempt: str) -> int:
    """Size of the protected-mode part in bytes: as stated, in units of 16, or all there is."""
    there = file_size - setup_size
    if there <= 0:
        raise _cut(attempt, f"setup says {setup_size} bytes, and code behind them", file_size)
    if stated - 15 > there:
        raise _cut(attempt, f"setup says {setup_size + stated} bytes", file_size)
    return min(stated, there) if stated else there


def _check(header: LinuxHeader, attempt: str) -> None:
    align = header.alignment
    if header.relocatable and align & (align - 1):
        raise _lie(attempt, header, f"its kernel_alignment {align:#x} is no power of two")
    if header.pref_address + max(header.init_size, header.code_size) > _ADDRESS_END:
        raise _lie(attempt, header, f"its pref_address {header.pref_address:#x} leaves no room")
    if not header.load_high:
        raise ImageError(
            attempt,
            "it is a zImage: its kernel is loaded below 1 MiB (LOADED_HIGH is not set)",
            "build a bzImage",
        )


def _lie(attempt: str, header: LinuxHeader, cause: str) -> ImageError:
    return ImageError(
        attempt, f"it looks like a {header.title}, but {cause}", "the image is damaged"
    )


def _cut(attempt: str, cause: str, size: int) -> ImageError:
    return ImageError(
        attempt, f"it looks like a bzImage that is cut: {cause}, it has {size}", "get the file anew"
    )


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
