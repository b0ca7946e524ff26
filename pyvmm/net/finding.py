# SPDX-License-Identifier: MIT
"""Topologies as they are on this machine, by the marks of their objects."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial

from pyvmm.errors import HostLacksError, NoInputError, NoPermissionError, UsageError
from pyvmm.net.found import FoundDevice, FoundNamespace, FoundTopology
from pyvmm.net.links import Link, Links, opened_links
from pyvmm.net.masquerading import masquerading_owners
from pyvmm.net.named_namespaces import NamedFile, named_files
from pyvmm.net.namespaces import within
from pyvmm.net.topology_marks import ObjectKind, ObjectMark, object_mark

_LOOPBACK = "lo"


class Survey:
    """All that has a topology's mark, here and in namespaces that have a name.

    `in_full` has addresses and routes looked at, too.
    """

    def __init__(self, *, in_full: bool = False) -> None:
        """Look. Raises `HostLacksError`, `NoPermissionError`, `SystemCallError`."""
        self._in_full = in_full
        self._namespaces: dict[str, list[FoundNamespace]] = defaultdict(list)
        self._devices: dict[str, list[FoundDevice]] = defaultdict(list)
        self._files: dict[str, list[str]] = defaultdict(list)
        self._unmarked: list[tuple[str | None, Link]] = []
        try:
            within(None, partial(self._look, None))
            self._masquerading = within(None, _masquerading)
            for file in named_files():
                self._look_at(file)
        except NoPermissionError as error:
            raise NoPermissionError(
                "look for topologies of networks",
                error.cause,
                "do it as root, or in namespaces of your own (unshare -Urnm)",
            ) from error

    def topology(self, name: str) -> FoundTopology:
        """All that is there of a topology, which may be nothing."""
        unmarked = [
            _device(link, namespace, None) for namespace, link in self._unmarked if link.is_of(name)
        ]
        devices = (*self._devices[name], *unmarked)
        return FoundTopology(
            name,
            tuple(self._namespaces[name]),
            devices,
            name in self._masquerading,
            tuple(self._files[name]),
        )

    def topologies(self) -> tuple[FoundTopology, ...]:
        """All that there are, by name."""
        owners = (self._namespaces, self._devices, self._masquerading, self._files)
        return tuple(map(self.topology, sorted(set().union(*owners))))

    def _look_at(self, file: NamedFile) -> None:
        if file.is_mounted:
            try:
                within(str(file.path), partial(self._look, file))
            except (NoInputError, UsageError):
                return  # It has gone meanwhile, or is a namespace of another type.
        elif file.owner is not None:
            self._files[file.owner].append(str(file.path))

    def _look(self, file: NamedFile | None) -> None:
        with opened_links() as links:
            there = links.all()
            marked = [(link, mark) for link in there if (mark := object_mark(link.mark))]
            namespace = file.path.name if file else None
            if file is not None:
                lo = next((mark for link, mark in marked if link.name == _LOOPBACK), None)
                if lo is None or lo.name != file.path.name:
                    return  # Somebody else's, or has got another name from somebody.
                self._namespaces[lo.topology].append(FoundNamespace(lo.name, str(file.path), lo))
            self._unmarked += [(namespace, link) for link in there if not link.alias and link.group]
            told = _Told(links, there) if marked and self._in_full else None
            for link, mark in marked:
                if mark.kind is not ObjectKind.NAMESPACE:
                    self._devices[mark.topology].append(_device(link, namespace, mark, told))


def _masquerading() -> set[str]:
    """Owners of tables of nftables; without nftables there are none."""
    try:
        return masquerading_owners()
    except HostLacksError:
        return set()


class _Told:
    """All that is told of devices beside themselves."""

    def __init__(self, links: Links, there: tuple[Link, ...]) -> None:
        self.names = {link.index: link.name for link in there}
        self.addresses = links.addresses()
        self.routes = links.routes()


def _device(
    link: Link, namespace: str | None, mark: ObjectMark | None, told: _Told | None = None
) -> FoundDevice:
    device = FoundDevice(
        link.name, namespace, link.index, mark, link.mtu, link.is_up, link.has_carrier
    )
    if told is None:
        return device
    return replace(
        device,
        bridge=told.names.get(link.master or 0),
        addresses=tuple(one.address for one in told.addresses if one.index == link.index),
        routes=tuple((one.to, one.via) for one in told.routes if one.index == link.index),
    )
