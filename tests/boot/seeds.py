# SPDX-License-Identifier: MIT
"""Images of every kind that is loaded: what is damaged begins with them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import lz4.frame
import zstandard

from .images import (
    ENTRY,
    ET_DYN,
    HLT,
    Segment,
    elf,
    multiboot_header,
    needs_note,
    note,
    pvh_note,
    raw_multiboot,
)
from .linux_images import bzimage, with_payload, zboot

NOTES = pvh_note() + needs_note(1) + note(b"GNU", 1, bytes(16)) + note(b"GNU", 5, bytes(16))
RELOC = note(b"Xen", 19, struct.pack("<3I", 4096, 0, 0xFFFFFFFF))
SEGMENTS = (Segment(ENTRY, HLT * 40, zeros=64), Segment(0x180000, b"data" * 8, zeros=0x100))
_ELF = elf(SEGMENTS, NOTES, bits=64)
_SMALL = {"init_size": 0x10000, "pref_address": 0x100000, "kernel_alignment": 0x1000}
"""Fits into 2 MiB."""

SEEDS = [
    _ELF,
    elf(SEGMENTS, NOTES, bits=32),
    elf(SEGMENTS, needs_note(0), bits=32, multiboot=multiboot_header(3)),
    elf(SEGMENTS, bits=64, multiboot=multiboot_header(0)),
    raw_multiboot(code=HLT * 32),
    bzimage(HLT * 1024),
    gzip.compress(_ELF, mtime=0),
    lzma.compress(elf(SEGMENTS, NOTES, bits=32)),
    elf((Segment(0, HLT * 40, zeros=64), *SEGMENTS[1:]), pvh_note(8) + RELOC, kind=ET_DYN),
    bzimage(HLT * 1024, **_SMALL),
    bzimage(HLT * 1024, version=0x206, relocatable_kernel=0, kernel_alignment=0),
    bzimage(HLT * 1024, xloadflags=0, **_SMALL),
    bzimage(HLT * 1024, version=0x207, code32_start=0, relocatable_kernel=0),
    with_payload(gzip.compress(_ELF, mtime=0), **_SMALL),
    zboot(gzip.compress(_ELF, mtime=0)),
    lzma.compress(_ELF, lzma.FORMAT_ALONE),
    bz2.compress(_ELF),
    zstandard.ZstdCompressor().compress(_ELF),
    lz4.frame.compress(_ELF),
]
