# SPDX-License-Identifier: MIT
"""Compression of an image, told from its first bytes, as kernels and hypervisors are shipped."""

from __future__ import annotations

import enum


class Compression(enum.Enum):
    """The formats that are unpacked; the values are what they begin with.

    gzip: RFC 1952 (with the one method there is); xz: its file format, 2.1.1.1; zstd: RFC 8878;
    bzip2: with the block size left out.
    """

    GZIP = b"\x1f\x8b\x08"
    XZ = b"\xfd7zXZ\0"
    ZSTD = b"\x28\xb5\x2f\xfd"
    BZIP2 = b"BZh"

    @property
    def title(self) -> str:
        """As its program is called."""
        return self.name.lower()


_OTHERS = {
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x89LZO\0\r\n\x1a\n": "lzop",
}
"""Formats that Linux and Xen can be packed with, too, and that no library of ours unpacks."""


def compression_of(view: memoryview) -> Compression | None:
    """The compression of the file in `view`, None for none that is known."""
    beginning = bytes(view[:8])
    return next((one for one in Compression if beginning.startswith(one.value)), None)


def unknown_compression_of(view: memoryview) -> str:
    """The name of a compression that is not unpacked, "" for none."""
    beginning = bytes(view[:16])
    return next((name for magic, name in _OTHERS.items() if beginning.startswith(magic)), "")
