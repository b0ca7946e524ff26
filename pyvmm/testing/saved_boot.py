# SPDX-License-Identifier: MIT
"""A boot that was saved at a point: the machine, and what its guest had said by then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyvmm.machine.saved_file import read, write
from pyvmm.machine.saved_machine import KINDS, SavedMachine
from pyvmm.testing.drivers.qemu_saving import QEMU_KINDS, QemuSaved


@dataclass(frozen=True, slots=True)
class SavedBoot:
    """State of a boot. A guest that goes on from it is read as if it had been booted there.

    `said` is all that it had said, as far as it is kept; `cursor` the offset in that behind the
    last match; `seconds` how long it took to get there.
    """

    machine: SavedMachine | QemuSaved
    said: bytes
    cursor: int
    seconds: float

    @property
    def host(self) -> str:
        """Host that it ran on."""
        if isinstance(self.machine, QemuSaved):
            return f"qemu-{self.machine.subject.accelerator.value}"
        return self.machine.vm.origin.host.value

    def to_file(self, path: Path) -> None:
        """Write it, whole or not at all. Raises as `SavedMachine.to_file`."""
        write(path, self, (SavedBoot, *KINDS, *QEMU_KINDS))

    @classmethod
    def from_file(cls, path: Path) -> SavedBoot:
        """Read what `to_file` wrote. Raises as `SavedMachine.from_file`."""
        return read(path, cls, (SavedBoot, *KINDS, *QEMU_KINDS))
