# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES until it is through."""

from __future__ import annotations

import errno
import time

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import Vm
from pyvmm.memory.layout import GpaRange

_AGAIN_PAUSE = 0.001
_AGAIN_TIMES = 1000


def set_attributes(vm: Vm, range_: GpaRange, *, private: bool) -> None:
    """Mark `range_` private, or not (api.rst 4.141); EAGAIN is tried again, for a second at least.

    Raises `SystemCallError`: then nothing has changed.
    """
    attributes = MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
    left = _AGAIN_TIMES
    while True:
        try:
            vm.set_memory_attributes(range_.start, range_.size, attributes)
        except SystemCallError as failure:
            left -= 1
            if failure.errno != errno.EAGAIN or not left:
                raise
            time.sleep(_AGAIN_PAUSE)
        else:
            return
