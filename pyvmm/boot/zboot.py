# SPDX-License-Identifier: MIT
"""EFI zboot images: an EFI program with a compressed kernel in it (Linux
``drivers/firmware/efi/libstub/zboot-header.S``)."""

from __future__ import annotations

import struct

from pyvmm.boot.foreign import X86_MACHINES, machine_name, pe_machine
from pyvmm.errors import ImageError

_HEADER = struct.Struct("<2s2x4sII8x32s")
"""MZ, "zimg", offset and size of the payload in bytes, how it is compressed."""


def zboot_payload(view: memoryview, attempt: str) -> memoryview:
    """The compressed kernel in `view` (the whole file).

    Raises `ImageError` for an image of another machine, and where the file has no such payload.
    """
    if len(view) < _HEADER.size:
        raise _cut(attempt, f"its header has {_HEADER.size} bytes", len(view))
    machine = pe_machine(view)
    if machine is None:
        raise ImageError(
            attempt,
            "it looks like an EFI zboot image, but its PE header is missing",
            "the image is cut off or damaged",
        )
    if machine not in X86_MACHINES:
        raise ImageError(
            attempt,
            f"it is an EFI zboot image for {machine_name(machine)}, not x86-64",
            "build it for x86-64",
        )
    _, _, offset, size, _ = _HEADER.unpack_from(view)
    if not size or offset + size > len(view):
        raise _cut(attempt, f"its payload lies at {offset:#x}..{offset + size:#x}", len(view))
    return view[offset : offset + size]


def _cut(attempt: str, cause: str, size: int) -> ImageError:
    return ImageError(
        attempt,
        f"it looks like an EFI zboot image that is cut: {cause}, it has {size}",
        "get the file anew",
    )
