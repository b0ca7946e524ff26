# SPDX-License-Identifier: MIT
"""A thread without root's capabilities; its process keeps them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import TypeVar

from pyvmm.net.namespaces import within

_VERSION_3 = 0x2008_0522
Result = TypeVar("Result")


def drop_capabilities() -> None:
    """Take them from the calling thread: capset(2) is a thread's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def without_capabilities(work: Callable[[], Result]) -> Result:
    """Do `work` on a thread of its own that may do what its user may."""

    def do() -> Result:
        drop_capabilities()
        return work()

    return within(None, do)
