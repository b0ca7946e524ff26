# SPDX-License-Identifier: MIT
"""Kind of an image: told from the content, never from a name."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyvmm.boot import elf, flat, multiboot
from pyvmm.boot.compression import compression_of, unknown_compression_of
from pyvmm.errors import ImageError


class ImageKind(enum.Enum):
    """The outer form of an image."""

    ELF = "an ELF file"
    BZIMAGE = "a Linux bzImage"
    MULTIBOOT = "a raw image with a Multiboot header"
    MULTIBOOT_2 = "a raw image with nothing but a Multiboot 2 header"
    ZBOOT = "an EFI zboot image"
    FOREIGN = "an image that something else boots"
    FLAT = "raw code"


MAX_SIZE = 1 << 30
"""The largest image of any kind in bytes: a vmlinux with debugging information has half of it."""
BEGINNING = 1 << 15
"""So much of an image tells its kind."""


class SizeLimit(NamedTuple):
    """At most `most` bytes; cause and remedy of the error for more of them."""

    most: int
    cause: str
    remedy: str


_TOO_LONG = SizeLimit(
    flat.MAX_SIZE,
    "it is no ELF file, has no Multiboot header, and is longer than raw code can be, "
    f"{flat.MAX_SIZE} bytes",
    "give an ELF kernel with a PVH note",
)
_MUCH_TOO_LONG = SizeLimit(
    MAX_SIZE, f"it is larger than {MAX_SIZE >> 30} GiB, the most for an image", "strip it"
)


def recognise(view: memoryview, attempt: str) -> ImageKind:
    """The kind of the image in `view` (bytes, the whole file).

    The first that fits: ELF magic; bzImage (Linux ``Documentation/arch/x86/boot.rst``: 0xAA55 at
    0x1FE, "HdrS" at 0x202); a Multiboot header in the first 8 KiB, or one of Multiboot 2 in the
    first 32; an EFI zboot image; what others boot (`pyvmm.boot.foreign`); and raw code, which has
    no magic (a 0x55AA signature is not asked for), so only its size tells it from junk. Raises
    `ImageError` when the image is empty or none of these.
    """
    if not view:
        raise ImageError(attempt, "the image is empty", "give a file with something in it")
    if bytes(view[:4]) == elf.MAGIC:
        return ImageKind.ELF
    if bytes(view[0x1FE:0x200]) == b"\x55\xaa" and bytes(view[0x202:0x206]) == b"HdrS":
        return ImageKind.BZIMAGE
    if multiboot.find_header(view) is not None:
        return ImageKind.MULTIBOOT
    if multiboot.has_multiboot_2_header(view):
        return ImageKind.MULTIBOOT_2
    if is_zboot(view):
        return ImageKind.ZBOOT
    from pyvmm.boot.foreign import foreign_kind  # Most images are none of these.

    if foreign_kind(view) is not None:
        return ImageKind.FOREIGN
    if len(view) <= flat.MAX_SIZE:
        return ImageKind.FLAT
    raise ImageError(attempt, _TOO_LONG.cause, _TOO_LONG.remedy)


def is_zboot(view: memoryview) -> bool:
    """Tell whether `view` (the file's beginning at least) is an EFI zboot image."""
    return bytes(view[:2]) == b"MZ" and bytes(view[4:8]) == b"zimg"


def size_limit(beginning: bytes) -> SizeLimit:
    """Return the size limit of a file by its `beginning`: `BEGINNING` bytes, or all if shorter.

    An ELF file may well be larger than the guest's memory: most of it can be debugging information.
    """
    view = memoryview(beginning)
    if compression_of(view) or unknown_compression_of(view):
        return _MUCH_TOO_LONG
    kind = recognise(view, "") if view else ImageKind.FLAT
    return _TOO_LONG if kind is ImageKind.FLAT else _MUCH_TOO_LONG
