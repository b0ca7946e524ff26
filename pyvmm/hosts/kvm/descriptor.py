# SPDX-License-Identifier: MIT
"""Protocol of an object that ioctls are issued on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder


class Descriptor(Protocol):
    """An object with an fd, -1 once closed, and who is told of what is asked of it."""

    @property
    def fd(self) -> int:
        """The fd."""
        ...

    @property
    def recorder(self) -> Recorder | None:
        """Told of each ioctl, on the thread that issues it."""
        ...
