# SPDX-License-Identifier: MIT
"""Port by which the firmware says that a private launch is complete (``firmware/README.md``)."""

from __future__ import annotations

from collections.abc import Callable


class LaunchPort:
    """Calls `on_launched` at the first write of 0; whatever else is written means nothing."""

    def __init__(self, on_launched: Callable[[], None]) -> None:
        self._on_launched: Callable[[], None] | None = on_launched

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The launch is complete. Once: a guest that writes again reaches nobody."""
        del offset, size
        on_launched = self._on_launched
        if value == 0 and on_launched is not None:
            self._on_launched = None
            on_launched()
