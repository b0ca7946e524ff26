# SPDX-License-Identifier: MIT
"""Telling a kernel from another file, and which one it is."""

from __future__ import annotations

import enum
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import ImageError, NoInputError, NoPermissionError

_SETUP_MAGIC = 0x202
_SETUP_VERSION_POINTER = 0x20E
_SECTOR = 0x200
_ELF_X86_64 = 62
_PVH_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0"
_PVH_NOTE_64 = struct.pack("<III", 4, 8, 18) + b"Xen\0"
_BANNER = re.compile(rb"Linux version (\d+\.\d+[!-~]*) \(")


class ImageKind(enum.Enum):
    """The forms of a kernel that QEMU starts."""

    BZIMAGE = "bzImage"
    VMLINUX = "vmlinux"


@dataclass(frozen=True, slots=True)
class Image:
    """Description of a kernel's file: its form, and its release ("7.3.4")."""

    kind: ImageKind
    release: str


def recognise(path: Path) -> Image:
    """Recognise the kernel in the file `path`, from Documentation/arch/x86/boot.rst (setup header),
    ELF and the note XEN_ELFNOTE_PHYS32_ENTRY.

    Raises `NoInputError`, `NoPermissionError`, or `ImageError` for what is not an x86 kernel or
    what QEMU could not start.
    """
    attempt = f"use {path} as the lab's kernel"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return _recognise(data, attempt)
    except PermissionError as error:
        raise NoPermissionError(attempt, "it may not be read") from error
    except OSError as error:
        raise NoInputError(attempt, error.strerror or str(error)) from error
    except ValueError as error:  # mmap's word for an empty file
        raise ImageError(attempt, "the file is empty") from error


def _recognise(data: mmap.mmap, attempt: str) -> Image:
    if data[_SETUP_MAGIC : _SETUP_MAGIC + 4] == b"HdrS":
        (pointer,) = struct.unpack_from("<H", data, _SETUP_VERSION_POINTER)
        text = data[pointer + _SECTOR : pointer + _SECTOR + 256].split(b"\0")[0].split(b" ")[0]
        if not pointer or not re.fullmatch(rb"\d+\.\d+[!-~]*", text):
            raise ImageError(attempt, "it is a bzImage that does not say its version")
        return Image(ImageKind.BZIMAGE, text.decode("ascii"))
    if data[:4] != b"\x7fELF":
        raise ImageError(
            attempt, "it is neither a bzImage nor an ELF vmlinux", "name a Linux kernel for x86-64"
        )
    if len(data) < 64 or data[4] != 2 or struct.unpack_from("<H", data, 18)[0] != _ELF_X86_64:
        raise ImageError(attempt, "it is an ELF file, but not for x86-64")
    banner = _BANNER.search(data)
    if banner is None:
        raise ImageError(attempt, "it is an ELF file, but no Linux kernel")
    if data.find(_PVH_NOTE) < 0 and data.find(_PVH_NOTE_64) < 0:
        raise ImageError(
            attempt,
            "it is a vmlinux without a PVH entry point, which QEMU cannot start",
            "build it with CONFIG_PVH, or name its bzImage",
        )
    return Image(ImageKind.VMLINUX, banner.group(1).decode("ascii"))
