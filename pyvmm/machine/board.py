# SPDX-License-Identifier: MIT
"""The board: puts the devices of a platform on buses, serialises them, and reaches all of them.

It knows protocols and no device. Each device has a guard, which is held for microseconds around
each access and never while waiting; a window that is not serialised is entered without. Devices
that post writes share theirs (`pyvmm.machine.posted_writes`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import cached_property

from pyvmm.devices.bus import Bus, BusRange
from pyvmm.devices.placement import PlacedDevice, Platform, Space, Window
from pyvmm.devices.protocols import Backend, Guard, Saveable, is_saveable
from pyvmm.errors import UsageError
from pyvmm.hosts.posted_ring import PostedRing
from pyvmm.machine.posted_writes import PostedWrites

SavedDevice = tuple[str, object]
"""Name of a placed device, and the value that its `save` gave."""

_RESTORE = "restore the devices of a machine"


class Board:
    """The devices of one machine on their buses. Any thread."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.ports = Bus("port", Space.PORT.size, threading.Lock())
        self.mmio = Bus("MMIO", Space.MMIO.size, threading.Lock())
        self._posted = PostedWrites()
        self._guarded: tuple[tuple[PlacedDevice, Guard], ...] = tuple(
            (placed, self._posted.guard(placed) or threading.Lock()) for placed in platform.devices
        )
        self.backends: tuple[Backend, ...] = tuple(
            placed.backend(guard) for placed, guard in self._guarded if placed.backend is not None
        )
        """Backends of the devices that have one, each to be served in the machine's nursery."""
        for space, bus in ((Space.PORT, self.ports), (Space.MMIO, self.mmio)):
            bus.add_all(self._ranges(space))
        # For vCPU threads: a port access is a bus's, without a call in between.
        self.port_out = self.ports.handle_out
        self.port_in = self.ports.handle_in

    def _ranges(self, space: Space) -> Iterator[BusRange]:
        for placed, guard in self._guarded:
            for window in placed.windows:
                if window.space is space and window.registers is not None:
                    yield BusRange(
                        window.start,
                        window.length,
                        window.width,
                        window.name or placed.name,
                        window.registers,
                        guard if window.serialised else None,
                    )

    def windows(self, space: Space) -> tuple[Window, ...]:
        """Every window in `space`, those that the host answers too, each with a name."""
        found = self.platform.windows(space)
        return tuple(window._replace(name=window.name or one.name) for window, one in found)

    # -- all devices --

    def reset(self) -> None:
        """Put every device back to how it started. No vCPU runs; what was posted counts as said."""
        self._posted.deliver()
        for placed, guard in self._guarded:
            with guard:
                placed.device.reset()

    @cached_property
    def _saveable(self) -> tuple[tuple[str, Saveable, Guard], ...]:
        """The devices that can be saved, as found when one is asked for first."""
        return tuple(
            (placed.name, placed.device, guard)
            for placed, guard in self._guarded
            if is_saveable(placed.device)
        )

    def save_devices(self) -> tuple[SavedDevice, ...]:
        """Save every device that can be. No vCPU runs; what was posted counts as said."""
        self._posted.deliver()
        return tuple(self._save_each())

    def _save_each(self) -> Iterator[SavedDevice]:
        for name, device, guard in self._saveable:
            with guard:
                yield name, device.save()

    def restore_devices(self, saved: Iterable[SavedDevice]) -> None:
        """Restore what `save_devices` gave on a board with the same platform. No vCPU runs.

        Lines go up and down as the devices had them, and the controllers are restored after. Where
        backends have run in between, restore the devices once more (`restore_again`), right behind
        the controllers. Raises `UsageError`, with everything as it was, where a device is missing
        on one of the sides, is of another kind, or refuses its value.
        """
        values = dict(saved)
        found = dict(self.save_devices())
        for ours, theirs, what in (
            (found, values, "the machine has {}, and nothing was saved of it"),
            (values, found, "{} was saved, and the machine has none"),
        ):
            missing = sorted(ours.keys() - theirs.keys())
            if missing:
                raise UsageError(
                    _RESTORE, what.format(missing[0]), "make the machine with the same devices"
                )
        for name, value in values.items():
            if type(value) is not type(found[name]):
                raise UsageError(
                    _RESTORE,
                    f"{name} has a {type(found[name]).__name__} to be restored from, and what was "
                    f"saved is a {type(value).__name__}",
                    "make the machine with the same devices",
                )
        try:
            self.restore_again(values.items())
        except UsageError:
            # Devices before that one have taken theirs, and the machine goes on.
            self.restore_again(found.items())
            raise

    def restore_again(self, saved: Iterable[SavedDevice]) -> None:
        """Restore what `restore_devices` has taken. No vCPU runs."""
        values = dict(saved)
        for name, device, guard in self._saveable:
            with guard:
                device.restore(values[name])

    # -- posted ports --

    def attach_fast_path(self, ring: PostedRing) -> None:
        """Let the VM's fast paths answer by themselves what the devices allow."""
        self._posted.attach(ring)

    def drain_posted(self) -> None:
        """Hand over posted writes, in order."""
        self._posted.deliver()

    # -- MMIO, from vCPU threads --

    def mmio_write(self, gpa: int, data: bytes) -> None:
        """A guest's write where there is no RAM."""
        self.mmio.write(gpa, len(data), int.from_bytes(data, "little"))

    def mmio_read(self, gpa: int, size: int) -> bytes:
        """A guest's read where there is no RAM."""
        return self.mmio.read(gpa, size).to_bytes(size, "little")
