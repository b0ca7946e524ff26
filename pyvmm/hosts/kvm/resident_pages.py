# SPDX-License-Identifier: MIT
"""Resident pages of a mapping, one by one (mincore(2))."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator

from pyvmm.hosts.kvm.binding import refused

_WINDOW = 64 << 20
"""Bytes asked about at once: 16 Ki pages, a byte each."""
_LOWEST_BIT = bytes(value & 1 for value in range(256))
_mincore: Callable[..., int] = ctypes.CDLL(None, use_errno=True).mincore


def resident_runs(hva: int, size: int, attempt: str) -> Iterator[tuple[int, int]]:
    """Runs of resident pages in [hva, hva + size), as offsets from `hva`: (start, end), ascending.

    All in bytes, page-aligned; each run is as it was when its 64 MiB were asked about. Raises
    `SystemCallError`; `attempt` is for its message.
    """
    for window in range(0, size, _WINDOW):
        pages = min(_WINDOW, size - window) // mmap.PAGESIZE
        vector = ctypes.create_string_buffer(pages)
        address, length = ctypes.c_void_p(hva + window), ctypes.c_size_t(pages * mmap.PAGESIZE)
        if _mincore(address, length, vector):
            raise refused(ctypes.get_errno(), attempt)
        resident = vector.raw[:pages].translate(_LOWEST_BIT)
        start = resident.find(1)
        while start >= 0:
            end = resident.find(0, start)
            end = pages if end < 0 else end
            yield window + start * mmap.PAGESIZE, window + end * mmap.PAGESIZE
            start = resident.find(1, end)
