# SPDX-License-Identifier: MIT
"""Disks of one machine: which there are, what has failed, and the pauses that follow of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from pyvmm.machine.events import DiskFailed, Resumed
from pyvmm.machine.hardware import Disk, OnIoError

if TYPE_CHECKING:
    from pyvmm.machine.events import Audience, MachineEvent


class MachineDisk(NamedTuple):
    """A disk of a machine: its name there, what was asked for, and its size in bytes."""

    name: str
    choice: Disk
    size: int


class MachineDisks:
    """All disks of one machine. In its trio thread; `attach` comes before anything is served."""

    def __init__(self) -> None:
        self.disks: list[MachineDisk] = []
        self.failed: dict[str, DiskFailed] = {}
        """By the disk's name: what has stopped it, and is to be tried again."""
        self._pause: Callable[[], Awaitable[None]] | None = None
        self._is_paused: Callable[[], bool] = bool
        self._audience: Audience | None = None
        self._waiting: list[trio.Event] = []

    def attach(
        self,
        pause: Callable[[], Awaitable[None]],
        is_paused: Callable[[], bool],
        audience: Audience,
    ) -> None:
        """Tell `audience` of failures, and `pause` the machine where a disk says so."""
        self._pause, self._is_paused, self._audience = pause, is_paused, audience
        audience.listeners.append(self._hear)

    def _hear(self, event: MachineEvent) -> None:
        if isinstance(event, Resumed):
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.set()

    def io_status(self, disk: MachineDisk) -> int:
        """The errno of what has stopped a disk until the machine is resumed; 0 for nothing."""
        failed = self.failed.get(disk.name)
        return 0 if failed is None else failed.errno

    def tell(self, failure: DiskFailed) -> None:
        """Tell of a request that the host could not do."""
        if self._audience is not None:
            self._audience.tell(failure)

    async def stop(self, failure: DiskFailed) -> None:
        """Pause the machine because of a failure, and return when it is resumed."""
        resumed = trio.Event()
        self._waiting.append(resumed)
        self.failed[failure.disk] = failure
        try:
            self.tell(failure)
            if self._pause is not None:
                await self._pause()
            # Who has resumed it by now was told of no pause, and tells of no end of it.
            if self._is_paused():
                await resumed.wait()
        finally:
            del self.failed[failure.disk]


class FailurePolicy(NamedTuple):
    """Policy for when a request of the disk `name` fails."""

    disks: MachineDisks
    name: str
    on_io_error: OnIoError

    @property
    def stops(self) -> bool:
        """True if the machine is paused, and the request tried again."""
        return self.on_io_error is OnIoError.STOP

    def failure(self, operation: str, error: OSError) -> DiskFailed:
        """Describe a failure."""
        return DiskFailed(self.name, operation, error.errno or 0, self.stops)
