# SPDX-License-Identifier: MIT
"""Devices without any state of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import NoState


class Stateless:
    """Base of a device that forgets every access at once."""

    def reset(self) -> None:
        """Do nothing: it is always as it was made."""

    def save(self) -> NoState:
        """Return the state that there is not."""
        from pyvmm.devices.saved_values import NoState

        return NoState()

    def restore(self, value: NoState) -> None:
        """Do nothing: it is as every other of its kind."""
