# SPDX-License-Identifier: MIT
"""Memory that the host can give: asked before a guest is promised more."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

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
    """List what each limiting group on the way to the root has left, in bytes."""
    return [limit.headroom() for limit in _limits_of(_read("/proc/self/cgroup"))]


class _Version(NamedTuple):
    """Files by which one version of control groups tells a group's memory limit."""

    controller: bytes
    root: str
    limit: str
    usage: str
    cache: bytes


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


class _Limit(NamedTuple):
    """The files of a group that has a memory limit, or may be given one."""

    folder: str
    version: _Version

    def headroom(self) -> int:
        """Compute the bytes left below the limit; file cache not used lately counts as free."""
        limit = _read(f"{self.folder}/{self.version.limit}").strip()
        if not limit.isdigit() or int(limit) >= _UNLIMITED:
            return _UNLIMITED
        used = _read(f"{self.folder}/{self.version.usage}").strip()
        fields = dict(
            line.split(maxsplit=1)
            for line in _read(f"{self.folder}/memory.stat").splitlines()
            if b" " in line
        )
        cache = int(fields.get(self.version.cache, b"0"))
        return max(0, int(limit) - (int(used) - cache if used.isdigit() else 0))


@lru_cache(maxsize=4)
def _limits_of(own_groups: bytes) -> tuple[_Limit, ...]:
    """The groups that count for a process in `own_groups` (``/proc/self/cgroup``).

    Its own and all above it; the root too: in a container it is the container's own group, and the
    real one has no such files.
    """
    found = []
    for line in own_groups.splitlines():
        _, controllers, name = line.split(b":", 2)
        for version in _VERSIONS:
            if version.controller not in controllers.split(b","):
                continue
            group = os.fsdecode(name).strip("/")
            while True:
                folder = f"{version.root}/{group}".rstrip("/")
                if _read(f"{folder}/{version.limit}"):
                    found.append(_Limit(folder, version))
                if not group:
                    break
                group = group.rpartition("/")[0]
    return tuple(found)


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
