# SPDX-License-Identifier: MIT
"""Unpacking compressed images: as much as an image can have, and no more.

Libraries are imported when something needs them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from pyvmm.boot.compression import Compression, compression_of, unknown_compression_of
from pyvmm.boot.recognise import BEGINNING, size_limit
from pyvmm.errors import HostLacksError, ImageError, SystemCallError

_OUTPUT = 1 << 20
"""Bytes of output at a time, of a decompressor that can stop there."""
_INPUT = 1 << 16
_SMALL_INPUT = 1 << 10
"""For one that cannot stop: zlib makes 1 MiB of that at the most, zstd 32 MiB (RFC 8878, 3.1.1.2: 4
bytes are a block of 128 KiB at the most)."""
_MEMORY = 1 << 28
"""Memory limit of xz's decoder in bytes, mostly for its dictionary (xz -9: 64 MiB)."""
_WINDOW_LOG = 27
"""zstd's window: as far as its own program goes when nobody asks it for more, 128 MiB."""


class Unpacked(NamedTuple):
    """An image, and what to tell of its unpacking (`pyvmm.boot.plan.BootPlan.remarks`)."""

    image: memoryview
    remarks: tuple[str, ...] = ()


class _Format(NamedTuple):
    """A library: what makes a decompressor, what it raises, whether its output can be limited."""

    make: Callable[[], Any]
    errors: tuple[type[Exception], ...]
    is_limited: bool
    may_end: Callable[[Any], bool] = lambda _: False
    """Tells of a decompressor whether the end of the file is the end of its stream."""


def unpacked(view: memoryview, attempt: str) -> Unpacked:
    """The image in `view` (the whole file, read-only bytes) as it is or, if need be, unpacked.

    Streams that follow one another are one, as for the formats' own programs; what follows the last
    one is ignored. Raises `ImageError` for a stream that is cut off or damaged, for one of more
    bytes than an image of its kind may have, and for what is compressed twice or by something that
    is not known; `HostLacksError` where there is no library for it; `SystemCallError` where there
    is no memory for it.
    """
    compression = compression_of(view)
    if compression is None:
        other = unknown_compression_of(view)
        if other:
            raise ImageError(attempt, f"it is compressed with {other}", f"unpack it with {other}")
        return Unpacked(view)
    image = bytearray()
    stream = _Stream(compression, view, attempt)
    most = None
    try:
        for piece in stream:
            image += piece
            if most is None and len(image) >= BEGINNING:
                limit = size_limit(bytes(image[:BEGINNING]))
                most = limit.most
            if most is not None and len(image) > most:
                raise ImageError(f"{attempt}, unpacked", limit.cause, limit.remedy)
    except MemoryError as error:
        raise SystemCallError(
            attempt, errno.ENOMEM, "there is no memory to unpack it", "raise the limit (ulimit -v)"
        ) from error
    content = memoryview(image).toreadonly()
    if compression_of(content) or unknown_compression_of(content):
        raise ImageError(attempt, "it is compressed twice", f"unpack it with {compression.title}")
    remarks = [f"the image is unpacked with {compression.title}: {len(image)} bytes"]
    if bytes(stream.rest()).strip(b"\0"):
        ignored = len(stream.rest())
        remarks.append(f"the last {ignored} bytes of the file are ignored: they are not compressed")
    return Unpacked(content, tuple(remarks))


class _Stream:
    """The output of all streams in `view`, piece by piece; then `rest` is what follows them."""

    def __init__(self, compression: Compression, view: memoryview, attempt: str) -> None:
        self._compression = compression
        self._view = view
        self._offset = 0
        self._attempt = attempt

    def __iter__(self) -> Iterator[bytes]:
        title = self._compression.title
        library = _library(self._compression, self._attempt)
        try:
            while compression_of(self.rest()) is self._compression:
                yield from self._one(library)
        except library.errors as error:
            raise ImageError(
                self._attempt, f"its {title} stream is damaged: {error}", "get the file anew"
            ) from error

    def rest(self) -> memoryview:
        """Return the input that has not been unpacked."""
        return self._view[self._offset :]

    def _one(self, library: _Format) -> Iterator[bytes]:
        decompressor = library.make()
        size = _INPUT if library.is_limited else _SMALL_INPUT
        while not decompressor.eof:
            data = self.rest()[:size]
            if not data and library.may_end(decompressor):
                return
            if not data:
                title = self._compression.title
                raise ImageError(
                    self._attempt, f"its {title} stream is cut off", "get the file anew"
                )
            self._offset += len(data)
            if not library.is_limited:
                yield decompressor.decompress(data)
                continue
            yield decompressor.decompress(data, _OUTPUT)
            while not (decompressor.eof or decompressor.needs_input):
                yield decompressor.decompress(b"", _OUTPUT)
        self._offset -= len(decompressor.unused_data or b"")


def _library(compression: Compression, attempt: str) -> _Format:
    match compression:
        case Compression.GZIP:
            import zlib

            # 16: a gzip header and trailer, which are checked.
            return _Format(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), (zlib.error,), False)
        case Compression.XZ:
            import lzma

            return _Format(
                lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY), (lzma.LZMAError,), True
            )
        case Compression.BZIP2:
            import bz2

            return _Format(bz2.BZ2Decompressor, (OSError, ValueError), True)
        case Compression.LZMA:
            import lzma

            return _Format(
                lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MEMORY), (lzma.LZMAError,), True
            )
        case Compression.ZSTD:
            return _zstd_library(attempt)
        case Compression.LZ4 | Compression.LZ4_LEGACY:
            return _lz4_library(compression, attempt)


def _lz4_library(compression: Compression, attempt: str) -> _Format:
    """The package ``lz4``: its frames, and its blocks for the older format."""
    try:
        frame, block = import_module("lz4.frame"), import_module("lz4.block")
    except ImportError as error:
        raise HostLacksError(
            attempt,
            "it is compressed with lz4, and this Python has no library for that",
            "install pyvmm[images], or unpack it with lz4 -d",
        ) from error
    if compression is Compression.LZ4:
        return _Format(frame.LZ4FrameDecompressor, (RuntimeError,), True)
    from pyvmm.boot.lz4_legacy import BLOCK_SIZE, LegacyDecompressor, LegacyStreamError

    def one_block(data: bytes) -> bytes:
        return bytes(block.decompress(data, uncompressed_size=BLOCK_SIZE))

    return _Format(
        lambda: LegacyDecompressor(one_block),
        (block.LZ4BlockError, LegacyStreamError),
        False,
        lambda decompressor: bool(decompressor.may_end),
    )


def _zstd_library(attempt: str) -> _Format:
    """Python's own (from 3.14 on), or the package ``zstandard``."""
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        pass
    else:
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return _Format(lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,), True)
    try:
        package = import_module("zstandard")
    except ImportError as error:
        raise HostLacksError(
            attempt,
            "it is compressed with zstd, and this Python has no library for that",
            "install pyvmm[images], or unpack it with zstd -d",
        ) from error
    make = package.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj
    return _Format(make, (package.ZstdError,), False)
