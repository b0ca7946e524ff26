# SPDX-License-Identifier: MIT
"""Hardware that a machine is asked to have beside its board's: disks, folders, ports, topology.

Values alone: what they say is checked by whoever makes the devices of
them (docs/decisions/0018 to 0020).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.hosts.topology import Topology


class Transport(enum.Enum):
    """Bus by which the guest reaches virtio devices."""

    PCI = "pci"
    MMIO = "mmio"


class RingFeature(enum.Enum):
    """Feature of virtio's rings that is offered where it was asked for, as on QEMU."""

    PACKED = "packed"
    NOTIFICATION_DATA = "notification-data"


class DiskFormat(enum.Enum):
    """Format of a disk's file: said by the user, never guessed from what a guest may write."""

    RAW = "raw"
    QCOW2 = "qcow2"


class OnIoError(enum.Enum):
    """Policy for a request that the host could not do."""

    REPORT = "report"
    """The guest gets an I/O error."""
    STOP = "stop"
    """The machine is paused; the request is tried again when it is resumed."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtio block device with the contents of `path`.

    `format` is None where the user said none: raw, unless the file looks like another one.
    `serial` has at most 20 bytes (virtio 1.2, 5.2.6), `queues` is a number of virtqueues.
    """

    path: Path
    format: DiskFormat | None = None
    read_only: bool = False
    serial: str = ""
    queues: int = 1
    on_io_error: OnIoError = OnIoError.REPORT


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of the host, mounted in the guest by its `tag` (9p)."""

    tag: str
    path: Path
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class PortChoice:
    """A port of the virtio console, named `name`: a Unix socket at `path`, or the descriptor `fd`.

    The descriptor stays its giver's.
    """

    name: str
    path: Path | None = None
    fd: int | None = None


class MemoryPolicy(enum.Enum):
    """Policy by which the host chooses among its nodes; the names are QEMU's and mbind(2)'s."""

    BIND = "bind"
    """These nodes and no other, even if they have no memory left."""
    PREFERRED = "preferred"
    """This one node while it has memory."""
    INTERLEAVE = "interleave"
    """Page by page, these nodes in turn."""


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A node of the guest's: the next `memory` bytes of its RAM, and the vCPUs `cpus`.

    Memory comes from the host's `host_nodes`, as `policy` has it; without one from anywhere.
    """

    memory: int
    cpus: tuple[int, ...] = ()
    policy: MemoryPolicy | None = None
    host_nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Vsock:
    """A virtio socket device: the guest's context ID, and the Unix socket of the host's side."""

    cid: int
    path: Path


@dataclass(frozen=True, slots=True)
class Hardware:
    """Hardware that was asked for; a machine without any has none of these devices.

    `rings` are features that all virtio devices offer. `acpi` is None where the image decides;
    `topology` of None is one socket, and with `nodes` sockets that lie in one node each. Nodes and
    devices are numbered in the order of their lists.
    """

    transport: Transport = Transport.PCI
    rings: tuple[RingFeature, ...] = ()
    acpi: bool | None = None
    topology: Topology | None = None
    nodes: tuple[NumaNode, ...] = ()
    disks: tuple[Disk, ...] = ()
    shares: tuple[Share, ...] = ()
    ports: tuple[PortChoice, ...] = ()
    rng: bool = False
    balloon: bool = False
    vsock: Vsock | None = None

    @property
    def seen(self) -> Hardware:
        """All that the guest sees of it: not which memory of the host's its nodes are."""
        nodes = tuple(NumaNode(node.memory, node.cpus) for node in self.nodes)
        return replace(self, nodes=nodes)

    @property
    def wants_acpi(self) -> bool | None:
        """`acpi`, and True for nodes, of which only tables tell."""
        return True if self.acpi is None and self.nodes else self.acpi

    @property
    def has_virtio(self) -> bool:
        """True where virtio devices were asked for, of any kind."""
        return bool(
            self.disks or self.shares or self.ports or self.rng or self.balloon or self.vsock
        )

    @property
    def needs_pci(self) -> bool:
        """True for devices on a PCI bus."""
        return self.transport is Transport.PCI and self.has_virtio

    @property
    def needs_mmio(self) -> bool:
        """True for devices over MMIO."""
        return self.transport is Transport.MMIO and self.has_virtio
