# SPDX-License-Identifier: MIT
"""The machine as QMP asks about it: an interface, which the objects of `pyvmm.Machine` have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pyvmm.devices.pci.description import PciDescription
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.hosts.kvm.stats import Statistic
    from pyvmm.machine.config import HostChoice, MachineConfig
    from pyvmm.machine.disks.failures import MachineDisks
    from pyvmm.machine.ending import Ending, Requester
    from pyvmm.machine.events import Listener
    from pyvmm.machine.host_handles import Handle, SlotHandle
    from pyvmm.machine.machine_memory import MachineMemory
    from pyvmm.machine.machine_network import MachineNetwork
    from pyvmm.machine.memory_reading import Content
    from pyvmm.machine.memory_sides import MemorySides
    from pyvmm.machine.steering import MachineState
    from pyvmm.memory.layout import GpaRange
    from pyvmm.memory.page_states import PageRun

T = TypeVar("T")


class InspectedHost(Protocol):
    """Host of the machine; see `MachineHost`."""

    @property
    def choice(self) -> HostChoice:
        """KVM or the model."""

    @property
    def regions(self) -> Sequence[MemorySides]:
        """Regions of the guest's memory, ascending."""

    def pci_functions(self) -> Sequence[PciDescription]:
        """Functions of the PCI bus, by slot."""

    def contents(self, asked: GpaRange, left_out: list[PageRun] | None = None) -> Iterator[Content]:
        """Parts of `asked` that may not be zero; see `MachineHost`."""

    def statistics(self) -> Sequence[Statistic]:
        """KVM's statistics of the VM."""

    @property
    def disks(self) -> MachineDisks | None:
        """The machine's disks; None where it has none."""

    def handles(self) -> Iterable[Handle]:
        """Everything that the machine holds of the host's, but for vCPUs and memslots."""

    def slots(self) -> Iterable[SlotHandle]:
        """Every memslot, ascending by GPA."""


class InspectedControl(Protocol):
    """Control over the guest; see `Control`."""

    @property
    def state(self) -> MachineState:
        """State of the machine now."""

    @property
    def ending(self) -> Ending | None:
        """Ending of the guest; None while it has not ended."""

    async def pause(self) -> None:
        """Stop every vCPU."""

    def resume(self) -> None:
        """Let the guest run."""

    def freeze(self) -> AbstractAsyncContextManager[None]:
        """Inside of it no vCPU executes an instruction."""

    async def reset(self) -> None:
        """Start the guest again."""

    def powerdown(self) -> None:
        """Press the power button."""

    def interrupt(self, detail: str, requester: Requester) -> None:
        """End the run."""


class InspectedVcpu(Protocol):
    """One vCPU; see `MachineVcpu`."""

    @property
    def thread_id(self) -> int | None:
        """The system's number of the vCPU's thread; None before it has begun."""

    async def call(self, function: Callable[[Vcpu], T]) -> T:
        """Call `function` with the host's vCPU, on its thread."""


class InspectedEvents(Protocol):
    """Events of the machine; see `Events`."""

    def listen(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` called with each event inside of the block."""


class Inspected(Protocol):
    """A machine."""

    @property
    def config(self) -> MachineConfig:
        """Configuration that it was made of."""

    @property
    def host(self) -> InspectedHost:
        """Host that it runs on."""

    @property
    def control(self) -> InspectedControl:
        """Control over its guest."""

    @property
    def memory(self) -> MachineMemory:
        """Memory of its guest."""

    @property
    def vcpus(self) -> Sequence[InspectedVcpu]:
        """Its vCPUs, by their numbers."""

    @property
    def events(self) -> InspectedEvents:
        """Its events."""

    @property
    def network(self) -> MachineNetwork:
        """Network cards of its guest."""
