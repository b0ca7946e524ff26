"""What owns several resources at once: a context manager around an `ExitStack`."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self


class StackOwner:
    """Closes what it owns, last first, at its end. `close` may be called twice."""

    def own(self, stack: ExitStack) -> None:
        """Take over what `stack` holds: the last thing that a constructor does."""
        self._stack = stack.pop_all()

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
