# SPDX-License-Identifier: MIT
"""The lock of a model VM's conversions; its vCPUs have no fast path, every request is an exit."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Converted, ServedSpan
from pyvmm.hosts.model.held_ranges import ModelHeldRanges
from pyvmm.hosts.owner import Owner


class ModelConversions(Owner):
    """`interface.FastConversions` without the speed: serves nothing, so nothing is ever drained."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self.held = ModelHeldRanges(self._unless_inside)
        """Ranges that somebody holds."""

    def serve(self, spans: Sequence[ServedSpan]) -> None:
        """Nothing is served; every hypercall ends `run`."""
        del spans

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other conversion out. Raises `InternalError` when the thread is inside."""
        own = threading.get_ident()
        if self._holder == own:
            raise InternalError(
                "keep other conversions of guest memory out", "this thread does so already"
            )
        with self._lock:
            self._holder = own
            try:
                yield
            finally:
                self._holder = 0

    def _unless_inside(self) -> AbstractContextManager[None]:
        return nullcontext() if self._holder == threading.get_ident() else self.exclusive()

    def drain(self) -> list[Converted]:
        """Return the conversions that vCPUs made by themselves: none."""
        return []

    def close(self) -> None:
        """Give no lease any more; nothing to give back."""
        self.held.close()
