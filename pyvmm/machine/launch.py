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
from pyvmm.machine.memory_sides import SharedMemory
from pyvmm.machine.ownership import StackOwner
from pyvmm.memory.layout import (
    FIRMWARE_GPA,
    FIRMWARE_SIZE,
    STAGING_GPA,
    WINDOW_GPA,
    GpaRange,
    MemoryLayout,
)
from pyvmm.memory.regions import MemoryRegion

WINDOW_SLOT = 2
STAGING_SLOT = 3
FIRMWARE_SLOT = 4


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
        if private is None:
            raise InternalError("launch a private guest", "the machine has no private memory")
        self._memory = memory
        self._report: LaunchReport | None = None
        window = GpaRange(WINDOW_GPA, WINDOW_GPA + private.window) if private.window else None
        regions = [region.range for region in MemoryLayout.of(config.memory).regions]
        staged = staging(
            image,
            regions,
            config.cpus,
            convert=True,
            expected=private.expected_digest,
            window=window,
        )
        with ExitStack() as stack:

            def shared(slot: int, gpa: int, size: int, what: str) -> SharedMemory:
                region = MemoryRegion(slot, GpaRange(gpa, gpa + size), False, what)
                made = stack.enter_context(
                    SharedMemory(system, vm, region, in_core=config.dump_guest_core)
                )
                memory.regions.add(made.sides)
                return made

            if window is not None:
                shared(WINDOW_SLOT, window.start, window.size, "shared window")
                memory.conversion.withhold(window.start, window.size)
            self._staging: SharedMemory | None = shared(
                STAGING_SLOT, STAGING_GPA, staged.size, "staging area"
            )
            for piece in staged.pieces:
                self._staging.sides.write(STAGING_GPA + piece.offset, piece.data)
            self._firmware: SharedMemory | None = shared(
                FIRMWARE_SLOT, FIRMWARE_GPA, FIRMWARE_SIZE, "firmware"
            )
            if len(private.firmware) != FIRMWARE_SIZE:
                raise UsageError(
                    "load the firmware",
                    f"it has {len(private.firmware)} bytes, not {FIRMWARE_SIZE}",
                    "give firmware/build/firmware.bin",
                )
            self._firmware.sides.write(FIRMWARE_GPA, private.firmware)
            self.own(stack)

    @property
    def report(self) -> LaunchReport | None:
        """Report that the firmware has given so far."""
        if self._firmware is not None:
            return parse_report(self._firmware.sides.read(FIRMWARE_GPA, LAUNCH_REPORT.size))
        return self._report

    def complete(self) -> None:
        """Take firmware and staging area away from the guest, and give their memory back."""
        if self._firmware is None or self._staging is None:
            return
        self._report = self.report
        firmware, self._firmware = self._firmware, None
        staging_area, self._staging = self._staging, None
        self._memory.regions.remove(FIRMWARE_SLOT)
        self._memory.regions.remove(STAGING_SLOT)
        firmware.close()
        staging_area.close()
