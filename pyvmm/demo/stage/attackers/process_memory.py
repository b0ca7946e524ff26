# SPDX-License-Identifier: MIT
"""System calls that read memory which a process has, besides reading it itself."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_MAP_FAILED = ctypes.c_void_p(-1).value


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def process_vm_read(address: int, size: int) -> bytes:
    """process_vm_readv(2) of this process. Raises `OSError`."""
    buffer = ctypes.create_string_buffer(size)
    local = _IoVec(ctypes.addressof(buffer), size)
    remote = _IoVec(address, size)
    one = ctypes.c_ulong(1)
    done = _libc.process_vm_readv(
        os.getpid(), ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0)
    )
    if done < 0:
        raise _fail()
    return buffer.raw[:done]


def proc_self_mem(address: int, size: int) -> bytes:
    """The same by /proc/self/mem. Raises `OSError`."""
    fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, address)
    finally:
        os.close(fd)


def map_file(fd: int, size: int, protection: int, flags: int, offset: int) -> int:
    """mmap(2), without the fstat that Python's makes first. Raises `OSError`."""
    address = _libc.mmap(None, size, protection, flags, fd, offset)
    if address == _MAP_FAILED:
        raise _fail()
    return int(address)


def unmap(address: int, size: int) -> None:
    """munmap(2). Raises `OSError`."""
    if _libc.munmap(address, size):
        raise _fail()
