"""How much memory the host will give: asked before a guest is promised more."""

from __future__ import annotations

import os
from dataclasses import dataclass

_UNLIMITED = 1 << 62


def available() -> int:
    """Bytes that can be handed to a guest now.

    The least of what the kernel calls available (``MemAvailable``: free memory and cache that can
    be dropped; swap does not count, guest_memfd pages are never swapped) and what is left under
    the memory limits of the process's control group (either version) and its parents.
    """
    return min([_mem_available(), *_cgroup_headrooms()])


def _mem_available() -> int:
    text = _read("/proc/meminfo")
    start = text.find(b"MemAvailable:")
    return int(text[start:].split(maxsplit=2)[1]) * 1024 if start >= 0 else _UNLIMITED


def _cgroup_headrooms() -> list[int]:
    """What each limiting group on the way to the root has left, in bytes."""
    headrooms = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(b":", 2)
        for version in _VERSIONS:
            if version.controller in controllers.split(b","):
                headrooms += version.headrooms(os.fsdecode(group).strip("/"))
    return headrooms


@dataclass(frozen=True, slots=True)
class _Version:
    """How one version of control groups tells a group's memory limit."""

    controller: bytes
    root: str
    limit: str
    usage: str
    cache: bytes

    def headrooms(self, group: str) -> list[int]:
        """For `group` and its parents; a group without a limit is left out.

        The root counts too: in a container it is the container's own group. The real one has no
        such files.
        """
        found = []
        while True:
            folder = f"{self.root}/{group}".rstrip("/")
            limit = _read(f"{folder}/{self.limit}").strip()
            if limit.isdigit() and int(limit) < _UNLIMITED:
                found.append(max(0, int(limit) - self._used(folder)))
            if not group:
                return found
            group = group.rpartition("/")[0]

    def _used(self, folder: str) -> int:
        """What cannot be had back: the usage without file cache that nobody looked at lately."""
        used = _read(f"{folder}/{self.usage}").strip()
        fields = dict(
            line.split(maxsplit=1)
            for line in _read(f"{folder}/memory.stat").splitlines()
            if b" " in line
        )
        cache = fields.get(self.cache, b"0")
        return int(used) - int(cache) if used.isdigit() else 0


_VERSIONS = (
    _Version(b"", "/sys/fs/cgroup", "memory.max", "memory.current", b"inactive_file"),
    _Version(
        b"memory",
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        b"total_inactive_file",
    ),
)


def _read(path: str) -> bytes:
    """A small file of the kernel's; b"" where it is not there. Spares `open`'s layers."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)
