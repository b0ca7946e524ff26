# SPDX-License-Identifier: MIT
"""Standing still: a QEMU whose vCPUs are stopped while any number of tasks looks at them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio

from pyvmm.errors import PyvmmError


class Stoppable(Protocol):
    """A QEMU as `StandingStill` needs it; each raises `PyvmmError`s and is bounded in time."""

    async def is_running(self, attempt: str) -> bool:
        """Tell whether the vCPUs run."""
        ...

    async def halt(self, attempt: str) -> None:
        """Stop the vCPUs."""
        ...

    async def go_on(self, attempt: str) -> None:
        """Let them run on, unless the guest has ended."""
        ...

    def set_quiet(self, quiet: bool) -> None:
        """Tell nobody of stopping and going on, until this is called with False."""
        ...


class StandingStill:
    """Blocks in which a QEMU stands still. They overlap and nest: the last out lets it go on."""

    def __init__(self, qemu: Stoppable) -> None:
        self._qemu = qemu
        self._users = 0
        self._ran = False
        """It ran before the first block, and nobody has asked for it to stop since."""
        self._lock = trio.Lock()
        """Held for every change between running and stopped."""
        self._nobody = trio.Event()
        self._nobody.set()

    @asynccontextmanager
    async def block(self, attempt: str) -> AsyncIterator[bool]:
        """Keep the vCPUs stopped for the block, which gets True if they ran. Nobody is told."""
        await self._enter(attempt)
        try:
            yield self._ran
        except BaseException:
            with suppress(PyvmmError):
                await self._leave(attempt)
            raise
        await self._leave(attempt)

    async def stop(self, stop: Callable[[], Awaitable[object]], told: Callable[[], object]) -> None:
        """Have `stop` stop it; where it stands still now it stays so, and `told` is called."""
        async with self._lock:
            if self._users and self._ran:
                self._ran = False
                told()
            else:
                await stop()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep others from stopping it and letting it run; waits until nobody is in a block."""
        while True:
            await self._nobody.wait()
            async with self._lock:
                if self._nobody.is_set():
                    yield
                    return

    async def _enter(self, attempt: str) -> None:
        async with self._lock:
            if not self._users:
                ran = await self._qemu.is_running(attempt)
                self._qemu.set_quiet(True)
                try:
                    if ran:
                        await self._qemu.halt(attempt)
                except BaseException:
                    # It may have been stopped by then.
                    with trio.CancelScope(shield=True), suppress(PyvmmError):
                        await self._qemu.go_on(attempt)
                    self._qemu.set_quiet(False)
                    raise
                self._ran = ran
                self._nobody = trio.Event()
            self._users += 1

    async def _leave(self, attempt: str) -> None:
        with trio.CancelScope(shield=True):
            async with self._lock:
                self._users -= 1
                if self._users:
                    return
                try:
                    if self._ran:
                        await self._qemu.go_on(attempt)
                finally:
                    self._qemu.set_quiet(False)
                    self._nobody.set()
