"""How much memory the host will give: asked before a guest is promised more."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available() -> int:
    """Bytes that can be handed to a guest now.

    The least of what the kernel calls available (``MemAvailable``: free memory and cache that can
    be dropped; swap does not count, guest_memfd pages are never swapped) and what is left under
    the memory limits of the process's control group (version 2) and its parents.
    """
    return min([_mem_available(), *_cgroup_headrooms()])


def _mem_available() -> int:
    with _MEMINFO.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def _cgroup_headrooms() -> list[int]:
    """What each limiting group on the way to the root has left, in bytes."""
    try:
        own = next(
            line[3:].strip()
            for line in _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        return []
    headrooms = []
    path = _CGROUP_ROOT / own.lstrip("/")
    while path != _CGROUP_ROOT and _CGROUP_ROOT in path.parents:
        try:
            limit = (path / "memory.max").read_text(encoding="ascii").strip()
            used = (path / "memory.current").read_text(encoding="ascii").strip()
            if limit != "max":
                headrooms.append(max(0, int(limit) - int(used)))
        except (OSError, ValueError):
            pass  # A group without the memory controller sets no limit.
        path = path.parent
    return headrooms
