# SPDX-License-Identifier: MIT
"""A private launch: the shared memory that the firmware starts from, there until it is done."""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.boot.launch import (
    LaunchImage,
    LaunchReport,
    parse_report,
    staging,
)
from pyvmm.boot.launch_format import LAUNCH_REPORT
from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.interface import System, Vm
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.machine.memory_sides import SharedMemory
from pyvmm.machine.ownership import StackOwner
from pyvmm.memory.address_map import MapSlot, RangeKind
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion


class PrivateLaunch(StackOwner):
    """Owns window, staging area and firmware; the latter two go when the launch is complete.

    `complete` is called by the firmware's last act, on a vCPU's thread.
    """

    def __init__(
        self,
        image: LaunchImage,
        system: System,
        vm: Vm,
        memory: GuestMemory,
        config: MachineConfig,
    ) -> None:
        private = config.private
        address_map = config.address_map()
        if private is None:
            raise InternalError("launch a private guest", "the machine has no private memory")
        self._memory = memory
        self._report: LaunchReport | None = None
        has_window = address_map.has(RangeKind.WINDOW)
        window = address_map.slot(RangeKind.WINDOW) if has_window else None
        staged = staging(
            image,
            [one.range for one in address_map.ram],
            config.cpus,
            convert=True,
            expected=private.expected_digest,
            window=None if window is None else window.range,
        )
        with ExitStack() as stack:

            def shared(slot: MapSlot, size: int) -> SharedMemory:
                start = slot.range.start
                region = MemoryRegion(slot.slot, GpaRange(start, start + size), False, slot.name)
                made = stack.enter_context(
                    SharedMemory(system, vm, region, in_core=config.dump_guest_core)
                )
                memory.regions.add(made.sides)
                return made

            if window is not None:
                shared(window, window.range.size)
                if not memory.in_place:
                    memory.conversion.withhold(window.range.start, window.range.size)
            area = address_map.slot(RangeKind.STAGING)
            self._staging: SharedMemory | None = shared(area, staged.size)
            for piece in staged.pieces:
                self._staging.sides.write(area.range.start + piece.offset, piece.data)
            place = address_map.slot(RangeKind.FIRMWARE)
            self._firmware: SharedMemory | None = shared(place, place.range.size)
            if len(private.firmware) != place.range.size:
                raise UsageError(
                    "load the firmware",
                    f"it has {len(private.firmware)} bytes, not {place.range.size}",
                    "give firmware/build/firmware.bin",
                )
            self._firmware.sides.write(place.range.start, private.firmware)
            self.own(stack)

    @property
    def report(self) -> LaunchReport | None:
        """Report that the firmware has given so far."""
        if self._firmware is not None:
            start = self._firmware.sides.region.range.start
            return parse_report(self._firmware.sides.read(start, LAUNCH_REPORT.size))
        return self._report

    def complete(self) -> None:
        """Take firmware and staging area away from the guest, and give their memory back.

        Raises `LeaseHeldError` where a device works on them for long or the run ends meanwhile.
        """
        firmware, staging_area = self._firmware, self._staging
        if firmware is None or staging_area is None:
            return
        self._report = self.report
        for gone in (firmware, staging_area):
            self._remove(gone.sides.region.slot)
        self._firmware = self._staging = None
        firmware.close()
        staging_area.close()

    def _remove(self, slot: int) -> None:
        try:
            self._memory.regions.remove(slot, on_vcpu=True)
        except LeaseHeldError as held:
            if not held.interrupted or self._memory.is_over():
                raise
            # A pause: it waits as long as the guest's write does, which cannot be done in part.
            self._memory.regions.remove(slot)
