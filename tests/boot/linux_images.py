# SPDX-License-Identifier: MIT
"""Tiny bzImages, field by field: right ones, and the means to make them lie."""

from __future__ import annotations

import struct

from .images import HLT

FIELDS = {
    "setup_sects": (0x1F1, "B"), "syssize": (0x1F4, "I"), "boot_flag": (0x1FE, "H"),
    "jump": (0x200, "H"), "version": (0x206, "H"), "loadflags": (0x211, "B"),
    "code32_start": (0x214, "I"), "ramdisk_image": (0x218, "I"), "ramdisk_size": (0x21C, "I"),
    "cmd_line_ptr": (0x228, "I"), "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"), "relocatable_kernel": (0x234, "B"),
    "min_alignment": (0x235, "B"), "xloadflags": (0x236, "H"), "cmdline_size": (0x238, "I"),
    "payload_offset": (0x248, "I"), "payload_length": (0x24C, "I"), "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
}  # fmt: skip
"""Offset and format of each (boot.rst, 1.2)."""

# The fields that each version added to the one before (boot.rst, 1.2, column "Proto").
ENDS = {0: 0x230, 0x206: 0x23C, 0x207: 0x248, 0x208: 0x250, 0x209: 0x258, 0x20A: 0x264,
        0x20C: 0x268, 0x20F: 0x26C}  # fmt: skip
SETUP_SECTS = 2
SETUP_SIZE = (SETUP_SECTS + 1) * 512
MIB = 1 << 20

DEBIAN = {
    "loadflags": 1, "code32_start": 0x100000, "initrd_addr_max": 0x7FFFFFFF,
    "kernel_alignment": 0x200000, "relocatable_kernel": 1, "min_alignment": 21,
    "xloadflags": 0x7F, "cmdline_size": 2047, "pref_address": 16 * MIB, "init_size": 4 * MIB,
}  # fmt: skip
"""As Debian's kernels have it, but for sizes."""


def bzimage(code: bytes = HLT * 1024, /, version: int = 0x20F, **fields: int) -> bytes:
    """A bzImage whose protected-mode part is `code`; `fields` over those of `DEBIAN`."""
    image = bytearray(SETUP_SIZE)
    header_end = max(end for since, end in ENDS.items() if since <= version)
    image[0x202:0x206] = b"HdrS"
    values = {
        "setup_sects": SETUP_SECTS,
        "syssize": -(-len(code) // 16),
        "boot_flag": 0xAA55,
        "jump": 0xEB | (header_end - 0x202) << 8,
        "version": version,
        **{name: value for name, value in DEBIAN.items() if FIELDS[name][0] < header_end},
        **fields,
    }
    for name, value in values.items():
        offset, fmt = FIELDS[name]
        struct.pack_into("<" + fmt, image, offset, value)
    return bytes(image) + code


def field(page: bytes | memoryview, name: str) -> int:
    """A field of a header in an image or a zero page."""
    offset, fmt = FIELDS[name]
    (value,) = struct.unpack_from("<" + fmt, page, offset)
    return int(value)


def with_payload(payload: bytes, **fields: int) -> bytes:
    """A bzImage with a compressed kernel in it."""
    return bzimage(bytes(64) + payload, payload_offset=64, payload_length=len(payload), **fields)


def pe(machine: int = 0x8664, sections: tuple[bytes, ...] = (), size: int = 0x400) -> bytes:
    """The least PE file: its headers."""
    image = bytearray(size)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", machine, len(sections), 0, 0, 0, 16, 0)
    for number, name in enumerate(sections):
        struct.pack_into("<8s", image, 0x80 + 24 + 16 + 40 * number, name)
    return bytes(image)


def zboot(payload: bytes, machine: int = 0x8664, **changed: int) -> bytes:
    """An EFI zboot image; `changed` are its `offset` and `size`."""
    image = bytearray(pe(machine))
    fields = {"offset": len(image), "size": len(payload), **changed}
    struct.pack_into("<4sII8x32s", image, 4, b"zimg", fields["offset"], fields["size"], b"gzip")
    struct.pack_into("<I", image, 0x38, 0x818223CD)
    struct.pack_into("<I", image, 0x3C, 0x80)
    return bytes(image) + payload
