# SPDX-License-Identifier: MIT
"""Topologies of networks: namespaces, bridges with their subnets, taps, veths, routes. Pure.

A topology says what there is to be and is checked as a whole by who reads it
(`pyvmm.net.topology_file`). A `namespace` of None is the one that the command runs in.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Final

Address = IPv4Interface | IPv6Interface
"""An address with the length of its subnet's prefix."""
Subnet = IPv4Network | IPv6Network

USUAL_MTU: Final = 1500
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace; with `forward` it passes packets on between its devices."""

    name: str
    forward: bool = False


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge; `subnets` are those of everybody on it, `addresses` its own.

    With `masquerade` packets from its subnets that leave by another device get that one's address.
    """

    name: str
    namespace: str | None = None
    subnets: tuple[Subnet, ...] = ()
    addresses: tuple[Address, ...] = ()
    mtu: int = USUAL_MTU
    masquerade: bool = False


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap that stays, for guests that come later; `guests` are the addresses that these take.

    `user` is who may open it without CAP_NET_ADMIN, a name or a number; "" is nobody.
    """

    name: str
    namespace: str | None = None
    bridge: str | None = None
    addresses: tuple[Address, ...] = ()
    guests: tuple[Address, ...] = ()
    mtu: int = USUAL_MTU
    user: str = ""
    multiqueue: bool = False


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One of the two devices of a veth."""

    name: str
    namespace: str | None = None
    bridge: str | None = None
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Veth:
    """A cable: what one end is given comes out at the other."""

    name: str
    ends: tuple[VethEnd, VethEnd]
    mtu: int = USUAL_MTU


@dataclass(frozen=True, slots=True)
class Route:
    """Packets `to` a subnet go to the host `via`, which is reached by the topology's `device`."""

    to: Subnet
    via: Address
    device: str
    namespace: str | None = None


Device = Bridge | Tap | VethEnd


@dataclass(frozen=True, slots=True)
class Topology:
    """A topology and its name."""

    name: str
    namespaces: tuple[Namespace, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    taps: tuple[Tap, ...] = ()
    veths: tuple[Veth, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """All network devices: bridges, taps, ends of veths."""
        ends = (end for veth in self.veths for end in veth.ends)
        return (*self.bridges, *self.taps, *ends)

    @property
    def count(self) -> int:
        """Number of objects with an owner mark: namespaces, devices, and masquerading in the
        command's own namespace (elsewhere it goes with that).
        """
        return len(self.namespaces) + len(self.devices) + bool(self.masqueraded(None))

    def masqueraded(self, namespace: str | None) -> tuple[Bridge, ...]:
        """Bridges of a namespace that masquerade."""
        here = (bridge for bridge in self.bridges if bridge.namespace == namespace)
        return tuple(bridge for bridge in here if bridge.masquerade)

    @property
    def digest(self) -> str:
        """Digest of all that it says: files that mean the same have the same."""
        return sha256(repr(self).encode()).hexdigest()[:_DIGITS]

    def within(self, namespace: str | None) -> tuple[Device, ...]:
        """Devices in a namespace."""
        return tuple(device for device in self.devices if device.namespace == namespace)
