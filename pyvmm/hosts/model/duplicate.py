# SPDX-License-Identifier: MIT
"""One more descriptor of something of the model's."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.hosts.owner import Owner


class ModelDuplicate(Owner):
    """A descriptor beside the first one; closing it drops a reference, and no more."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self._drop = drop
        self._open = True

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self._open:
            self._open = False
            self._drop()
