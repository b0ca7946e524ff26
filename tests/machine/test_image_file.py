# SPDX-License-Identifier: MIT
"""Files that an image, an initrd or an input can be: pipes, FIFOs, odd ones, large ones."""

from __future__ import annotations

import errno
import gzip
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvmm.boot import recognise
from pyvmm.errors import ImageError, NoInputError
from pyvmm.machine.image_file import read_image, read_input

from ..boot.images import pvh, raw_multiboot

MUCH = bytes(range(256)) * 2048  # half a MiB: a pipe takes 64 KiB


def open_for_writing(fifo: Path, gone: threading.Event) -> int:
    """As soon as somebody has it open for reading; -1 where nobody will."""
    while not gone.is_set():
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            assert error.errno == errno.ENXIO
        else:
            os.set_blocking(fd, True)
            return fd
    return -1


@contextmanager
def fifo_with(path: Path, write: Callable[[int], None]) -> Iterator[Path]:
    """A FIFO whose writer comes when its reader is there already."""
    os.mkfifo(path)
    gone = threading.Event()

    def be_late() -> None:
        fd = open_for_writing(path, gone)
        if fd >= 0:
            with suppress(BrokenPipeError):
                write(fd)
            os.close(fd)

    writer = threading.Thread(target=be_late)
    writer.start()
    try:
        yield path
    finally:
        gone.set()
        writer.join()


def write_all(data: bytes) -> Callable[[int], None]:
    def write(fd: int) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[:1000]) :]

    return write


def write_for_ever(fd: int) -> None:
    while True:
        os.write(fd, MUCH)


@pytest.mark.parametrize("data", [b"", b"x", MUCH])
def test_a_fifo_is_waited_for(tmp_path: Path, data: bytes) -> None:
    with fifo_with(tmp_path / "fifo", write_all(data)) as fifo:
        assert read_input(fifo, len(MUCH)) == data


def test_an_image_from_a_fifo(tmp_path: Path) -> None:
    with fifo_with(tmp_path / "fifo", write_all(pvh())) as fifo:
        assert read_image(fifo) == pvh()


@pytest.mark.parametrize("content", [b"", b"x" * 1000])
def test_a_pipe_whose_writer_has_gone_has_an_end(content: bytes) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, content)
        os.close(writer)
        assert read_input(Path(f"/proc/self/fd/{reader}"), 1000) == content
    finally:
        os.close(reader)


def test_one_who_writes_for_ever_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        fifo_with(tmp_path / "junk", write_for_ever) as junk,
        pytest.raises(ImageError, match="no ELF file"),
    ):
        read_image(junk)
    with (
        fifo_with(tmp_path / "input", write_for_ever) as fifo,
        pytest.raises(ImageError, match="larger than it may be, 5000000 bytes"),
    ):
        read_input(fifo, 5_000_000)
    limit = recognise.SizeLimit(1 << 20, "it is larger than 1 MiB", "")
    monkeypatch.setattr(recognise, "_MUCH_TOO_LONG", limit)

    def write_elf(fd: int) -> None:
        write_all(pvh())(fd)
        write_for_ever(fd)

    with (
        fifo_with(tmp_path / "elf", write_elf) as fifo,
        pytest.raises(ImageError, match="larger than 1 MiB"),
    ):
        read_image(fifo)


@pytest.mark.parametrize("size", [0, 1, 4999, 5000])
def test_the_limit_is_the_last_that_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert read_input(path, 5000) == bytes(size)
    with pytest.raises(ImageError, match=r"larger than b, 4 bytes; r$") as caught:
        path.write_bytes(bytes(5))
        read_input(path, 4, "b", "r")
    assert "\n" not in str(caught.value)


def test_images_may_be_longer_than_raw_code(tmp_path: Path) -> None:
    path = tmp_path / "image"
    for image in (pvh(), raw_multiboot(), gzip.compress(pvh())):
        path.write_bytes(image + bytes(3 << 20))
        assert read_image(path) == image + bytes(3 << 20)


def test_files_of_proc_have_more_than_they_say() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert read_input(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/urandom", "/"])
def test_what_is_no_file(path: str) -> None:
    with pytest.raises(NoInputError, match=r"it is a (character device|directory)"):
        read_image(Path(path))


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for path in (Path("/"), Path("/dev/null"), Path("/proc/self/status"), tmp_path / "none"):
        with suppress(NoInputError):
            read_input(path, 1 << 20)
    assert os.listdir("/proc/self/fd") == before
