# SPDX-License-Identifier: MIT
"""A memory balloon in a machine: pages that the guest gives up, or reports free, are the host's.

Of the memory that the host sees; what is private stays where it is, and so does what is read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from pyvmm.devices.virtio.balloon import (
    BalloonModel,
    Role,
    page_ranges,
    statistics,
    whole_pages,
)
from pyvmm.errors import UsageError
from pyvmm.machine.leases import Leases
from pyvmm.machine.loop_calls import call_soon
from pyvmm.machine.virtio.queue_handler import BoundChain, MemoryHandler, VirtioDevice
from pyvmm.rules.abi import PAGE_SIZE

NAME = "virtio balloon"
_FRESH: int = 2
"""Chains of statistics until they are new: the first has what the driver put there long ago."""


def balloon_device() -> VirtioDevice:
    """Make a balloon."""
    model = BalloonModel()
    return VirtioDevice(NAME, model, Balloon(model))


class Balloon(MemoryHandler):
    """The work of a balloon's queues, and its owner's wishes. In the trio thread, but `resize`."""

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]
    leases: Leases

    def __init__(self, model: BalloonModel) -> None:
        self._model = model
        self._token: trio.lowlevel.TrioToken | None = None
        self._asked = 0
        self._statistics: dict[str, int] = {}
        self._told = trio.Event()
        self.given_back = 0
        """Bytes that have been given back to the host so far, some of them again and again."""

    # -- for the owner --

    @property
    def size(self) -> int:
        """Bytes that the guest says it has given up."""
        return self._model.actual * PAGE_SIZE

    @property
    def target(self) -> int:
        """Bytes that it is asked to give up."""
        return self._model.target * PAGE_SIZE

    def resize(self, target: int) -> None:
        """Ask the guest to give up `target` bytes of its memory, whole pages. Any thread.

        It does so when it can, or never. Raises `UsageError` for what is no such number.
        """
        if not 0 <= target < PAGE_SIZE << 32:
            raise UsageError(
                f"have a guest give up {target} bytes", "it is less than 0 or more than 16 TiB"
            )
        self._model.target = target // PAGE_SIZE
        call_soon(self._token, self.on_config_change)

    async def statistics(self) -> Mapping[str, int]:
        """Ask the guest for its statistics: names as QEMU has them; bytes, or counts.

        Waits for its driver: put a time limit on it.
        """
        if not self._asked:
            self._told = trio.Event()
        # Whoever asked before, and still waits, is told the same.
        told, self._asked = self._told, _FRESH
        for queue in range(len(self._model.queue_sizes)):
            self.on_ready(queue)
        await told.wait()
        return dict(self._statistics)

    # -- for the queues --

    def is_ready(self, queue: int) -> bool:
        """Statistics are taken when they are asked for; no queue without a role has chains."""
        role = self._model.role(queue)
        return self._asked > 0 if role is Role.STATISTICS else role is not None

    async def serve(self) -> None:
        """Be there for `resize`."""
        self._token = trio.lowlevel.current_trio_token()
        await trio.sleep_forever()

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Take what a chain says; nothing is ever written."""
        match self._model.role(queue):
            case Role.INFLATE:
                await self._give_back(page_ranges(chain.readable))
            case Role.REPORTING:
                await self._give_back(tuple(whole_pages(chain.places)))
            case Role.STATISTICS:
                self._statistics = statistics(chain.readable)
                self._asked -= 1
                if not self._asked:
                    self._told.set()
        return 0

    async def _give_back(self, ranges: Sequence[tuple[int, int]]) -> None:
        # The lock on guest memory may be held for long.
        self.given_back += await trio.to_thread.run_sync(partial(_discarded, self.leases, ranges))


def _discarded(leases: Leases, ranges: Sequence[tuple[int, int]]) -> int:
    return sum(leases.discard(gpa, size) for gpa, size in ranges)
