# SPDX-License-Identifier: MIT
"""Compressed images: what is unpacked, how much of it, and what becomes of broken ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import lz4.block
import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot import recognise, unpacking
from pyvmm.boot.compression import Compression, compression_of
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol
from pyvmm.boot.unpacking import unpacked
from pyvmm.errors import ExitCode, HostLacksError, ImageError, PyvmmError, SystemCallError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import MIB

from .images import ENTRY, HLT, Segment, elf, multiboot_header, pvh, raw_multiboot
from .linux_images import bzimage
from .soundness import assert_sound

LAYOUT = AddressMap.of(64 * MIB)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_in_a_stream(data: bytes) -> bytes:
    """A frame that does not say how long its content is, with a checksum."""
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return packer.compress(data) + packer.flush()


def gzip_alike(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def lz4_legacy(data: bytes, block: int = 8 * MIB) -> bytes:
    """As ``lz4 -l`` packs, which is how Linux's build does."""
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), block):
        piece = lz4.block.compress(data[start : start + block], store_size=False)
        packed += len(piece).to_bytes(4, "little") + piece
    return packed


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip_alike,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd,
    "lzma": lzma_alone,
    "lz4": lz4.frame.compress,
    "lz4 -l": lz4_legacy,
}
each_format = pytest.mark.parametrize("title", PACKERS)


def unpack(data: bytes) -> bytes:
    return bytes(unpacked(memoryview(data), "boot x").image)


@each_format
@pytest.mark.parametrize(
    ("image", "protocol"),
    [
        (pvh(segments=[Segment(ENTRY, HLT * 100_000)]), BootProtocol.PVH),
        (elf(bits=32, multiboot=multiboot_header()), BootProtocol.MULTIBOOT),
        (raw_multiboot(), BootProtocol.MULTIBOOT),
        (HLT * 1000, BootProtocol.FLAT),
    ],
)
def test_an_image_boots_as_if_it_were_not_compressed(
    title: str, image: bytes, protocol: BootProtocol
) -> None:
    packed = plan_boot(PACKERS[title](image), LAYOUT)
    plan = plan_boot(image, LAYOUT)
    assert packed.protocol is protocol
    assert packed.entry == plan.entry
    assert packed.placements == plan.placements
    assert packed.remarks == (f"the image is unpacked with {title}: {len(image)} bytes",)
    assert_sound(packed, LAYOUT)


@each_format
def test_a_compressed_bzimage_is_a_bzimage(title: str) -> None:
    packed = plan_boot(PACKERS[title](bzimage()), LAYOUT)
    assert packed.protocol is BootProtocol.LINUX_64
    assert packed.placements == plan_boot(bzimage(), LAYOUT).placements


@pytest.mark.parametrize("pack", [*PACKERS.values(), zstd_in_a_stream])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4), zeroes=st.integers(0, 20))
def test_streams_that_follow_one_another(
    pack: Callable[[bytes], bytes], parts: list[bytes], zeroes: int
) -> None:
    data = b"".join(pack(part) for part in parts) + bytes(zeroes)
    whole = b"\0" + b"".join(parts)  # whatever the parts begin with, this is not compressed
    assert unpack(pack(b"\0") + data) == whole


@each_format
def test_what_follows_the_stream_is_ignored_and_told(title: str) -> None:
    image, remarks = unpacked(memoryview(PACKERS[title](pvh()) + b"signature"), "boot x")
    assert bytes(image) == pvh()
    told = "the last 9 bytes of the file are ignored: they are not compressed"
    assert remarks[1:] == (told,)


@pytest.mark.parametrize("pack", [*PACKERS.values(), zstd_in_a_stream])
def test_cut_off_anywhere(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(pvh())
    for size in range(14 if pack is lzma_alone else 6, len(packed)):
        with pytest.raises(ImageError, match=r"stream is (cut off|damaged)") as caught:
            plan_boot(packed[:size], LAYOUT)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [*PACKERS.values(), zstd_in_a_stream])
@given(data=st.data())
def test_damage_is_told_or_does_no_harm(
    pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    packed = bytearray(pack(pvh()))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert_sound(plan_boot(bytes(packed), LAYOUT), LAYOUT)
    except PyvmmError as error:
        assert error.exit_code is ExitCode.BAD_IMAGE
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "magic",
    [
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"BZh9",
        b"\x04\x22\x4d\x18",
        b"\x02\x21\x4c\x18",
    ],
)
@given(data=st.binary(max_size=100))
def test_junk_behind_a_magic_number(magic: bytes, data: bytes) -> None:
    try:
        plan_boot(magic + data, LAYOUT)
    except PyvmmError as error:
        assert error.exit_code is ExitCode.BAD_IMAGE
        assert "\n" not in str(error)


def test_blocks_of_the_older_lz4_format() -> None:
    data = bytes(range(256)) * 40
    packed = lz4_legacy(data, 999)
    assert unpack(packed) == data
    assert unpack(packed + bytes(5)) == data
    assert unpack(packed + len(data).to_bytes(4, "little")) == data, "as Linux's build leaves it"
    with pytest.raises(ImageError, match="lz4 -l stream is cut off"):
        unpack(packed + (len(data) + 1).to_bytes(4, "little"))
    assert unpack(packed + packed) == data + data
    with pytest.raises(ImageError, match="a block of 4294967295 bytes, at most 8421520 can be"):
        unpack(packed[:4] + b"\xff" * 8)


# Bombs -------------------------------------------------------------------------------------------


@each_format
def test_a_bomb_is_unpacked_no_further_than_raw_code_can_be(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counting(stream: unpacking._Stream, library: unpacking._Format) -> object:
        for piece in one(stream, library):
            seen.append(len(piece))
            yield piece

    one = unpacking._Stream._one
    monkeypatch.setattr(unpacking._Stream, "_one", counting)
    # A KiB of zstd is 32 MiB at the most, and that cannot be stopped in the middle.
    step, size = (32 * MIB, 96 * MIB) if title == "zstd" else (MIB, 8 * MIB)
    if title == "lz4 -l":
        step, size = 8 * MIB, 32 * MIB  # its blocks
    bomb = PACKERS[title](bytes(size))
    with pytest.raises(ImageError, match=r"unpacked: it is no ELF file, .* longer than raw code"):
        plan_boot(bomb, LAYOUT)
    assert sum(seen) <= recognise._TOO_LONG.most + step


@each_format
def test_a_bomb_in_an_elf_file(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = recognise.SizeLimit(2 * MIB, "it is larger than 2 MiB", "strip it")
    monkeypatch.setattr(recognise, "_MUCH_TOO_LONG", limit)
    image = pvh()
    fits = image.ljust(2 * MIB, b"\0")
    assert plan_boot(PACKERS[title](fits), LAYOUT).protocol is BootProtocol.PVH
    with pytest.raises(ImageError, match="boot image, unpacked: it is larger than 2 MiB; strip"):
        plan_boot(PACKERS[title](fits + b"\0"), LAYOUT)


@each_format
def test_compressed_twice(title: str) -> None:
    for second in PACKERS.values():
        with pytest.raises(ImageError, match="compressed twice; unpack it with"):
            plan_boot(PACKERS[title](second(pvh())), LAYOUT)


def test_a_window_larger_than_memory_is_refused() -> None:
    """32 bytes of zstd can ask for a terabyte before there is any output."""
    header = b"\x28\xb5\x2f\xfd" + bytes((0x00, (40 - 10) << 3))
    with pytest.raises(ImageError, match="zstd stream is damaged"):
        plan_boot(header + b"\x01\x00\x00" + bytes(32), LAYOUT)


def test_a_dictionary_larger_than_memory_is_refused() -> None:
    packed = bytearray(lzma.compress(pvh()))
    header = slice(12, 12 + (packed[12] + 1) * 4 - 4)  # the block's, up to its CRC
    assert packed[14:16] == b"\x21\1", "LZMA2, one byte of properties"
    packed[16] = 40  # 4 GiB
    packed[header.stop : header.stop + 4] = zlib.crc32(packed[header]).to_bytes(4, "little")
    with pytest.raises(ImageError, match=r"xz stream is damaged: Memory usage limit"):
        plan_boot(bytes(packed), LAYOUT)


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        eof = False

        def decompress(self, data: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(zlib, "decompressobj", lambda _: Full())
    with pytest.raises(SystemCallError, match="no memory to unpack it"):
        plan_boot(gzip_alike(pvh()), LAYOUT)


# Libraries ---------------------------------------------------------------------------------------


def test_what_nobody_here_unpacks() -> None:
    magic = b"\x89LZO\0\r\n\x1a\n"
    with pytest.raises(ImageError, match="compressed with lzop; unpack it with lzop"):
        plan_boot(magic + bytes(100), LAYOUT)
    large = recognise.size_limit(magic + bytes(recognise.BEGINNING))
    assert large.most == recognise.MAX_SIZE, "else it would be called too long for raw code"


def lzma_header(
    properties: int = 0x5D, dictionary: int = 1 << 23, size: int = (1 << 64) - 1, first: int = 0
) -> bytes:
    return struct.pack("<BIQB", properties, dictionary, size, first)


@pytest.mark.parametrize("preset", [0, 3, 6, 9])
def test_legacy_lzma_is_recognised_by_its_header(preset: int) -> None:
    packed = lzma.compress(pvh(), lzma.FORMAT_ALONE, preset=preset)
    assert unpack(packed) == pvh()
    with_size = packed[:5] + len(pvh()).to_bytes(8, "little") + packed[13:]
    assert unpack(with_size) == pvh()


@pytest.mark.parametrize("dictionary", [1 << 12, 3 << 15, 1 << 31, 3 << 30])
def test_so_is_any_size_of_its_dictionary(dictionary: int) -> None:
    assert compression_of(memoryview(lzma_header(dictionary=dictionary))) is Compression.LZMA


@pytest.mark.parametrize(
    "code",
    [
        b"\x5d",
        b"\x5d" + bytes(511),
        b"\x5d\x00\x00" + b"\xf4" * 509,
        b"\x5d\x00\x00\x80\x00" + b"\x90" * 507,
        lzma_header()[:-1],
        lzma_header(properties=0x5E),
        lzma_header(dictionary=0),
        lzma_header(dictionary=1 << 11),
        lzma_header(dictionary=5 << 20),
        lzma_header(size=0),
        lzma_header(size=1 << 38),
        lzma_header(size=(1 << 64) - 2),
        lzma_header(first=1),
    ],
)
def test_raw_code_that_begins_with_pop_bp_is_raw_code(code: bytes) -> None:
    assert plan_boot(code, LAYOUT).protocol is BootProtocol.FLAT


@pytest.mark.parametrize("title", ["zstd", "lz4", "lz4 -l"])
def test_without_a_library(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(unpacking, "import_module", no_module)
    program = title.partition(" ")[0]
    words = rf"no library for that; install pyvmm\[images\], or unpack it with {program} -d"
    with pytest.raises(HostLacksError, match=words):
        plan_boot(PACKERS[title](pvh()), LAYOUT)
    assert plan_boot(gzip_alike(pvh()), LAYOUT).protocol is BootProtocol.PVH


def test_the_library_of_python_3_14(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface is bz2's; here bz2 stands in for it."""

    class Library:
        ZstdError = OSError

        class DecompressionParameter:
            window_log_max = "window"

        @staticmethod
        def ZstdDecompressor(options: object) -> bz2.BZ2Decompressor:  # noqa: N802
            assert options == {"window": 27}
            return bz2.BZ2Decompressor()

    monkeypatch.setattr(unpacking, "import_module", {"compression.zstd": Library}.__getitem__)
    library = unpacking._zstd_library("boot x")
    assert library.is_limited
    assert library.make().decompress(bz2.compress(b"x"), 1) == b"x"


def test_nothing_is_imported_that_is_not_needed() -> None:
    """Every start of a guest would pay for it."""
    program = (
        "import sys; from pyvmm.boot.loader import plan_boot\n"
        "from pyvmm.memory.address_map import AddressMap\n"
        "plan_boot(b'\\xf4', AddressMap.of(2 << 20))\n"
        "print(*({'lzma', '_lzma', 'bz2', '_bz2', 'zstandard', 'zlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path}\n{program}"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout == "\n"
