# SPDX-License-Identifier: MIT
"""Hardware that a machine is asked to have beside its board's: disks, folders, ports, cards.

Values alone: what they say is checked by whoever makes the devices of
them (docs/decisions/0018 to 0021).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.net.forwards import Forward

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


class VhostChoice(enum.Enum):
    """Choice of who moves a card's frames: the host's kernel (vhost-net), or this process."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"
    """The kernel where it can: it has vhost-net, and guest memory is shared."""


@dataclass(frozen=True, slots=True)
class UserNet:
    """The guest speaks to a user-mode network stack, which needs no privilege (passt)."""

    forwards: tuple[Forward, ...] = ()


@dataclass(frozen=True, slots=True)
class TapNet:
    """The guest's frames go through a tap, made for the run where there is none of that name.

    `name` of None has the kernel choose one. `netns` is the name of a network namespace, or a path
    to one; `address` is the tap's own on this machine, as CIDR. `queues` are pairs of virtqueues.
    """

    name: str | None = None
    bridge: str | None = None
    netns: str | None = None
    address: str | None = None
    queues: int = 1
    vhost: VhostChoice = VhostChoice.AUTO


@dataclass(frozen=True, slots=True)
class DescriptorNet:
    """The guest's frames go through taps that somebody else has opened, one for each queue.

    They have IFF_VNET_HDR and IFF_NO_PI, stay their giver's, and may lie in a namespace that is not
    ours.
    """

    fds: tuple[int, ...]
    vhost: VhostChoice = VhostChoice.AUTO


@dataclass(frozen=True, slots=True)
class NetCard:
    """A virtio network device and what is at the other end of its wire.

    `mac` has 6 bytes; None: one of this project's own choosing, the same for each run of a card's
    number. `mtu` is what the guest is told, in bytes; None: the wire's. `capture` is a file that
    gets all frames, as pcap.
    """

    wire: UserNet | TapNet | DescriptorNet
    mac: bytes | None = None
    mtu: int | None = None
    capture: Path | None = None


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
    cards: tuple[NetCard, ...] = ()

    @property
    def seen(self) -> Hardware:
        """All that the guest sees of it: not which memory of the host's its nodes are, and not what
        its cards are connected to."""
        nodes = tuple(NumaNode(node.memory, node.cpus) for node in self.nodes)
        cards = tuple(NetCard(UserNet(), card.mac, card.mtu) for card in self.cards)
        return replace(self, nodes=nodes, cards=cards)

    @property
    def wants_acpi(self) -> bool | None:
        """`acpi`, and True for nodes, of which only tables tell."""
        return True if self.acpi is None and self.nodes else self.acpi

    @property
    def has_virtio(self) -> bool:
        """True where virtio devices were asked for, of any kind."""
        return bool(
            self.disks
            or self.shares
            or self.ports
            or self.rng
            or self.balloon
            or self.vsock
            or self.cards
        )

    @property
    def needs_pci(self) -> bool:
        """True for devices on a PCI bus."""
        return self.transport is Transport.PCI and self.has_virtio

    @property
    def needs_mmio(self) -> bool:
        """True for devices over MMIO."""
        return self.transport is Transport.MMIO and self.has_virtio
