# SPDX-License-Identifier: MIT
"""Links of a network namespace by rtnetlink: devices, their addresses, bridges and routes.

By pyroute2's synchronous core, which blocks and has an event loop of its own: not for trio's thread
(`pyvmm.net.namespaces.within` has one for it).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError, UsageError
from pyvmm.net.device_names import LONGEST_NAME, name_size
from pyvmm.net.marks import Mark, group_of, mark_of

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_MAIN_TABLE = 254
_LINK_SCOPE = 253
_NO_ADDRESSES = 1
"""IN6_ADDR_GEN_MODE_NONE."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is rtnetlink's, "" for hardware; `mtu` is in bytes; `master` is the
    index of the bridge that it belongs to. A tap `has_carrier` while somebody has it open.
    """

    index: int
    name: str
    kind: str
    mtu: int
    is_up: bool
    master: int | None
    alias: str
    group: int
    mac: str
    has_carrier: bool = field(compare=False)

    @property
    def mark(self) -> Mark | None:
        """Its owner mark, None where it is somebody else's."""
        return mark_of(self.alias)

    def is_of(self, owner: str) -> bool:
        """True for a device of the owner's, also where it was being made when its maker ended."""
        mark = self.mark
        return mark.owner == owner if mark else not self.alias and self.group == group_of(owner)


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address of the device `index`, as CIDR."""

    index: int
    address: str


@dataclass(frozen=True, slots=True)
class LinkRoute:
    """A route through the device `index`: where `to`, as CIDR or "default", and `via` whom."""

    index: int
    to: str
    via: str


@contextmanager
def opened_links() -> Iterator[Links]:
    """Open a socket of the calling thread's network namespace; close it in the end.

    Raises `HostLacksError` without pyroute2.
    """
    try:
        from pyroute2 import IPRoute
    except ImportError as error:
        raise HostLacksError(
            "set up a network", "pyroute2 is not installed", "pip install 'pyvmm[net]'"
        ) from error
    with IPRoute() as route:
        yield Links(route)


class Links:
    """The links of a namespace; for one thread, from which it does not go.

    All raise `NoPermissionError` without CAP_NET_ADMIN, and `SystemCallError`.
    """

    def __init__(self, route: IPRoute) -> None:
        self._route = route

    def find(self, name: str) -> Link | None:
        """Find the device of that name."""
        if not 0 < name_size(name) <= LONGEST_NAME:
            return None
        try:
            with _told(f"find the network device {name}"):
                return _link(self._route.link("get", ifname=name)[0])
        except SystemCallError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def all(self) -> tuple[Link, ...]:
        """All devices, by index."""
        with _told("list the network devices"):
            return tuple(sorted(map(_link, self._route.get_links()), key=lambda link: link.index))

    def add_bridge(self, name: str, mark: Mark, mtu: int | None = None) -> Link:
        """Make a bridge, down. `mtu` is in bytes. Raises `UsageError` where the name is taken."""
        more = {} if mtu is None else {"mtu": mtu}
        return self._add(name, mark, kind="bridge", **more)

    def add_veth(
        self,
        name: str,
        mark: Mark,
        *,
        peer: str,
        peer_namespace: int,
        mtu: int | None = None,
    ) -> Link:
        """Make two ends of a wire, down: `name` here, `peer` in a namespace (a descriptor).

        Both are in the mark's group, the peer has no alias. They go together. Raises `UsageError`
        where a name is taken.
        """
        more = {} if mtu is None else {"mtu": mtu}
        other = {"ifname": peer, "net_ns_fd": peer_namespace, "group": mark.group, **more}
        return self._add(name, mark, kind="veth", peer=other, **more)

    def _add(self, name: str, mark: Mark, **asked: Any) -> Link:
        with _told(f"make the network device {name}"):
            self._route.link("add", ifname=name, group=mark.group, **asked)
        link = self.find(name)
        if link is None:
            raise UsageError(f"make the network device {name}", "somebody has removed it")
        return self.change(link, mark=mark)

    def change(
        self,
        link: Link,
        *,
        mark: Mark | None = None,
        mtu: int | None = None,
        bridge: Link | None = None,
        is_up: bool | None = None,
        mac: str | None = None,
    ) -> Link:
        """Change a device, by one message: mark, MTU in bytes, the bridge that it belongs to."""
        asked: dict[str, Any] = {}
        if mark is not None:
            asked |= {"ifalias": mark.alias, "group": mark.group}
        if mtu is not None:
            asked["mtu"] = mtu
        if bridge is not None:
            asked["master"] = bridge.index
        if is_up is not None:
            asked["state"] = "up" if is_up else "down"
        if mac is not None:
            asked["address"] = mac
        with _told(f"set up the network device {link.name}"):
            self._route.link("set", index=link.index, **asked)
        return replace(
            link,
            alias=mark.alias if mark else link.alias,
            group=mark.group if mark else link.group,
            mtu=link.mtu if mtu is None else mtu,
            master=bridge.index if bridge else link.master,
            is_up=link.is_up if is_up is None else is_up,
            mac=link.mac if mac is None else mac,
        )

    def forgo_link_local(self, link: Link) -> None:
        """Have a device that is down get no IPv6 address by itself, where there is IPv6."""
        inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_ADDRESSES)]}
        families = {"attrs": [("AF_INET6", inet6)]}
        try:
            with _told(f"set up the network device {link.name}"):
                self._route.link("set", index=link.index, IFLA_AF_SPEC=families)
        except SystemCallError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise

    def remove(self, link: Link) -> None:
        """Remove a device; one that has gone already is removed."""
        try:
            with _told(f"remove the network device {link.name}"):
                self._route.link("del", index=link.index)
        except SystemCallError as error:
            if error.errno != errno.ENODEV:
                raise

    def add_route(self, destination: str, gateway: str, link: Link | None = None) -> None:
        """Add a route to a network (CIDR; "0.0.0.0/0" or "::/0" is all) by way of a gateway, that
        is reached through this device.
        """
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        through = {} if link is None else {"oif": link.index}
        with _told(f"add a route to {destination} by way of {gateway}"):
            self._route.route("add", dst=destination, gateway=gateway, family=family, **through)

    def addresses(self) -> tuple[LinkAddress, ...]:
        """All addresses but those that IPv6 makes for each link by itself."""
        with _told("list the addresses of network devices"):
            found = [one for one in self._route.get_addr() if one["scope"] != _LINK_SCOPE]
        return tuple(map(_address, found))

    def routes(self) -> tuple[LinkRoute, ...]:
        """All routes of the main table that lead by way of a gateway."""
        with _told("list the routes"):
            return tuple(
                _link_route(one)
                for one in self._route.get_routes()
                if one.get_attr("RTA_TABLE") == _MAIN_TABLE and one.get_attr("RTA_GATEWAY")
            )

    def require_free(self, address: str) -> None:
        """Raise `UsageError` for an address (CIDR) that a device of this namespace has already."""
        wanted = ipaddress.ip_interface(address).ip
        with _told("list the addresses"):
            for message in self._route.get_addr():
                has = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if has is not None and ipaddress.ip_address(has) == wanted:
                    index = int(message["index"])
                    name = next((link.name for link in self.all() if link.index == index), index)
                    raise UsageError(f"use the address {wanted}", f"{name} has it", "give another")

    def add_address(self, link: Link, address: str) -> None:
        """Give a device an address, as CIDR."""
        host, _, length = address.partition("/")
        with _told(f"give {link.name} the address {address}"):
            self._route.addr("add", index=link.index, address=host, prefixlen=int(length))


def _link(message: Any) -> Link:
    information = message.get_attr("IFLA_LINKINFO")
    kind = information.get_attr("IFLA_INFO_KIND") if information else None
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str(kind or ""),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        is_up=bool(message["flags"] & 1),
        master=message.get_attr("IFLA_MASTER"),
        group=int(message.get_attr("IFLA_GROUP") or 0),
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
        mac=str(message.get_attr("IFLA_ADDRESS") or ""),
        has_carrier=bool(message.get_attr("IFLA_CARRIER")),
    )


def _address(message: Any) -> LinkAddress:
    host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return LinkAddress(int(message["index"]), f"{host}/{message['prefixlen']}")


def _link_route(message: Any) -> LinkRoute:
    to = message.get_attr("RTA_DST")
    return LinkRoute(
        int(message.get_attr("RTA_OIF") or 0),
        f"{to}/{message['dst_len']}" if to else "default",
        str(message.get_attr("RTA_GATEWAY")),
    )


@contextmanager
def _told(attempt: str) -> Iterator[None]:
    """Turn pyroute2's errors into ours."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        number = int(error.code)
        if number in (errno.EPERM, errno.EACCES):
            raise NoPermissionError(
                attempt, "it needs CAP_NET_ADMIN in its network namespace", "do it as root"
            ) from error
        if number == errno.EEXIST:
            raise UsageError(attempt, "there is one already", "choose another") from error
        raise SystemCallError(attempt, number, os.strerror(number)) from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
