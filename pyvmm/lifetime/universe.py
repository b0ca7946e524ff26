# SPDX-License-Identifier: MIT
"""Size of the world that an exploration covers: the number of objects of each kind."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Feature(enum.Enum):
    """Things beyond VMs, files, slots and descriptors that a universe may have.

    Values are the names of the fields of `Universe`; a universe with successors has one of two.
    What a state has for a feature is part of it only where the universe has the feature.
    """

    LINKS = "links"
    VCPUS = "vcpus"
    TYPES = "types"
    ERRORS = "errors"
    FAILURES = "failures"
    MOVES = "moves"
    UPDATES = "updates"
    SUCCESSORS = "moves or updates"


_IN_WORDS = {
    Feature.LINKS: "links",
    Feature.TYPES: "private memory",
    Feature.ERRORS: "memory errors",
    Feature.FAILURES: "bindings that fail",
    Feature.MOVES: "virtual machines that move",
    Feature.UPDATES: "live updates",
}


@dataclass(frozen=True, slots=True)
class Universe:
    """At most so many at a time; what is freed can be created again, at the same address.

    `pages` are those of one file. `handles` is the most descriptors that a process has of one VM or
    file. `secrets` is the most pages that hold something written: what happens to one page does not
    depend on the contents of another, so one is enough to find every leak.

    `links`: a second file for an inode, a second VM of a virtual machine. `vcpus`: the most vCPU
    descriptors that a process has of one VM; 0: whoever has a VM's descriptor can run its guest.
    `types`: 2 where there are VMs with private memory and files without flags, too. `errors`: a
    page can have a memory error. `failures`: a binding can run out of memory. `moves`: a VM can
    take another's virtual machine over. `updates`: VMs and files can be preserved over a live
    update. `host_maps`: files can be mapped; where they cannot, all memory is private.
    """

    name: str
    vms: int
    files: int
    slots: int
    pages: int
    processes: int
    handles: int
    secrets: int = 1
    links: bool = False
    vcpus: int = 0
    types: int = 1
    errors: bool = False
    failures: bool = False
    moves: bool = False
    updates: bool = False
    host_maps: bool = True

    def has(self, feature: Feature) -> bool:
        """Tell whether the universe has a feature."""
        if feature is Feature.TYPES:
            return self.types > 1
        if feature is Feature.SUCCESSORS:
            return self.moves or self.updates
        return bool(getattr(self, feature.value))

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features that it has; successors come of two of them."""
        own = (each for each in Feature if each is not Feature.SUCCESSORS)
        return tuple(each for each in own if self.has(each))

    def __str__(self) -> str:
        others = [_IN_WORDS[each] for each in self.features if each in _IN_WORDS]
        others += [] if self.host_maps else ["no mappings of files"]
        return (
            f"{self.name}: {self.vms} VMs, {self.files} files, {self.slots} slots, "
            f"{self.pages} pages a file, {self.processes} processes, "
            f"{self.handles} descriptors each"
            + (f", {self.vcpus} of vCPUs" if self.vcpus else "")
            + (f"; {', '.join(others)}" if others else "")
        )


STANDARD = Universe("standard", vms=2, files=2, slots=2, pages=2, processes=1, handles=2)
"""Two of everything; one process with duplicates of its descriptors."""
FAMILY = Universe("family", vms=1, files=1, slots=1, pages=1, processes=2, handles=2)
"""One of everything, and two processes that fork, inherit and exit."""
LINKED = Universe("linked", vms=2, files=2, slots=2, pages=1, processes=1, handles=1, links=True)
"""A second file for the inode of a first, for a second VM."""
SMALL = Universe("small", vms=2, files=1, slots=1, pages=1, processes=1, handles=1)
"""The least in which two VMs meet over one file."""
VCPUS = Universe("vcpus", vms=2, files=1, slots=1, pages=1, processes=1, handles=1, vcpus=1)
"""The small one, where a guest is run by its vCPU's descriptor."""
ERRORS = Universe("errors", vms=1, files=1, slots=2, pages=2, processes=1, handles=1, errors=True)
"""Two slots of one VM over a file whose pages can have memory errors."""
FAILURES = Universe(
    "failures", vms=2, files=1, slots=1, pages=1, processes=1, handles=1, failures=True
)
"""The small one, where bindings can fail."""
TYPES = Universe("types", vms=2, files=1, slots=1, pages=1, processes=1, handles=1, types=2)
"""The small one, where VMs may have private memory, and files may be for such."""

MOVED = Universe(
    "moved", vms=2, files=2, slots=1, pages=1, processes=1, handles=1,
    links=True, moves=True, host_maps=False,
)  # fmt: skip
"""A VM that takes another's virtual machine over: private memory, which a link can bring along."""

UPDATED = Universe("updated", 1, 1, 1, pages=2, processes=1, handles=1, updates=True)
"""One of everything, preserved while the kernel is replaced."""

UNIVERSES = {
    each.name: each
    for each in (STANDARD, FAMILY, LINKED, SMALL, VCPUS, ERRORS, FAILURES, TYPES, MOVED, UPDATED)
}
