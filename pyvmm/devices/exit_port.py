# SPDX-License-Identifier: MIT
"""The exit port: where a guest ends its run with a status of its own.

QEMU's ``isa-debug-exit`` at the same port turns the same write of v into its own exit status
``v << 1 | 1``; here v is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.devices.stateless import Stateless


class ExitPort(Stateless):
    """Calls `on_exit` with the low 8 bits of every write, at any of its offsets.

    0..63 (`pyvmm.errors.GUEST_STATUS_MAX`) are statuses; what the others mean is for `on_exit` to
    say. Reads give 0.
    """

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest is done, with status `value` & 0xff."""
        del offset, size
        self._on_exit(value & 0xFF)
