# SPDX-License-Identifier: MIT
"""The guest that is compared: what it is, and the files that every monitor is given of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyvmm.boot.unpacking import unpacked
from pyvmm.errors import HostLacksError, SystemCallError


@dataclass(frozen=True, slots=True)
class GuestRequest:
    """The guest to run, and its machine: `memory` in bytes, `timeout` in seconds for each run.

    `bundled` is the bundled guest's name, None for any other image; `typed` is what comes in on its
    console, which then is at its end.
    """

    name: str
    bundled: str | None
    image: bytes
    command_line: bytes
    initrd: bytes | None
    typed: bytes
    memory: int
    cpus: int
    timeout: float


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The same guest as files in memory that children inherit; descriptors are the owner's."""

    request: GuestRequest
    image: int
    initrd: int | None
    typed: int

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that every child needs, apart from its standard input."""
        return (self.image,) if self.initrd is None else (self.image, self.initrd)

    @contextmanager
    def standard_input(self) -> Iterator[int]:
        """The console's input from its beginning, for one run."""
        fd = os.open(path_of(self.typed), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def path_of(fd: int) -> str:
    """A path for descriptor `fd` that works in whoever has it."""
    return f"/proc/self/fd/{fd}"


@contextmanager
def guest_files(request: GuestRequest) -> Iterator[GuestFiles]:
    """Files for `request`. Raises `SystemCallError` where there is no memory for them.

    QEMU unpacks no image but Linux's own: all of them get it unpacked. Raises `HostLacksError`
    where /proc, by which children find them, is not mounted.
    """
    if not Path("/proc/self/fd").exists():
        attempt = "give monitors the guest's files"
        raise HostLacksError(attempt, "there is no /proc/self/fd", "mount /proc")
    image = unpacked(memoryview(request.image), f"boot {request.name}").image
    with ExitStack() as stack:
        yield GuestFiles(
            request,
            stack.enter_context(memory_file("image", image)),
            None
            if request.initrd is None
            else stack.enter_context(memory_file("initrd", request.initrd)),
            stack.enter_context(memory_file("typed", request.typed)),
        )


@contextmanager
def memory_file(
    name: str, content: bytes | memoryview = b"", size: int | None = None
) -> Iterator[int]:
    """A descriptor of a file in memory, of `size` bytes (default: as long as `content`)."""
    fd = -1
    try:
        try:
            fd = os.memfd_create(f"pyvmm-{name}", os.MFD_CLOEXEC)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.ftruncate(fd, len(content) if size is None else size)
        except OSError as error:
            raise SystemCallError(
                f"keep the guest's {name} in memory", error.errno or 0, error.strerror or ""
            ) from error
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
