# SPDX-License-Identifier: MIT
"""Beginnings of disk images that are not raw (their own specifications; QEMU's ``block/*.c``)."""

from __future__ import annotations

from typing import Final

_BEGINNINGS: Final = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
)


def format_of(beginning: bytes) -> str:
    """Name the format whose image begins like this; "" where it may be raw. 4 KiB are enough."""
    for offset, magic, name in _BEGINNINGS:
        if beginning[offset : offset + len(magic)] == magic:
            return name
    return ""
