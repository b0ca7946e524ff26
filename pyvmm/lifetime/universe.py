# SPDX-License-Identifier: MIT
"""Size of the world that an exploration covers: the number of objects of each kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Universe:
    """At most so many at a time; what is freed can be created again, at the same address.

    `pages` are those of one file. `handles` is the most descriptors that a process has of one VM or
    file. `secrets` is the most pages that hold something written: what happens to one page does not
    depend on the contents of another, so one is enough to find every leak.
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

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.vms} VMs, {self.files} files, {self.slots} slots, "
            f"{self.pages} pages a file, {self.processes} processes, "
            f"{self.handles} descriptors each"
        )


STANDARD = Universe("standard", vms=2, files=2, slots=2, pages=2, processes=1, handles=2)
"""Two of everything; one process with duplicates of its descriptors."""
FAMILY = Universe("family", vms=1, files=1, slots=1, pages=1, processes=2, handles=2)
"""One of everything, and two processes that fork, inherit and exit."""
LINKED = Universe("linked", vms=2, files=2, slots=2, pages=1, processes=1, handles=1, links=True)
"""A second file for the inode of a first, for a second VM."""
SMALL = Universe("small", vms=2, files=1, slots=1, pages=1, processes=1, handles=1)
"""The least in which two VMs meet over one file."""

UNIVERSES = {each.name: each for each in (STANDARD, FAMILY, LINKED, SMALL)}
