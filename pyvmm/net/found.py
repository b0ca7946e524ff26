# SPDX-License-Identifier: MIT
"""Topologies as they are found on a machine, by their objects' marks. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.net.topology_marks import ObjectKind, ObjectMark


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A network device that is a topology's; `namespace` of None is the command's own.

    `bridge` is the name of the one that it is on, `routes` say where to and by whom. `index` is its
    number in its namespace. One that was being made has no mark.
    """

    name: str
    namespace: str | None
    index: int
    mark: ObjectMark | None
    mtu: int
    is_up: bool
    has_carrier: bool
    bridge: str | None = None
    addresses: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()

    @property
    def is_in_use(self) -> bool:
        """True for a tap that somebody has open."""
        return self.has_carrier and self.mark is not None and self.mark.kind is ObjectKind.TAP


@dataclass(frozen=True, slots=True)
class FoundNamespace:
    """A network namespace that is a topology's; `path` is the file of its name."""

    name: str
    path: str
    mark: ObjectMark


@dataclass(frozen=True, slots=True)
class FoundTopology:
    """All that is there of a topology.

    It `masquerades` where there is a table of nftables with its name in the command's namespace.
    `files` are paths of names, finished or not, that are no namespace's any more, or not yet.
    """

    name: str
    namespaces: tuple[FoundNamespace, ...]
    devices: tuple[FoundDevice, ...]
    masquerades: bool = False
    files: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[ObjectMark, ...]:
        """Marks of its objects."""
        namespaces = tuple(one.mark for one in self.namespaces)
        return (*namespaces, *(one.mark for one in self.devices if one.mark is not None))

    @property
    def count(self) -> int:
        """Number of its objects."""
        return len(self.marks) + self.masquerades

    @property
    def leftovers(self) -> int:
        """Number of things that are no whole objects."""
        return len(self.files) + sum(device.mark is None for device in self.devices)

    @property
    def total(self) -> int:
        """Number of objects that it had when it was made; 0 where that was never finished."""
        return max((mark.total for mark in self.marks), default=0)

    @property
    def is_whole(self) -> bool:
        """True where it was made to the end, and nothing is missing."""
        return self.count == self.total and len({mark.digest for mark in self.marks}) == 1

    @property
    def in_use(self) -> tuple[FoundDevice, ...]:
        """Taps that somebody has open."""
        return tuple(device for device in self.devices if device.is_in_use)

    def was_made_of(self, digest: str) -> bool:
        """Tell whether all of it was made of contents with this digest."""
        return {mark.digest for mark in self.marks} == {digest}
