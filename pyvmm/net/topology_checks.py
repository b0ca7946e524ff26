# SPDX-License-Identifier: MIT
"""Checks of a topology as a whole, before any of it is made. Pure."""

from __future__ import annotations

from itertools import combinations

from pyvmm.net.topology import Address, Bridge, Device, Tap, Topology
from pyvmm.toml_table import Mistake, nearest

_LEAST_FOR_IPV6 = 1280
"""Bytes that IPv6 wants of an MTU (RFC 8200, 5)."""


def check_topology(topology: Topology) -> None:
    """See that names are known and used once, and that addresses and MTUs fit each other.

    Raises `Mistake`.
    """
    _check_namespaces(topology)
    for namespace in (None, *(one.name for one in topology.namespaces)):
        _check_names(topology, namespace)
        _check_addresses(topology, namespace)
        _check_subnets(topology, namespace)
    _check_guests(topology)
    _check_mtus(topology)
    _check_masquerade(topology)


def _where(namespace: str | None) -> str:
    return f"the namespace {namespace}" if namespace else "the namespace of the command"


def _check_namespaces(topology: Topology) -> None:
    known = [one.name for one in topology.namespaces]
    for device in (*topology.devices, *topology.routes):
        namespace = device.namespace
        if namespace is not None and namespace not in known:
            name = getattr(device, "name", "a route")
            raise Mistake(
                f"{name} is in a namespace that is not there, {namespace!r:.60}"
                f"{nearest(namespace, known)}",
                "add [namespace.NAME]",
            )


def _check_names(topology: Topology, namespace: str | None) -> None:
    seen: set[str] = set()
    for device in topology.within(namespace):
        if device.name in seen:
            raise Mistake(
                f"two devices in {_where(namespace)} are called {device.name}",
                "give one of them another name",
            )
        seen.add(device.name)


def _check_addresses(topology: Topology, namespace: str | None) -> None:
    owners: dict[object, str] = {}
    for device in topology.within(namespace):
        for address in device.addresses:
            if address.ip in owners:
                raise Mistake(
                    f"{owners[address.ip]} and {device.name} have the same address, {address.ip}",
                    "give one of them another",
                )
            owners[address.ip] = device.name


def _check_subnets(topology: Topology, namespace: str | None) -> None:
    bridges = [one for one in topology.bridges if one.namespace == namespace]
    for first, second in combinations(bridges, 2):
        for one in first.subnets:
            for other in second.subnets:
                if one.overlaps(other):
                    raise Mistake(
                        f"the bridges {first.name} and {second.name} in {_where(namespace)} have "
                        f"subnets that overlap, {one} and {other}",
                        "give one of them another",
                    )
    for bridge in bridges:
        for address in bridge.addresses:
            _check_within(bridge, bridge.name, address)


def _check_within(bridge: Bridge, name: str, address: Address) -> None:
    """An address on a bridge that has subnets is in one of these, with its length."""
    subnets = [one for one in bridge.subnets if one.version == address.version]
    if subnets and address.network not in subnets:
        raise Mistake(
            f"{name} has the address {address}, which is in no subnet of the bridge {bridge.name}",
            f"it has {', '.join(map(str, subnets))}",
        )


def _check_guests(topology: Topology) -> None:
    bridges = {one.name: one for one in topology.bridges}
    owners: dict[tuple[object, object], str] = {
        (
            _segment(device.bridge if not isinstance(device, Bridge) else device.name, device.name),
            address.ip,
        ): device.name
        for device in topology.devices
        for address in device.addresses
    }
    for tap in topology.taps:
        for address in tap.guests:
            if tap.bridge is not None:
                _check_within(bridges[tap.bridge], f"the guest of {tap.name}", address)
            key = (_segment(tap.bridge, tap.name), address.ip)
            if key in owners:
                raise Mistake(
                    f"the guest of {tap.name} has the address of {owners[key]}, {address.ip}",
                    "give one of them another",
                )
            owners[key] = f"the guest of {tap.name}"


def _segment(bridge: str | None, name: str) -> tuple[str, str]:
    """Segment that a device is in: everybody on a bridge, or it and whoever is at its other end."""
    return ("bridge", bridge) if bridge is not None else ("device", name)


def _check_mtus(topology: Topology) -> None:
    bridges = {one.name: one for one in topology.bridges}
    ports = [(tap.name, tap.bridge, tap.mtu) for tap in topology.taps]
    ports += [(end.name, end.bridge, veth.mtu) for veth in topology.veths for end in veth.ends]
    for name, bridge, mtu in ports:
        if bridge is not None and bridges[bridge].mtu != mtu:
            raise Mistake(
                f"{name} has an MTU of {mtu}, its bridge {bridge} one of {bridges[bridge].mtu}",
                "make them the same: what is longer would be lost between them",
            )
    sized: list[tuple[Device, int]] = [(one, one.mtu) for one in topology.bridges]
    sized += [(one, one.mtu) for one in topology.taps]
    sized += [(end, veth.mtu) for veth in topology.veths for end in veth.ends]
    for device, mtu in sized:
        guests = device.guests if isinstance(device, Tap) else ()
        if mtu < _LEAST_FOR_IPV6 and any(one.version == 6 for one in (*device.addresses, *guests)):
            raise Mistake(
                f"{device.name} has an MTU of {mtu} and an IPv6 address",
                f"IPv6 needs {_LEAST_FOR_IPV6}",
            )


def _check_masquerade(topology: Topology) -> None:
    for bridge in topology.bridges:
        if bridge.masquerade and not bridge.subnets:
            raise Mistake(
                f"the bridge {bridge.name} masquerades, but has no subnet",
                'say whose packets: subnet = "10.0.0.0/24"',
            )
