# SPDX-License-Identifier: MIT
"""Ranges of a file that are made zero without being written (fallocate(2)).

Python's ``os.posix_fallocate`` has no modes, and a disk needs no KVM to be there.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_NOT_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make `length` bytes zero and give back what held them; False: not on this file system.

    Raises `OSError`.
    """
    return _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Make `length` bytes zero and keep room for them; False: not on this file system.

    Raises `OSError`.
    """
    return _fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
