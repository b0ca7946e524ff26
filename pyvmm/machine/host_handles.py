# SPDX-License-Identifier: MIT
"""Handles on the host's things that one machine holds: descriptors, mappings, memslots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pyvmm.machine.assembly import Assembly
from pyvmm.machine.memory_sides import MemorySides

GUEST_MEMFD = "guest-memfd"
"""Name of the handle on the file that private memory, or all of it, is in."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Something that the machine holds of the host's: `fd` where it is a descriptor.

    `keeps` names the handles that live on in the kernel as long as this one is open. `numbers` has
    what else is to say: ``hva`` and ``size``, in bytes.
    """

    name: str
    kind: str
    fd: int | None = None
    keeps: tuple[str, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotHandle:
    """A memslot: [start, end) of GPAs, from `hva` on in the mapping of that name.

    `file_offset` is where it begins in the guest_memfd that it is bound to; None: to none.
    """

    slot: int
    region: str
    start: int
    end: int
    mapping: str
    hva: int
    file_offset: int | None


def handles(assembly: Assembly) -> Iterator[Handle]:
    """Yield what the machine holds of the host's, but for its vCPUs and memslots."""
    file = assembly.ram.guest_memfd
    yield Handle("system", "system", descriptor(assembly.system))
    yield Handle("vm", "vm", descriptor(assembly.vm))
    if file is not None:
        numbers = {"size": file.size}
        yield Handle(GUEST_MEMFD, GUEST_MEMFD, descriptor(file), ("vm",), numbers)
    for hva, (name, sides) in _mappings(assembly).items():
        mapping = sides.mapping
        whole_file = (
            file is not None and mapping is assembly.ram.mapping and not sides.region.two_sided
        )
        yield Handle(
            name,
            "mapping",
            descriptor(mapping),
            (GUEST_MEMFD,) if whole_file else (),
            {"hva": hva, "size": mapping.size},
        )


def slots(assembly: Assembly) -> Iterator[SlotHandle]:
    """Yield every memslot, ascending by GPA."""
    mappings = _mappings(assembly)
    for sides in assembly.memory.regions.sides():
        memslot = sides.memslot()
        yield SlotHandle(
            memslot.slot,
            sides.region.what,
            memslot.gpa,
            memslot.gpa + memslot.size,
            mappings[sides.mapping.hva][0],
            memslot.hva,
            None if memslot.guest_memfd is None else memslot.guest_memfd_offset,
        )


def _mappings(assembly: Assembly) -> dict[int, tuple[str, MemorySides]]:
    """Each mapping once, by its HVA: its name, after its first region, and that."""
    found: dict[int, tuple[str, MemorySides]] = {}
    for sides in assembly.memory.regions.sides():
        found.setdefault(sides.mapping.hva, (f"mapping of {sides.region.what}", sides))
    return found


def descriptor(owner: object) -> int | None:
    """Return its descriptor, where it has one: the model's things have none of KVM's."""
    fd = getattr(owner, "fd", None)
    return fd if isinstance(fd, int) and fd >= 0 else None
