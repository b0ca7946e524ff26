# SPDX-License-Identifier: MIT
"""The legacy frame format of lz4, with which Linux packs kernels (lz4 ``doc/lz4_Frame_format.md``).

A magic number, then blocks: 4 bytes of size, and an lz4 block of at most 8 MiB unpacked. Nothing
marks the end: it is where the file ends, or another stream begins. lz4's own library takes blocks,
and frames of the newer format only.
"""

from __future__ import annotations

from collections.abc import Callable

MAGIC = b"\x02\x21\x4c\x18"
BLOCK_SIZE = 8 << 20
"""The most bytes that a block has when it is unpacked."""
_MOST_PACKED = BLOCK_SIZE + BLOCK_SIZE // 255 + 16
"""LZ4_compressBound of it."""
_SIZE = 4


class LegacyStreamError(Exception):
    """A stream of blocks that cannot be."""


class LegacyDecompressor:
    """As Python's decompressors: `decompress` until `eof`, then `unused_data` is what follows.

    `decompress_block` takes a block's bytes and returns at most `BLOCK_SIZE` bytes; what it raises
    is passed on.
    """

    def __init__(self, decompress_block: Callable[[bytes], bytes]) -> None:
        self._decompress_block = decompress_block
        self._pending = bytearray()
        self._size = 0
        self._has_magic = False
        self.eof = False
        self.unused_data = b""

    @property
    def may_end(self) -> bool:
        """True if the file may end here: between two blocks, behind zeroes or the size of all.

        Linux's build appends the latter to what it packs (``size_append`` in its
        ``scripts/Makefile.lib``).
        """
        if not self._has_magic:
            return False
        left = bytes(self._pending)
        is_suffix = left == (self._size & 0xFFFF_FFFF).to_bytes(_SIZE, "little")
        return is_suffix or not left.strip(b"\0")

    def decompress(self, data: bytes | memoryview) -> bytes:
        """Take more input, and return what the blocks that are whole now unpack to.

        Raises `LegacyStreamError` for a block of a size that cannot be.
        """
        self._pending += data
        if not self._has_magic:
            if len(self._pending) < len(MAGIC):
                return b""
            del self._pending[: len(MAGIC)]
            self._has_magic = True
        output = bytearray()
        while not self.eof and (block := self._next_block()) is not None:
            piece = self._decompress_block(block)
            self._size += len(piece)
            output += piece
        return bytes(output)

    def _next_block(self) -> bytes | None:
        """The next block, None if it is not whole yet or there is none."""
        if len(self._pending) < _SIZE:
            return None
        head = bytes(self._pending[:_SIZE])
        size = int.from_bytes(head, "little")
        # As for lz4's own program, what cannot be a block's size is not the stream's any more.
        if size == 0 or head == MAGIC or (size > _MOST_PACKED and self._size):
            self.eof = True
            self.unused_data = bytes(self._pending)
            return None
        if len(self._pending) == _SIZE:
            return None  # It may be the size of all.
        if size > _MOST_PACKED:
            raise LegacyStreamError(f"a block of {size} bytes, at most {_MOST_PACKED} can be")
        if len(self._pending) < _SIZE + size:
            return None
        block = bytes(self._pending[_SIZE : _SIZE + size])
        del self._pending[: _SIZE + size]
        return block
