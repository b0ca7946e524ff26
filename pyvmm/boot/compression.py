# SPDX-License-Identifier: MIT
"""Compression of an image, told from its first bytes, as kernels and hypervisors are shipped."""

from __future__ import annotations

import enum
import struct


class Compression(enum.Enum):
    """The formats that are unpacked; the values are what they begin with.

    gzip: RFC 1952 (with the one method there is); xz: its file format, 2.1.1.1; zstd: RFC 8878;
    bzip2: with the block size left out. lz4 has two formats; Linux is packed with the older one.
    ``.lzma``, which is older than xz, has no magic (`_begins_as_lzma`).
    """

    GZIP = b"\x1f\x8b\x08"
    XZ = b"\xfd7zXZ\0"
    ZSTD = b"\x28\xb5\x2f\xfd"
    BZIP2 = b"BZh"
    LZ4 = b"\x04\x22\x4d\x18"
    LZ4_LEGACY = b"\x02\x21\x4c\x18"
    LZMA = b""

    @property
    def title(self) -> str:
        """As its program is called."""
        return "lz4 -l" if self is Compression.LZ4_LEGACY else self.name.lower()


_OTHERS = {b"\x89LZO\0\r\n\x1a\n": "lzop"}
"""Formats that Linux and Xen can be packed with, too, and that are not unpacked here."""

_LZMA = struct.Struct("<BIQB")
_LZMA_PROPERTIES = 0x5D
"""lc=3, lp=0, pb=2: the packers' default, with which kernels are packed."""
_LZMA_UNKNOWN_SIZE = (1 << 64) - 1
_LZMA_MAX_SIZE = 1 << 38
"""Plausible sizes of the unpacked data end here for xz, too."""
_LZMA_MIN_DICTIONARY = 1 << 12


def compression_of(view: memoryview) -> Compression | None:
    """The compression of the file in `view`, None for none that is known."""
    beginning = bytes(view[:16])
    if _begins_as_lzma(beginning):
        return Compression.LZMA
    known = (one for one in Compression if one.value and beginning.startswith(one.value))
    return next(known, None)


def unknown_compression_of(view: memoryview) -> str:
    """The name of a compression that is not unpacked, "" for none."""
    beginning = bytes(view[:16])
    return next((name for magic, name in _OTHERS.items() if beginning.startswith(magic)), "")


def _begins_as_lzma(beginning: bytes) -> bool:
    """Tell whether these bytes are the header of the ``.lzma`` format, all of it.

    It has no magic, and its first byte is an instruction (POP BP) that raw code may begin with. So
    the dictionary's size must be 2^n or 2^n + 2^(n-1) bytes, that of the data unknown or plausible,
    and the range coder's first byte 0 (LZMA SDK, ``lzma-specification.txt``; XZ Utils ask for the
    same).
    """
    if len(beginning) < _LZMA.size:
        return False
    properties, dictionary, size, first = _LZMA.unpack_from(beginning)
    lowest = dictionary & -dictionary
    return (
        properties == _LZMA_PROPERTIES
        and dictionary >= _LZMA_MIN_DICTIONARY
        and dictionary in (lowest, 3 * lowest)
        and (size == _LZMA_UNKNOWN_SIZE or 0 < size < _LZMA_MAX_SIZE)
        and first == 0
    )
