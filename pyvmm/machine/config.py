# SPDX-License-Identifier: MIT
"""Configuration of a machine: one frozen value, checked when it is made."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvmm.boot.plan import EntryWish
from pyvmm.errors import UsageError
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.layout import MIB, WINDOW_MAX
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.topology import Topology
    from pyvmm.machine.hardware import Hardware
    from pyvmm.machine.raw_flags import RawFlags

MAX_CPUS = 255
"""More vCPUs need x2APIC identifiers, which the guest's tables do not carry yet."""


class IrqchipPolicy(enum.Enum):
    """Policy for interrupt controllers and a timer, which are slow to make on some hosts."""

    AUTO = "auto"
    """Add them when the image says that it needs them, does not say (and is no bare boot sector),
    or there is more than one vCPU to start."""
    ON = "on"
    OFF = "off"


class HostChoice(enum.Enum):
    """Implementation of `pyvmm.hosts.interface` that runs the guest."""

    AUTO = "auto"
    """/dev/kvm where it works and has what the machine needs, the model otherwise."""
    KVM = "kvm"
    MODEL = "model"
    """KVM's memory rules in Python and an emulated processor: works anywhere."""


class RebootPolicy(enum.Enum):
    """Policy for a guest that resets its machine."""

    END = "end"
    """The run ends (exit code 84)."""
    AGAIN = "again"
    """The machine is put back to its start, and boots anew."""


class ImplicitPolicy(enum.Enum):
    """Policy for a guest that touches memory which is not there on the side it touched.

    That is a conversion which the guest did not announce (KVM_EXIT_MEMORY_FAULT).
    """

    HONOUR = "honour"
    """It is done."""
    REFUSE = "refuse"
    """The run ends, with a report (exit code 82)."""
    ASK = "ask"
    """The machine's owner is asked each time (`open_machine`'s `allow`)."""


@dataclass(frozen=True, slots=True)
class PrivateConfig:
    """A machine whose memory is private: the guest is started by `firmware`, which measures it.

    `firmware` is the image of ``firmware/``; `expected_digest` (SHA-384, 48 bytes) makes it refuse
    any other guest. `window` is the size in bytes of the shared window, 0 for none: memory without
    a private side, withheld until the guest touches it; shared from the start where pages are
    converted in place (`backing`), since then nothing can be withheld. Raises `UsageError`.
    """

    firmware: bytes = field(repr=False)
    expected_digest: bytes | None = None
    window: int = 2 * MIB
    implicit: ImplicitPolicy = ImplicitPolicy.HONOUR
    backing: PrivateBacking = PrivateBacking.AUTO

    def __post_init__(self) -> None:
        from pyvmm.boot.launch_format import DIGEST_BYTES  # Most machines have no private memory.

        if self.window % PAGE_SIZE or not 0 <= self.window <= WINDOW_MAX:
            raise UsageError(
                f"make a shared window of {self.window} bytes",
                "it has whole pages, and ends below the staging area",
                f"give 0, or up to {WINDOW_MAX >> 20} MiB",
            )
        digest = self.expected_digest
        if digest is not None and len(digest) != DIGEST_BYTES:
            raise UsageError(
                "expect a launch digest",
                f"it has {len(digest)} bytes, a SHA-384 digest {DIGEST_BYTES}",
                "give what pyvmm measure prints",
            )


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A machine to be: the image's bytes, `memory` in bytes, number of vCPUs, and so on.

    Raises `UsageError` when a value cannot be. `name` and `initrd_name` stand for the files in
    messages, and in what a Multiboot kernel is told. `wish` chooses among an image's entries.
    `timeout` is in seconds from the opening of the machine, paused or not. With `dump_guest_core`
    a core of this process has the guest's memory, as far as it is mapped and the process's
    coredump_filter (core(5)) lets it in: a guest_memfd only with bit 3, file-backed shared
    mappings. With `report_always` the result has reports of the vCPUs after a panic, a reset, or
    a status other than 0, too. `hardware` is what the machine has beside its board; None: nothing.
    `raw_flags` are flags of RAM's guest_memfd and memslots that the kernel gets as they are.
    """

    image: bytes = field(repr=False)
    name: str = "image"
    memory: int = 256 * MIB
    cpus: int = 1
    command_line: bytes = b""
    initrd: bytes | None = field(default=None, repr=False)
    initrd_name: str = "initrd"
    wish: EntryWish = EntryWish.AUTO
    timeout: float | None = None
    irqchip: IrqchipPolicy = IrqchipPolicy.AUTO
    host: HostChoice = HostChoice.AUTO
    private: PrivateConfig | None = None
    dump_guest_core: bool = False
    reboot: RebootPolicy = RebootPolicy.END
    devices: DeviceChoice = DeviceChoice()  # noqa: RUF009 - immutable
    report_always: bool = False
    hardware: Hardware | None = None
    raw_flags: RawFlags | None = None

    def __post_init__(self) -> None:
        self.address_map()
        if self.private is not None and self.reboot is RebootPolicy.AGAIN:
            raise UsageError(
                "boot a private guest again after a reset",
                "it is launched and measured once, and has private memory that is its own",
                "leave --reboot again out",
            )
        if self.private is not None and self.hardware is not None and self.hardware.needs_mmio:
            raise UsageError(
                "give a machine with private memory virtio devices over MMIO",
                "KVM cannot decode the instructions by which private code would reach them",
                "leave --transport mmio out: on PCI they are reached by ports",
            )
        if not 1 <= self.cpus <= MAX_CPUS:
            raise UsageError(
                f"make a machine with {self.cpus} vCPUs",
                "a machine has at least one and at most 255",
                f"give a number from 1 to {MAX_CPUS}",
            )
        self._check_topology()
        self._check_nodes()
        if self.raw_flags is not None:
            self.raw_flags.check()
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise UsageError(
                f"set a time limit of {self.timeout} s",
                "it must be a finite number above 0",
                "leave it out for no limit",
            )

    @property
    def has_pci(self) -> bool:
        """True for a machine with a PCI bus: it has one where a device for it was asked for."""
        return self.devices.pci or (self.hardware is not None and self.hardware.needs_pci)

    @property
    def topology(self) -> Topology | None:
        """The topology that was asked for, or that the nodes make; None for one socket."""
        if self.hardware is None or self.hardware.topology is not None or not self.hardware.nodes:
            return None if self.hardware is None else self.hardware.topology
        from pyvmm.machine.numa import topology_within  # Most machines have no nodes.

        return topology_within(self.hardware.nodes, self.cpus)

    def _check_nodes(self) -> None:
        if self.hardware is not None and self.hardware.nodes:
            from pyvmm.machine.numa import check_nodes

            check_nodes(self.hardware, self.memory, self.cpus, is_private=self.private is not None)

    def _check_topology(self) -> None:
        topology = None if self.hardware is None else self.hardware.topology
        if topology is None:
            return
        attempt = f"make a machine with {self.cpus} vCPUs"
        if topology.cpus != self.cpus:
            raise UsageError(attempt, f"its topology has {topology.cpus}", "say the same twice")
        if self.private is not None and topology.apic_ids != tuple(range(self.cpus)):
            raise UsageError(
                attempt,
                "their APIC IDs have gaps, and firmware of a private guest knows of none",
                "give powers of two, or leave --private out",
            )

    def address_map(self, *, controllers: bool = False, acpi: bool = False) -> AddressMap:
        """Lay out the guest's address space, with interrupt controllers and tables or without."""
        window = None if self.private is None else self.private.window
        return AddressMap.of(
            self.memory, window=window, controllers=controllers, acpi=acpi, pci=self.has_pci
        )
