# SPDX-License-Identifier: MIT
"""Parts of the host that one machine is made of: to be looked at, not to be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvmm.devices.placement import Space
from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import HostChoice

if TYPE_CHECKING:
    from pyvmm.devices.placement import Window
    from pyvmm.hosts.kvm.stats import Statistic
    from pyvmm.machine.memory_sides import MemorySides
    from pyvmm.memory.address_map import AddressMap
    from pyvmm.memory.backing import BackingChoice

GUEST_MEMFD = "guest-memfd"
"""Name of the handle on the file that private memory, or all of it, is in."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Something that the machine holds of the host's: `fd` where it is a descriptor.

    `keeps` names the handles that live on in the kernel as long as this one is open. `numbers` has
    what else is to say: ``hva`` and ``size``, in bytes.
    """

    name: str
    kind: str
    fd: int | None = None
    keeps: tuple[str, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotHandle:
    """A memslot: [start, end) of GPAs, from `hva` on in the mapping of that name.

    `file_offset` is where it begins in the guest_memfd that it is bound to; None: to none.
    """

    slot: int
    region: str
    start: int
    end: int
    mapping: str
    hva: int
    file_offset: int | None


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
    def has_interrupts(self) -> bool:
        """True if there are interrupt controllers and a timer."""
        return self._assembly.has_interrupts

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on what is not as the image asks for, a line each."""
        return self._assembly.remarks

    @property
    def mmio(self) -> tuple[int, Sequence[Window]]:
        """Size of the guest-physical address space in bytes, and the devices' windows in it."""
        return Space.MMIO.size, self._assembly.board.windows(Space.MMIO)

    @property
    def ports(self) -> tuple[int, Sequence[Window]]:
        """Number of I/O ports, and the devices' windows, with those that the host answers."""
        return Space.PORT.size, self._assembly.board.windows(Space.PORT)

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
        assembly = self._assembly
        file = assembly.ram.guest_memfd
        yield Handle("system", "system", descriptor(assembly.system))
        yield Handle("vm", "vm", descriptor(assembly.vm))
        if file is not None:
            numbers = {"size": file.size}
            yield Handle(GUEST_MEMFD, GUEST_MEMFD, descriptor(file), ("vm",), numbers)
        for hva, (name, sides) in self._mappings().items():
            mapping = sides.mapping
            whole_file = (
                file is not None and mapping is assembly.ram.mapping and not sides.region.two_sided
            )
            yield Handle(
                name,
                "mapping",
                descriptor(mapping),
                (GUEST_MEMFD,) if whole_file else (),
                {"hva": hva, "size": mapping.size},
            )

    def slots(self) -> Iterator[SlotHandle]:
        """Yield every memslot, ascending by GPA."""
        mappings = self._mappings()
        for sides in self._assembly.memory.regions.sides():
            memslot = sides.memslot()
            yield SlotHandle(
                memslot.slot,
                sides.region.what,
                memslot.gpa,
                memslot.gpa + memslot.size,
                mappings[sides.mapping.hva][0],
                memslot.hva,
                None if memslot.guest_memfd is None else memslot.guest_memfd_offset,
            )

    def _mappings(self) -> dict[int, tuple[str, MemorySides]]:
        """Each mapping once, by its HVA: its name, after its first region, and that."""
        found: dict[int, tuple[str, MemorySides]] = {}
        for sides in self._assembly.memory.regions.sides():
            found.setdefault(sides.mapping.hva, (f"mapping of {sides.region.what}", sides))
        return found


def descriptor(owner: object) -> int | None:
    """Return its descriptor, where it has one: the model's things have none of KVM's."""
    fd = getattr(owner, "fd", None)
    return fd if isinstance(fd, int) and fd >= 0 else None
