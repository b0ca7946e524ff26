# SPDX-License-Identifier: MIT
"""The operations of a sequence: frozen values, each with its line of a story, and how it is run.

Objects have names: files A, B, C; mappings M, N, O; VMs one and two, of which one has the guest.
Guest-physical pages are counted from the arena's first one; all other numbers are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.rules.access import BusError, HostAccess, host_access
from pyvmm.rules.memslots import is_guest_memfd_only

from .world import MAPPING_PAGES, NOWHERE, PAGE, World

ARENA = 0x10000
"""The first guest-physical address that sequences use."""
WOULD_BUS = "maps what raises SIGBUS"


def pages(size: int) -> str:
    """A size or an offset, in pages where it is whole ones."""
    return f"{size // PAGE}p" if 0 <= size < 1 << 24 and size % PAGE == 0 else f"{size:#x}"


@dataclass(frozen=True, slots=True)
class CreateFile:
    """KVM_CREATE_GUEST_MEMFD; what has the name is closed when it is there."""

    name: str
    size: int
    flags: int
    vm: str = "one"

    def run(self, world: World) -> None:
        file = world.vm(self.vm).create_guest_memfd(self.size, GuestMemfdFlag(self.flags))
        world.put_file(self.name, file)

    def __str__(self) -> str:
        names = [flag.name or "" for flag in GuestMemfdFlag if self.flags & flag]
        flags = "|".join([*names, *([hex(self.flags)] if self.flags > 3 else [])]) or "no flags"
        return f"{self.name} = guest_memfd of VM {self.vm}, {pages(self.size)}, {flags}"


@dataclass(frozen=True, slots=True)
class CloseFile:
    """Close a guest_memfd's descriptor."""

    name: str

    def run(self, world: World) -> None:
        world.file(self.name).close()

    def __str__(self) -> str:
        return f"close {self.name}"


@dataclass(frozen=True, slots=True)
class MapAnonymous:
    """New shared memory; what has the name is unmapped."""

    name: str

    def run(self, world: World) -> None:
        world.put_mapping(self.name, world.system.map_anonymous(MAPPING_PAGES * PAGE))

    def __str__(self) -> str:
        return f"{self.name} = {MAPPING_PAGES}p of anonymous memory, mapped"


@dataclass(frozen=True, slots=True)
class MapFile:
    """mmap(2) of a guest_memfd; what has the name is unmapped when it is there."""

    name: str
    file: str

    def run(self, world: World) -> str | None:
        file = world.file(self.file)
        mapping = file.map()
        flags = int(getattr(file, "flags", 0))
        if isinstance(host_access(HostAccess(0, mapping.size, flags)), BusError):
            mapping.close()
            return WOULD_BUS
        world.put_mapping(self.name, mapping)
        return None

    def __str__(self) -> str:
        return f"{self.name} = {self.file}, mapped"


@dataclass(frozen=True, slots=True)
class CloseMapping:
    """munmap(2)."""

    name: str

    def run(self, world: World) -> None:
        world.close_mapping(self.name)

    def __str__(self) -> str:
        return f"unmap {self.name}"


@dataclass(frozen=True, slots=True)
class SetSlot:
    """KVM_SET_USER_MEMORY_REGION(2): create, delete (size 0), move, re-flag.

    `memory` names a mapping, at `hva_offset`, or is None: no memory is there.
    """

    slot: int
    gpa: int
    size: int
    memory: str | None = None
    hva_offset: int = 0
    flags: int = 0
    file: str | None = None
    offset: int = 0
    vm: str = "one"

    def run(self, world: World) -> None:
        file = world.file(self.file) if self.file is not None else None
        hva = NOWHERE + self.hva_offset % PAGE
        alone = world.prefetches and is_guest_memfd_only(int(getattr(file, "flags", 0)))
        if self.memory is not None and not alone:
            mapping = world.mapping(self.memory)
            # A slot that reached beyond would give the guest whatever is there.
            if self.hva_offset + self.size <= mapping.size:
                hva = mapping.hva + self.hva_offset
        flags = MemslotFlag(self.flags)
        world.vm(self.vm).set_memslot(
            Memslot(self.slot, self.gpa, self.size, hva, flags, file, self.offset)
        )

    def __str__(self) -> str:
        if self.size == 0:
            return f"delete slot {self.slot} of VM {self.vm}"
        where = f"{pages(self.size)} at {self.gpa:#x}"
        memory = f"{self.memory}+{pages(self.hva_offset)}" if self.memory else "no memory"
        names = [flag.name or "" for flag in MemslotFlag if self.flags & flag]
        rest = self.flags & ~7
        flags = "|".join([*names, *([hex(rest)] if rest else [])])
        bound = f", bound to {self.file}+{pages(self.offset)}" if self.file else ""
        return f"slot {self.slot} of VM {self.vm}: {where}, {memory}{bound} {flags}".rstrip()


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """KVM_SET_MEMORY_ATTRIBUTES."""

    gpa: int
    size: int
    attributes: int
    vm: str = "one"

    def run(self, world: World) -> None:
        vm = world.vm(self.vm)
        vm.set_memory_attributes(self.gpa, self.size, MemoryAttribute(self.attributes))

    def __str__(self) -> str:
        known = {0: "shared", 8: "private"}
        what = known.get(self.attributes, hex(self.attributes))
        return f"VM {self.vm}: {pages(self.size)} at {self.gpa:#x} are {what}"


@dataclass(frozen=True, slots=True)
class Allocate:
    """fallocate(2)."""

    file: str
    offset: int
    size: int

    def run(self, world: World) -> None:
        world.file(self.file).allocate(self.offset, self.size)

    def __str__(self) -> str:
        return f"allocate {pages(self.size)} of {self.file} at {pages(self.offset)}"


@dataclass(frozen=True, slots=True)
class PunchHole:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE."""

    file: str
    offset: int
    size: int

    def run(self, world: World) -> None:
        world.file(self.file).punch_hole(self.offset, self.size)

    def __str__(self) -> str:
        return f"punch {pages(self.size)} of {self.file} at {pages(self.offset)}"


@dataclass(frozen=True, slots=True)
class Discard:
    """Give pages of a mapping back."""

    mapping: str
    offset: int
    size: int

    def run(self, world: World) -> None:
        world.mapping(self.mapping).discard(self.offset, self.size)

    def __str__(self) -> str:
        return f"discard {pages(self.size)} of {self.mapping} at {pages(self.offset)}"


@dataclass(frozen=True, slots=True)
class HostTouch:
    """The host reads or writes the first byte of a mapping's page."""

    mapping: str
    page: int
    value: int | None = None

    def run(self, world: World) -> str | None:
        mapping = world.mapping(self.mapping)
        with mapping.view() as view:
            offset = self.page * PAGE
            if offset >= mapping.size:
                return "nothing: beyond the end"
            if self.value is None:
                return f"reads {view[offset]:#04x}"
            view[offset] = self.value
        return None

    def __str__(self) -> str:
        verb = "reads" if self.value is None else f"writes {self.value:#04x} to"
        return f"the host {verb} page {self.page} of {self.mapping}"


@dataclass(frozen=True, slots=True)
class GuestTouch:
    """The guest of VM one reads or writes a byte."""

    gpa: int
    value: int | None = None

    def run(self, world: World) -> str:
        return world.guest().touch(self.gpa, self.value)

    def __str__(self) -> str:
        verb = "reads" if self.value is None else f"writes {self.value:#04x} to"
        return f"the guest {verb} {self.gpa:#x}"


@dataclass(frozen=True, slots=True)
class CloseVm:
    """Close a VM's descriptor; its vCPU, files and mappings stay."""

    vm: str

    def run(self, world: World) -> None:
        world.vm(self.vm).close()

    def __str__(self) -> str:
        return f"close VM {self.vm}"


Operation: TypeAlias = (
    CreateFile
    | CloseFile
    | MapAnonymous
    | MapFile
    | CloseMapping
    | SetSlot
    | SetAttributes
    | Allocate
    | PunchHole
    | Discard
    | HostTouch
    | GuestTouch
    | CloseVm
)
