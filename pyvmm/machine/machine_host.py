# SPDX-License-Identifier: MIT
"""Parts of the host that one machine is made of: to be looked at, not to be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pyvmm.devices.placement import Space
from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import HostChoice

if TYPE_CHECKING:
    from pyvmm.devices.pci.description import PciDescription
    from pyvmm.devices.placement import Window
    from pyvmm.hosts.kvm.stats import Statistic
    from pyvmm.machine.disks.failures import MachineDisks
    from pyvmm.machine.host_handles import Handle, SlotHandle
    from pyvmm.machine.memory_reading import Content
    from pyvmm.machine.memory_sides import MemorySides
    from pyvmm.memory.address_map import AddressMap
    from pyvmm.memory.backing import BackingChoice
    from pyvmm.memory.layout import GpaRange
    from pyvmm.memory.page_states import PageRun


class MachineHost:
    """Host of one machine: which it is, and what the machine has of it."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    @property
    def choice(self) -> HostChoice:
        """Implementation that runs the guest: KVM or the model."""
        return self._assembly.host.choice

    @property
    def without_kvm(self) -> PyvmmError | None:
        """Reason why it is not KVM, where that was left to us (`HostChoice.AUTO`)."""
        return self._assembly.host.without_kvm

    @property
    def backing(self) -> BackingChoice:
        """Kind of file that the guest's RAM is made of, and why."""
        return self._assembly.ram.choice

    @property
    def address_map(self) -> AddressMap:
        """Guest-physical addresses, and what is where."""
        return self._assembly.address_map

    @property
    def disks(self) -> MachineDisks | None:
        """Disks of the machine, and what has failed; None where it has none."""
        return self._assembly.disks

    @property
    def has_interrupts(self) -> bool:
        """True if there are interrupt controllers and a timer."""
        return self._assembly.has_interrupts

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on what is not as the image asks for, a line each."""
        return self._assembly.remarks

    @property
    def mmio(self) -> tuple[int, Sequence[Window]]:
        """Size of the guest-physical address space in bytes, and the devices' windows in it now."""
        windows = self._assembly.board.windows(Space.MMIO)
        return Space.MMIO.size, (*windows, *self._bars(Space.MMIO))

    @property
    def ports(self) -> tuple[int, Sequence[Window]]:
        """Number of I/O ports, and the devices' windows, with those that the host answers."""
        windows = self._assembly.board.windows(Space.PORT)
        return Space.PORT.size, (*windows, *self._bars(Space.PORT))

    def pci_functions(self) -> Sequence[PciDescription]:
        """Functions of the PCI bus, by slot; none on a machine without."""
        pci = self._assembly.pci
        if pci is None:
            return ()
        from pyvmm.devices.pci.description import describe

        return tuple(describe(pci.segment))

    def _bars(self, space: Space) -> Sequence[Window]:
        pci = self._assembly.pci
        return () if pci is None else tuple(pci.windows.windows(space))

    @property
    def regions(self) -> Sequence[MemorySides]:
        """Regions of the guest's memory, and what is behind each; ascending."""
        return self._assembly.memory.regions.sides()

    def contents(self, asked: GpaRange, left_out: list[PageRun] | None = None) -> Iterator[Content]:
        """Yield what `asked`, in bytes, may hold beside zeroes; see `memory_reading.contents`."""
        from pyvmm.machine.memory_reading import contents

        return contents(self._assembly.memory, asked, left_out)

    def statistics(self) -> Sequence[Statistic]:
        """Read KVM's statistics of the VM. Raises `HostLacksError` where the host has none."""
        if self.choice is not HostChoice.KVM:
            raise HostLacksError("read a VM's statistics", "the model has none")
        from pyvmm.hosts.kvm.vm import Vm

        vm = self._assembly.vm
        assert isinstance(vm, Vm)
        with vm.statistics() as statistics:
            return statistics.read()

    def handles(self) -> Iterator[Handle]:
        """Yield what the machine holds of the host's, but for its vCPUs and memslots."""
        from pyvmm.machine.host_handles import handles  # Most runs are not asked.

        return handles(self._assembly)

    def slots(self) -> Iterator[SlotHandle]:
        """Yield every memslot, ascending by GPA."""
        from pyvmm.machine.host_handles import slots

        return slots(self._assembly)
