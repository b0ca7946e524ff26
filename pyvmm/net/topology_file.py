# SPDX-License-Identifier: MIT
"""Text of a topology file, TOML, as a `Topology`. Keys not known are refused (docs/network.md)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final, TypeVar

from pyvmm.errors import UsageError
from pyvmm.net.host_address import usable
from pyvmm.net.topology import (
    USUAL_MTU,
    Address,
    Bridge,
    Namespace,
    Route,
    Subnet,
    Tap,
    Topology,
    Veth,
    VethEnd,
)
from pyvmm.net.topology_checks import check_topology
from pyvmm.toml_table import Mistake, Table, nearest, text_of

MOST_OBJECTS: Final = 4096
"""Namespaces and devices that a topology may have."""
_MTUS: Final = range(68, 65536)
"""The least that IPv4 can do with (RFC 791), and the most that a tap and a bridge take."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*", re.ASCII)
_LONGEST_NAME: Final = 40
_LONGEST_DEVICE: Final = 15
_TAKEN: Final = ("lo", "all", "default")
"""No names of devices: each namespace has a `lo`, and /proc/sys has folders of the other names."""
_RUN: Final = "run"
"""Owner of what belongs to a machine's run (`pyvmm.net.marks`)."""
Value = TypeVar("Value")


def parse_topology(text: str, file: str, stem: str) -> Topology:
    """Make a topology of a file's `text`, called `stem` if it says no name of its own.

    `file` is its name for messages. Raises `UsageError` for whatever is wrong with it.
    """
    attempt = f"read the topology {file}"
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise UsageError(
            attempt, "it is nested too deeply", "a topology has tables in it"
        ) from None
    except ValueError as error:  # TOMLDecodeError, and numbers that Python finds too long
        raise UsageError(attempt, f"it is no TOML: {error}", "mend that") from None
    try:
        topology = _topology(Table("the file", content), stem)
        check_topology(topology)
    except Mistake as wrong:
        raise UsageError(attempt, wrong.cause, wrong.remedy) from None
    return topology


def _topology(table: Table, stem: str) -> Topology:
    table.knows("name", "namespace", "bridge", "tap", "veth", "route")
    name = table.text("name")
    if name is None:
        name = stem
    if not _is_name(name, _LONGEST_NAME) or name == _RUN:
        raise Mistake(
            f"{name!r:.60} cannot be a topology's name",
            'say name = "..." at its beginning, up to 40 letters, digits and _.+=-',
        )
    bridges = _each(table, "bridge", _LONGEST_DEVICE, _bridge)
    by_name = {bridge.name: bridge for bridge in bridges}
    topology = Topology(
        name,
        _each(table, "namespace", _LONGEST_NAME, _namespace),
        bridges,
        _each(table, "tap", _LONGEST_DEVICE, partial(_tap, by_name)),
        _each(table, "veth", _LONGEST_DEVICE, partial(_veth, by_name)),
    )
    if not topology.count:
        raise Mistake("it has nothing in it", "add [bridge.NAME], [tap.NAME] or [namespace.NAME]")
    if topology.count > MOST_OBJECTS:
        raise Mistake(
            f"it has {topology.count} objects", f"make it topologies of up to {MOST_OBJECTS}"
        )
    routes = tuple(_route(one, topology) for one in table.tables("route"))
    return Topology(name, topology.namespaces, bridges, topology.taps, topology.veths, routes)


def _each(
    table: Table, key: str, longest: int, of: Callable[[str, Table], Value]
) -> tuple[Value, ...]:
    """Values of the tables [key.NAME], in the file's order."""
    found = []
    for name, one in table.named_tables(key):
        if not _is_name(name, longest) or name in _TAKEN:
            raise Mistake(
                f"{name!r:.60} cannot be the name of a {key}",
                f"take up to {longest} letters, digits and _.+=-, but not {', '.join(_TAKEN)}",
            )
        found.append(of(name, one))
    return tuple(found)


def _is_name(name: str, longest: int) -> bool:
    return len(name) <= longest and _NAME.fullmatch(name) is not None


# -- tables --


def _namespace(name: str, table: Table) -> Namespace:
    table.knows("forward")
    return Namespace(name, table.flag("forward"))


def _bridge(name: str, table: Table) -> Bridge:
    table.knows("namespace", "subnet", "address", "mtu", "masquerade")
    subnets = table.values("subnet", _subnet, str) or ()
    return Bridge(
        name,
        table.text("namespace"),
        subnets,
        _addresses(table, "address", subnets),
        table.value("mtu", _mtu) or USUAL_MTU,
        table.flag("masquerade"),
    )


def _tap(bridges: dict[str, Bridge], name: str, table: Table) -> Tap:
    table.knows("namespace", "bridge", "address", "guest", "mtu", "user", "multiqueue")
    bridge, namespace = _place(table, bridges)
    addresses = _addresses(table, "address", ())
    subnets = bridge.subnets if bridge else tuple(one.network for one in addresses)
    return Tap(
        name,
        namespace,
        bridge.name if bridge else None,
        addresses,
        _addresses(table, "guest", subnets),
        table.value("mtu", _mtu) or (bridge.mtu if bridge else USUAL_MTU),
        table.value("user", _user) or "",
        table.flag("multiqueue"),
    )


def _veth(bridges: dict[str, Bridge], name: str, table: Table) -> Veth:
    table.knows("ends", "mtu")
    tables = table.tables("ends")
    if len(tables) != 2:
        raise Mistake(
            f"{table.place} has {len(tables)} ends",
            "give it two: ends = [{ namespace = ... }, { bridge = ... }]",
        )
    ends, mtus = [], []
    for one in tables:
        one.knows("name", "namespace", "bridge", "address")
        bridge, namespace = _place(one, bridges)
        own = one.value("name", _device_name) or name
        bridged = bridge.name if bridge else None
        ends.append(VethEnd(own, namespace, bridged, _addresses(one, "address", ())))
        mtus += [bridge.mtu] if bridge else []
    mtu = table.value("mtu", _mtu) or min(mtus, default=USUAL_MTU)
    return Veth(name, (ends[0], ends[1]), mtu)


def _place(table: Table, bridges: dict[str, Bridge]) -> tuple[Bridge | None, str | None]:
    """The bridge that a device is on, and its namespace, which is the bridge's then."""
    name, namespace = table.text("bridge"), table.text("namespace")
    if name is None:
        return None, namespace
    if name not in bridges:
        raise Mistake(
            f"{table.place}: there is no bridge {name!r:.60}{nearest(name, bridges)}",
            "a bridge is of the same file: add [bridge.NAME]",
        )
    bridge = bridges[name]
    if namespace is not None and namespace != bridge.namespace:
        raise Mistake(
            f"{table.place}: its bridge {name} is not in the namespace {namespace!r:.60}",
            "leave the namespace out: it is the bridge's",
        )
    return bridge, bridge.namespace


def _route(table: Table, topology: Topology) -> Route:
    table.knows("namespace", "to", "via")
    namespace = table.text("namespace")
    via = table.value("via", _host)
    if via is None:
        raise Mistake(f"{table.place} has no via", 'say by whom: via = "10.0.0.1"')
    to = table.value("to", partial(_destination, via.version))
    if to is None:
        raise Mistake(f"{table.place} has no to", 'say where to: to = "default"')
    if to.version != via.version:
        raise Mistake(
            f"{table.place}: {to} is IPv{to.version}, {via} is IPv{via.version}",
            "make them the same",
        )
    for device in topology.within(namespace):
        for address in device.addresses:
            if via.ip in address.network:
                if via.ip == address.ip:
                    raise Mistake(
                        f"{table.place}: {via.ip} is the address of {device.name} itself",
                        "name another host",
                    )
                return Route(to, via, device.name, namespace)
    where = f"the namespace {namespace!r:.60}" if namespace else "this namespace"
    raise Mistake(
        f"{table.place}: no device of the topology in {where} reaches {via.ip}",
        "give one of them an address in its subnet",
    )


def _addresses(table: Table, key: str, subnets: tuple[Subnet, ...]) -> tuple[Address, ...]:
    return table.values(key, partial(_address, subnets), str) or ()


# -- values --


def _address(subnets: tuple[Subnet, ...], value: object) -> Address:
    """An address; without a length it gets that of the subnet it is in."""
    text = text_of(value)
    try:
        if "%" in text:  # A zone, which is a device's name on some host.
            raise ValueError(text)
        if "/" in text:
            found: Address = ip_interface(text)
        else:
            ip = ip_address(text)
            fitting = [subnet for subnet in subnets if ip in subnet]
            if not fitting:
                raise ValueError("in no subnet of its bridge's; give its length (10.0.0.1/24)")
            found = ip_interface(f"{ip}/{fitting[0].prefixlen}")
    except ValueError as error:
        told = str(error)
        raise ValueError(
            told if told.startswith("in no") else 'no address ("10.0.0.1/24")'
        ) from None
    return usable(found)


def _host(value: object) -> Address:
    """An address alone, as one with a prefix of its whole length."""
    try:
        return usable(ip_interface(str(ip_address(text_of(value)))))
    except ValueError:
        raise ValueError('no address ("10.0.0.1")') from None


def _subnet(value: object) -> Subnet:
    text = text_of(value)
    try:
        if "/" not in text:
            raise ValueError(text)
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('no subnet ("10.0.0.0/24")') from None
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"an address in a subnet; the subnet is {network}")
    if network.is_multicast or network.is_loopback:
        raise ValueError("no subnet that hosts can be in")
    return network


def _destination(version: int, value: object) -> Subnet:
    if value == "default":
        return ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return _subnet(value)


def _mtu(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in _MTUS:
        raise ValueError(f"no MTU, a whole number from {_MTUS[0]} to {_MTUS[-1]}")
    return value


def _user(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < (1 << 32) - 1:
        return str(value)
    text = text_of(value)
    if not _is_name(text, 32):
        raise ValueError("no user's name or number")
    return text


def _device_name(value: object) -> str:
    text = text_of(value)
    if not _is_name(text, _LONGEST_DEVICE) or text in _TAKEN:
        raise ValueError(f"no device's name, up to {_LONGEST_DEVICE} letters, digits and _.+=-")
    return text
