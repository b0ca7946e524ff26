# SPDX-License-Identifier: MIT
"""Copies of this process's own memory by a system call, which fails where a touch is SIGBUS.

The kernel looks a page up for it as it does for direct I/O: process_vm_readv(2),
process_vm_writev(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

from pyvmm.errors import SystemCallError

READ, WRITE = "process_vm_readv", "process_vm_writev"
"""Names of the calls, for those who watch."""


class _Part(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(address: int, size: int) -> bytes:
    """The `size` bytes at `address`. Raises `SystemCallError`: EFAULT where they cannot be read."""
    room = ctypes.create_string_buffer(size)
    _copy(READ, address, ctypes.addressof(room), size)
    return room.raw


def write_memory(address: int, data: bytes) -> None:
    """Write to `address`. Raises `SystemCallError`: EFAULT where that cannot be."""
    given = ctypes.create_string_buffer(data, len(data))
    _copy(WRITE, address, ctypes.addressof(given), len(data))


def _copy(name: str, address: int, ours: int, size: int) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), name)
    call.restype = ctypes.c_ssize_t
    here, there = _Part(ours, size), _Part(address, size)
    one = ctypes.c_ulong(1)
    copied = call(os.getpid(), ctypes.byref(here), one, ctypes.byref(there), one, ctypes.c_ulong(0))
    if copied == size:
        return
    # A copy that ends early ended at a page that cannot be had.
    number = ctypes.get_errno() if copied < 0 else errno.EFAULT
    cause = f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
    raise SystemCallError(f"{name} of {size} bytes at {address:#x}", number, cause)
