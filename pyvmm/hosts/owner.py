# SPDX-License-Identifier: MIT
"""Objects that are closed at the end of a ``with`` block: the protocol, and a base for it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Owned(Protocol):
    """Something with one owner: a context manager whose `close` may be called twice."""

    def close(self) -> None:
        """Give the resource back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Owner:
    """A context manager that closes at its end."""

    __slots__ = ()

    def close(self) -> None:
        """Give the resource back; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
