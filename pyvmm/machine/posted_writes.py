# SPDX-License-Identifier: MIT
"""Posted writes: what vCPUs' fast paths took for devices, and the order in which devices get it.

All devices that post share one ring, in which their writes are in the order in which a vCPU made
them; two of them may share the console as well. So they share one lock too, the ring's: whoever
holds it empties the ring before anything else reaches one of these devices. Otherwise what was
written first could come out second.
"""

from __future__ import annotations

import threading

from pyvmm.devices.placement import PlacedDevice, Space
from pyvmm.devices.posting import PortPosting
from pyvmm.devices.protocols import PostingDevice, is_posting
from pyvmm.hosts.posted_ring import PostedRing


class PostedWrites:
    """The posting devices of a machine, and the ring of its VM once there is one."""

    def __init__(self) -> None:
        # Entered again where an observer of accesses asks for what was said inside of one.
        self.lock = threading.RLock()
        self.ring: PostedRing | None = None
        self._guards: list[PostingGuard] = []
        self._takers: dict[int, PostingDevice] = {}

    def guard(self, placed: PlacedDevice) -> PostingGuard | None:
        """Make the guard of a device that posts; None for any other."""
        posting: list[tuple[int, PostingDevice]] = []
        for window in placed.windows:
            device = window.registers
            if is_posting(device) and window.space is Space.PORT:
                posting.append((window.start, device))
                self._takers.update(dict.fromkeys(range(window.start, window.end), device))
        if not posting:
            return None
        guard = PostingGuard(self, posting)
        self._guards.append(guard)
        return guard

    def attach(self, ring: PostedRing) -> None:
        """Let the VM's fast paths answer by themselves what the devices allow."""
        with self.lock:
            self.ring = ring
            for guard in self._guards:
                guard.sync()

    def deliver(self) -> None:
        """Hand over what was posted, in order. Any thread."""
        with self.lock:
            if self.ring is not None:
                for port, data in self.ring.drain():
                    self._takers[port].posted_write(data)


class PostingGuard:
    """Guard of one posting device: what was posted comes first, and what it allows is told after.

    `devices`: the first port of each of its windows, and what answers there.
    """

    def __init__(self, writes: PostedWrites, devices: list[tuple[int, PostingDevice]]) -> None:
        self._writes = writes
        self._devices = devices
        self._told: list[tuple[PortPosting, ...]] = [() for _ in devices]

    def acquire(self) -> None:
        """Enter, with all posted writes handed over."""
        self._writes.lock.acquire()
        try:
            self._writes.deliver()
        except BaseException:
            self._writes.lock.release()
            raise

    def release(self) -> None:
        """Leave, with the fast path told what has changed."""
        try:
            self.sync()
        finally:
            self._writes.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def sync(self) -> None:
        """Tell the fast path what has changed. Under the lock."""
        ring = self._writes.ring
        if ring is None:
            return
        for index, (start, device) in enumerate(self._devices):
            told, posting = self._told[index], device.posting
            if posting is told:
                continue
            for gone in {item.offset for item in told} - {item.offset for item in posting}:
                ring.post_port(start + gone, write=False, read_value=None)
            for item in posting:
                ring.post_port(start + item.offset, write=item.write, read_value=item.read_value)
            self._told[index] = posting
