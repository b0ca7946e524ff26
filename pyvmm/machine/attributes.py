# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES until it is through."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import Vm
from pyvmm.memory.layout import GpaRange

PAUSE = 0.001
"""Seconds between two attempts."""
_PAUSES = 1000


class AttributeSetter:
    """Sets attributes for one conversion. EAGAIN is tried again, for a second at least in all.

    `give_way` gives the lock of conversions away for so many seconds: nobody else waits for that.
    """

    def __init__(self, vm: Vm, give_way: Callable[[float], None]) -> None:
        self._vm = vm
        self._give_way = give_way
        self._left = _PAUSES

    def set(self, range_: GpaRange, *, private: bool) -> None:
        """Mark `range_` private, or not (api.rst 4.141).

        Raises `SystemCallError`: then nothing has changed.
        """
        attributes = MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
        while True:
            try:
                self._vm.set_memory_attributes(range_.start, range_.size, attributes)
            except SystemCallError as failure:
                if failure.errno != errno.EAGAIN or not self._left:
                    raise
                self._left -= 1
                self._give_way(PAUSE)
            else:
                return
