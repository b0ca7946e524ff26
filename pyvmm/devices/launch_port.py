# SPDX-License-Identifier: MIT
"""Port by which the firmware says that a private launch is complete (``firmware/README.md``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedLaunchPort


class LaunchPort:
    """Calls `on_launched` at the first write of 0; whatever else is written means nothing.

    It may be accessed by several threads at once: completing a launch takes long.
    """

    def __init__(self, on_launched: Callable[[], None]) -> None:
        self._on_launched = on_launched
        # One token, for the first who takes it: a deque's `pop` is atomic.
        self._pending: deque[None] = deque((None,))

    def reset(self) -> None:
        """Wait for a launch again."""
        self._set(launched=False)

    def save(self) -> SavedLaunchPort:
        """Tell if the launch is complete."""
        from pyvmm.devices.saved_values import SavedLaunchPort

        return SavedLaunchPort(not self._pending)

    def restore(self, value: SavedLaunchPort) -> None:
        """Be told, or not, without calling anybody."""
        self._set(launched=value.launched)

    def _set(self, *, launched: bool) -> None:
        self._pending.clear()
        if not launched:
            self._pending.append(None)

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The launch is complete. Once: a guest that writes again reaches nobody."""
        del offset, size
        if value == 0:
            try:
                self._pending.pop()
            except IndexError:
                return
            self._on_launched()
