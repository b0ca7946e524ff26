# SPDX-License-Identifier: MIT
"""Files that can be disks, and those that cannot: each refused with its reason."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import trio

from pyvmm.errors import (
    ExitCode,
    HostLacksError,
    ImageError,
    NoInputError,
    NoPermissionError,
    PyvmmError,
    SystemCallError,
    UsageError,
)
from pyvmm.machine.disks.opening import open_disk
from pyvmm.machine.hardware import Disk, DiskFormat


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / "disk"
    path.write_bytes(content)
    return path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def refusal(disk: Disk, kind: type[PyvmmError], code: ExitCode, cause: str) -> None:
    """Expect `open_disk` to refuse, and to leave nothing open."""
    before = descriptors()
    with pytest.raises(kind, match=re.escape(cause)) as refused:
        open_disk(disk)
    assert refused.value.exit_code is code
    assert "\n" not in str(refused.value)
    assert descriptors() <= before


def test_a_raw_file_is_read_and_written(tmp_path: Path) -> None:
    path = file_of(tmp_path, bytes(512) + b"x" * 512)

    async def main() -> None:
        with open_disk(Disk(path)) as store:
            assert store.size == 1024
            read = bytearray(600)
            await store.read(424, [memoryview(read)[:9], memoryview(read)[9:]])
            assert read == bytes(88) + b"x" * 512
            await store.write(510, [memoryview(b"12"), memoryview(b"34")])
            await store.flush()

    trio.run(main)
    assert path.read_bytes() == bytes(510) + b"1234" + b"x" * 510


def test_a_file_that_has_become_shorter_is_an_i_o_error(tmp_path: Path) -> None:
    path = file_of(tmp_path, bytes(1024))

    async def main() -> None:
        with open_disk(Disk(path)) as store:
            os.truncate(path, 600)
            with pytest.raises(OSError, match="shorter") as failed:
                await store.read(512, [memoryview(bytearray(512))])
            assert failed.value.errno == errno.EIO

    trio.run(main)


def test_what_is_no_file(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    refusal(Disk(absent), NoInputError, ExitCode.NO_INPUT, "no such file")
    refusal(Disk(tmp_path), NoInputError, ExitCode.NO_INPUT, "it is a directory")
    refusal(Disk(tmp_path, read_only=True), NoInputError, ExitCode.NO_INPUT, "it is a directory")
    device = Path("/dev/null")
    refusal(Disk(device), NoInputError, ExitCode.NO_INPUT, "it is a character device")
    refusal(Disk(Path("a\0b")), NoInputError, ExitCode.NO_INPUT, "null byte")
    refusal(Disk(tmp_path / ("n" * 300)), SystemCallError, ExitCode.SYSTEM_CALL, "too long")
    os.mkfifo(absent)
    refusal(Disk(absent), NoInputError, ExitCode.NO_INPUT, "it is a pipe")
    refusal(Disk(absent, read_only=True), NoInputError, ExitCode.NO_INPUT, "it is a pipe")
    file = file_of(tmp_path, bytes(512))
    refusal(Disk(file / "x"), NoInputError, ExitCode.NO_INPUT, "Not a directory")
    endless = Disk(Path("/proc/version"), read_only=True)
    refusal(endless, NoInputError, ExitCode.NO_INPUT, "it has no size")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_file_without_the_right_to_write(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, bytes(512))
    opened = os.open

    def open_unwritable(name: Path, flags: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number))
        return opened(name, flags)

    monkeypatch.setattr(os, "open", open_unwritable)
    refusal(Disk(path), NoPermissionError, ExitCode.NO_PERMISSION, "readonly=on")
    open_disk(Disk(path, read_only=True)).close()


def test_sizes_that_no_disk_has(tmp_path: Path) -> None:
    refusal(Disk(file_of(tmp_path, b"")), ImageError, ExitCode.BAD_IMAGE, "it is empty")
    path = file_of(tmp_path, bytes(513))
    cause = "it has 513 bytes, and a disk has whole sectors of 512; pad it with truncate -s 1024 "
    refusal(Disk(path), ImageError, ExitCode.BAD_IMAGE, cause)


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"conectix", "VHD"),
        (b"vhdxfile", "VHDX"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "VDI"),
    ],
)
def test_what_begins_like_another_format_is_refused_unless_it_is_said_to_be_raw(
    tmp_path: Path, beginning: bytes, name: str
) -> None:
    path = file_of(tmp_path, beginning.ljust(1024, b"\0"))
    refusal(Disk(path), UsageError, ExitCode.USAGE, f"it begins like a {name} image")
    open_disk(Disk(path, format=DiskFormat.RAW)).close()


def test_qcow2_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"QFI\xfb".ljust(512, b"\0"))
    refusal(
        Disk(path, format=DiskFormat.QCOW2),
        HostLacksError, ExitCode.HOST_LACKS, f"qemu-img convert -O raw {path}",
    )  # fmt: skip
