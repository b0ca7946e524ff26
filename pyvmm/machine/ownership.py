# SPDX-License-Identifier: MIT
"""Owner of several resources at once: a context manager around an `ExitStack`."""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.hosts.owner import Owner


class StackOwner(Owner):
    """Closes what it owns, last first, at its end. `close` may be called twice."""

    def own(self, stack: ExitStack) -> None:
        """Take over what `stack` holds: the last thing that a constructor does."""
        self._stack = stack.pop_all()

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()
