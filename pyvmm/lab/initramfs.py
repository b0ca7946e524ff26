# SPDX-License-Identifier: MIT
"""The lab's initial RAM file system: its first process and its configuration.

The format is "newc" of cpio, as the kernel's Documentation/driver-api/early-userspace describes it.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostLacksError

INIT = Path(__file__).parent / "guest" / "build" / "init"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or device of the archive. `device` is (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Sequence[Entry]) -> bytes:
    """The archive with `entries`, folders before what is in them."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.name.encode() + b"\0"
        fields = (
            number,  # inode
            entry.mode,
            0,  # owner
            0,  # group
            1,  # links
            0,  # time of modification
            len(entry.data),
            0,  # device of the file
            0,
            *entry.device,
            len(name),
            0,  # checksum
        )
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the host that is exported under its own 9p tag. Not `writable`: cached."""

    tag: str
    path: str
    writable: bool


def lab_archive(folders: Sequence[Folder]) -> bytes:
    """The lab's archive. Raises `HostLacksError` where the first process was never built."""
    try:
        init = INIT.read_bytes()
    except OSError as error:
        raise HostLacksError(
            "start a lab", f"{INIT} is not built", "run make guests in the checkout"
        ) from error
    configuration = b"".join(
        folder.tag.encode() + b"\0" + folder.path.encode("utf-8", "surrogateescape") + b"\0"
        for folder in folders
    )
    return archive(
        (
            Entry("dev", stat.S_IFDIR | 0o755),
            # The first process's descriptors 0, 1 and 2, before there is a devtmpfs.
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            Entry("init", stat.S_IFREG | 0o755, init),
            Entry("lab.conf", stat.S_IFREG | 0o600, configuration),
        )
    )
