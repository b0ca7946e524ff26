# SPDX-License-Identifier: MIT
"""Making a topology, so that whatever ends it in the middle, all that is there is marked.

A namespace is filled before it gets a name: until then it goes with its descriptor, and all that is
in it. A tap goes with its own until it is marked. Bridges and veths have their owner's group from
their first moment on (`pyvmm.net.marks`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.net.forwarding import forward, refuse_without_forwarding
from pyvmm.net.links import Link, Links, opened_links
from pyvmm.net.masquerading import masquerade
from pyvmm.net.named_namespaces import name_namespace
from pyvmm.net.namespaces import NAMES, new_namespace, open_namespace, own_namespace, within
from pyvmm.net.taps import keep_tap, make_tap
from pyvmm.net.topology import Bridge, Namespace, Tap, Topology, VethEnd
from pyvmm.net.topology_marks import MASQUERADES, ObjectKind, ObjectMark

Check = Callable[[], None]


def make(topology: Topology, check: Check) -> None:
    """Make all of it in the calling thread's namespace and others; `check` is called between steps.

    Raises what `check` does, `UsageError` for names that are taken, `HostLacksError`,
    `NoPermissionError`, `SystemCallError`. Nothing is taken back then.
    """
    maker = _Maker(topology, check)
    for name in [one.name for one in topology.namespaces]:
        if os.path.lexists(NAMES / name):
            raise _name_is_taken(f"network namespace {name}")
    within(None, maker.look_first)
    within(None, partial(maker.fill, None))
    for namespace in topology.namespaces:
        check()
        maker.make_namespace(namespace)
    maker.lay_cables()
    for place in dict.fromkeys(
        [one.namespace for one in maker.ends] + [one.namespace for one in topology.routes]
    ):
        check()
        within(place, partial(maker.connect, place))
    check()
    maker.say_that_it_is_whole()


class _Maker:
    def __init__(self, topology: Topology, check: Check) -> None:
        self.topology = topology
        self.check = check
        self._digest = topology.digest
        self.users = {tap.name: _number_of(tap.user) for tap in topology.taps if tap.user}
        self.ends = [end for veth in topology.veths for end in veth.ends]

    # -- marks --

    def mark(self, kind: ObjectKind, name: str, notes: Iterable[object] = ()) -> ObjectMark:
        return ObjectMark(self.topology.name, self._digest, kind, name, tuple(map(str, notes)))

    def mark_of(self, device: Bridge | Tap | VethEnd) -> ObjectMark:
        match device:
            case Bridge():
                notes = [*device.subnets, *([MASQUERADES] if device.masquerade else [])]
                return self.mark(ObjectKind.BRIDGE, device.name, notes)
            case Tap():
                return self.mark(ObjectKind.TAP, device.name, device.guests)
        for veth in self.topology.veths:
            if device in veth.ends:
                other = veth.ends[1 - veth.ends.index(device)]
                note = f"{other.name}@{other.namespace or ''}"
                return self.mark(ObjectKind.VETH, device.name, (note,))
        raise AssertionError(device)

    def mark_of_namespace(self, name: str) -> ObjectMark:
        return self.mark(ObjectKind.NAMESPACE, name)

    def say_that_it_is_whole(self) -> None:
        """Write the number of objects into one mark, when all else is done."""
        total = self.topology.count
        devices = self.topology.within(None)
        netns = None if devices else self.topology.namespaces[0].name
        name = devices[0].name if devices else "lo"
        mark = self.mark_of(devices[0]) if netns is None else self.mark_of_namespace(netns)

        def write() -> None:
            with opened_links() as links:
                links.change(_there(links, name), mark=mark.of_whole(total).mark)

        within(netns, write)

    # -- what is in a namespace --

    def look_first(self) -> None:
        """See that what is in this namespace leaves room for the topology's devices."""
        with opened_links() as links:
            taken = {link.name for link in links.all()}
        for device in self.topology.within(None):
            if device.name in taken:
                raise _name_is_taken(f"network device {device.name}")
        for bridge in self.topology.masqueraded(None):
            for version in dict.fromkeys(subnet.version for subnet in bridge.subnets):
                refuse_without_forwarding(version, bridge.name)

    def make_namespace(self, namespace: Namespace) -> None:
        fd = new_namespace()
        try:
            within(fd, partial(self.fill, namespace))
            name_namespace(fd, namespace.name, self.mark_of_namespace(namespace.name).mark)
        finally:
            os.close(fd)

    def fill(self, namespace: Namespace | None) -> None:
        """Make the bridges and taps of the thread's namespace, with their addresses."""
        name = namespace.name if namespace else None
        bridges = [one for one in self.topology.bridges if one.namespace == name]
        taps = [one for one in self.topology.taps if one.namespace == name]
        if namespace is None and not bridges and not taps:
            return
        with opened_links() as links:
            if namespace is not None:
                lo = _there(links, "lo")
                links.change(lo, mark=self.mark_of_namespace(namespace.name).mark, is_up=True)
                if namespace.forward or any(one.masquerade for one in bridges):
                    forward()
            made = {one.name: self._make_bridge(links, one) for one in bridges}
            for tap in taps:
                self.check()
                self._make_tap(links, tap, made[tap.bridge] if tap.bridge else None)

        masqueraded = self.topology.masqueraded(name)
        if masqueraded:
            self.check()
            insides = [(one.name, map(str, one.subnets)) for one in masqueraded]
            masquerade(self.topology.name, insides)

    def _make_bridge(self, links: Links, bridge: Bridge) -> Link:
        self.check()
        link = links.add_bridge(bridge.name, self.mark_of(bridge).mark)
        for address in bridge.addresses:
            links.add_address(link, str(address))
        # Set once it is there: otherwise it follows those of the devices on it.
        return links.change(link, mtu=bridge.mtu, is_up=True)

    def _make_tap(self, links: Links, tap: Tap, bridge: Link | None) -> None:
        opened = make_tap(tap.name, 2 if tap.multiqueue else 1)
        if opened is None:
            raise _name_is_taken(f"tap {tap.name}")
        try:
            link = _there(links, tap.name)
            for address in tap.addresses:
                links.add_address(link, str(address))
            links.change(link, mark=self.mark_of(tap).mark, mtu=tap.mtu, bridge=bridge, is_up=True)
            try:
                keep_tap(opened.fds[0], user=self.users.get(tap.name))
            except OSError as error:
                attempt = f"have the tap {tap.name} stay"
                raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
        finally:
            for fd in opened.fds:
                os.close(fd)

    # -- between namespaces --

    def lay_cables(self) -> None:
        """Make the veths, each from where its first end is to be."""
        with ExitStack() as stack:
            home = own_namespace()
            stack.callback(os.close, home)
            for place in dict.fromkeys(veth.ends[0].namespace for veth in self.topology.veths):
                within(place, partial(self._lay_cables_from, place, home))

    def _lay_cables_from(self, place: str | None, home: int) -> None:
        with opened_links() as links:
            for veth in self.topology.veths:
                first, second = veth.ends
                if first.namespace != place:
                    continue
                self.check()
                with ExitStack() as stack:
                    there = home
                    if second.namespace is not None:
                        there = open_namespace(second.namespace)
                        stack.callback(os.close, there)
                    links.add_veth(
                        first.name,
                        self.mark_of(first).mark,
                        peer=second.name,
                        peer_namespace=there,
                        mtu=veth.mtu,
                    )

    def connect(self, namespace: str | None) -> None:
        """Set up the ends of veths in the thread's namespace, and its routes."""
        with opened_links() as links:
            there = {link.name: link for link in links.all()}
            for end in self.ends:
                if end.namespace == namespace:
                    link = there[end.name]
                    for address in end.addresses:
                        links.add_address(link, str(address))
                    links.change(
                        link,
                        mark=self.mark_of(end).mark,
                        bridge=there[end.bridge] if end.bridge else None,
                        is_up=True,
                    )
            for route in self.topology.routes:
                if route.namespace == namespace:
                    links.add_route(str(route.to), str(route.via.ip), there[route.device])


def _name_is_taken(wanted: str) -> UsageError:
    return UsageError(
        f"make the {wanted}", "there is one of that name, which is not the topology's",
        "give it another name in the file",
    )  # fmt: skip


def _there(links: Links, name: str) -> Link:
    link = links.find(name)
    if link is None:
        raise UsageError(f"set up the network device {name}", "somebody has removed it")
    return link


def _number_of(user: str) -> int:
    """Number of a user, given by name or number."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(
            f"give a tap to the user {user}", "there is no such user", "give a number"
        ) from None
