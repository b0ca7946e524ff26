# SPDX-License-Identifier: MIT
"""Devices without any state of their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoState:
    """State of a device that has none: it tells only that the device was there."""


class Stateless:
    """Base of a device that forgets every access at once."""

    def reset(self) -> None:
        """Do nothing: it is always as it was made."""

    def save(self) -> NoState:
        """Return the state that there is not."""
        return NoState()

    def restore(self, value: NoState) -> None:
        """Do nothing: it is as every other of its kind."""
