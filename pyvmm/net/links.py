# SPDX-License-Identifier: MIT
"""Links of a network namespace by rtnetlink: devices, their addresses, bridges and routes.

By pyroute2's synchronous core, which blocks and has an event loop of its own: not for trio's thread
(`pyvmm.net.namespaces.within` has one for it).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError
from pyvmm.net.marks import Mark, mark_of

if TYPE_CHECKING:
    from pyroute2 import IPRoute


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is rtnetlink's, "" for hardware; `mtu` is in bytes; `master` is the
    index of the bridge that it belongs to.
    """

    index: int
    name: str
    kind: str
    mtu: int
    is_up: bool
    master: int | None
    alias: str

    @property
    def mark(self) -> Mark | None:
        """Its owner mark, None where it is somebody else's."""
        return mark_of(self.alias)


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
        return next((link for link in self.all() if link.name == name), None)

    def all(self) -> tuple[Link, ...]:
        """All devices, by index."""
        with _told("list the network devices"):
            return tuple(sorted(map(_link, self._route.get_links()), key=lambda link: link.index))

    def set_up(
        self,
        link: Link,
        *,
        mark: Mark | None = None,
        mtu: int | None = None,
        bridge: Link | None = None,
    ) -> None:
        """Give a device a mark, an MTU in bytes and a bridge, and have it up, by one message."""
        asked: dict[str, Any] = {"state": "up"}
        if mark is not None:
            asked["ifalias"] = mark.alias
        if mtu is not None:
            asked["mtu"] = mtu
        if bridge is not None:
            asked["master"] = bridge.index
        with _told(f"set up the network device {link.name}"):
            self._route.link("set", index=link.index, **asked)

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
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
    )


@contextmanager
def _told(attempt: str) -> Iterator[None]:
    """Turn pyroute2's errors into ours."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        number = int(error.code)
        if number in (1, 13):
            raise NoPermissionError(
                attempt, "it needs CAP_NET_ADMIN in its network namespace", "do it as root"
            ) from error
        raise SystemCallError(attempt, number, os.strerror(number)) from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
