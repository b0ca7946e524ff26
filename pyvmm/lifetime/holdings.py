# SPDX-License-Identifier: MIT
"""Holders in a state: every reference and every bare pointer, as edges with their reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.lifetime.layout import (
    ALIVE,
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_FILES,
    REFS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_VM,
    VM_HANDLES,
    Layout,
    State,
)
from pyvmm.rules.lifecycle import Effect, Event, Lifecycle


class Why(enum.Enum):
    """Kind of an edge; `pins` are those that keep what they point to alive."""

    DESCRIPTOR = "descriptor"
    VCPU = "a vCPU's descriptor"
    MAPPING = "mapping"
    FILE_PINS_VM = "the file's reference on its VM"
    SLOT_PINS_FILE = "the slot's reference on its file"
    INODE = "the file's inode"
    HELPER = "the helper's reference on its VM"
    SESSION = "the session's reference"
    RECORD_PAGES = "the record's pages"
    RECORD_OF = "the record's VM"
    VM_POINTER = "the file's VM pointer, no reference"
    FILE_POINTER = "the slot's file pointer, no reference"
    SLOT_OF_VM = "the VM's slot"
    BINDING = "the file's binding"
    GUEST_MAPPING = "the guest's mapping of a page"

    @property
    def pins(self) -> bool:
        """True if it keeps what it points to alive."""
        return self in _PINS


_PINS = (
    Why.DESCRIPTOR,
    Why.VCPU,
    Why.MAPPING,
    Why.FILE_PINS_VM,
    Why.SLOT_PINS_FILE,
    Why.INODE,
    Why.HELPER,
    Why.SESSION,
    Why.RECORD_PAGES,
)


@dataclass(frozen=True, slots=True)
class Holding:
    """`holder` points to `held`: names as in stories (``process0``, ``vm0``, ``file1``, ..)."""

    holder: str
    held: str
    why: Why

    def __str__(self) -> str:
        arrow = "==>" if self.why.pins else "-->"
        return f"{self.holder} {arrow} {self.held}  ({self.why.value})"


def holdings(lifecycle: Lifecycle, layout: Layout, state: State) -> tuple[Holding, ...]:
    """Every edge of a state, under a design's rules of who takes references."""
    u = layout.universe
    file_pins = Effect.FILE_TAKES_VM in lifecycle.of(Event.CREATE_FILE)
    slot_pins = Effect.SLOT_TAKES_FILE in lifecycle.of(Event.BIND)
    edges: list[Holding] = []

    def add(holder: str, held: str, why: Why, times: int = 1) -> None:
        edges.extend([Holding(holder, held, why)] * times)

    for p in range(u.processes):
        for v, at in enumerate(layout.vm):
            add(f"process{p}", f"vm{v}", Why.DESCRIPTOR, state[at + VM_HANDLES + p])
            vcpus = state[at + layout.vcpus + p] if layout.vcpus >= 0 else 0
            add(f"process{p}", f"vm{v}", Why.VCPU, vcpus)
        for f, at in enumerate(layout.file):
            add(f"process{p}", f"file{f}", Why.DESCRIPTOR, state[at + FILE_HANDLES + p])
            add(f"process{p}", f"file{f}", Why.MAPPING, state[at + layout.mappings + p])
    for f, at in enumerate(layout.file):
        if not state[at + ALIVE]:
            continue
        add(f"file{f}", f"inode{state[at + FILE_INODE] - 1}", Why.INODE)
        if state[at + FILE_VM]:
            why = Why.FILE_PINS_VM if file_pins else Why.VM_POINTER
            add(f"file{f}", f"vm{state[at + FILE_VM] - 1}", why)
        for page in range(u.pages):
            slot = state[at + layout.bindings + page]
            if slot:
                add(f"file{f}", f"slot{slot - 1}", Why.BINDING)
    for s, at in enumerate(layout.slot):
        if state[at + SLOT_VM]:
            add(f"vm{state[at + SLOT_VM] - 1}", f"slot{s}", Why.SLOT_OF_VM)
        if state[at + SLOT_FILE]:
            why = Why.SLOT_PINS_FILE if slot_pins else Why.FILE_POINTER
            add(f"slot{s}", f"file{state[at + SLOT_FILE] - 1}", why)
        if state[at + SLOT_MAPPING]:
            inode, page = divmod(state[at + SLOT_MAPPING] - 1, u.pages)
            add(f"slot{s}", f"inode{inode} page{page}", Why.GUEST_MAPPING)
    return (*edges, *_helpers(layout, state), *_of_session(layout, state))


def _helpers(layout: Layout, state: State) -> list[Holding]:
    held = layout.vm_source
    if held < 0:
        return []
    return [
        Holding(f"vm{v}", f"vm{state[at + held] - 1}", Why.HELPER)
        for v, at in enumerate(layout.vm)
        if state[at + held]
    ]


def _of_session(layout: Layout, state: State) -> list[Holding]:
    """Edges of a session of preservation; records of VMs come first in the numbers of records."""
    if layout.vm_preserved < 0:
        return []
    edges: list[Holding] = []

    def add(held: str, why: Why, holder: str = "session") -> None:
        edges.append(Holding(holder, held, why))

    for v, at in enumerate(layout.vm):
        if state[at + layout.vm_preserved]:
            add(f"vm{v}", Why.SESSION)
    for f, at in enumerate(layout.file):
        if state[at + layout.file_preserved]:
            add(f"file{f}", Why.SESSION)
    for number, at in enumerate(layout.vm_record):
        if state[at + layout.record_vm]:
            add(f"vm{state[at + layout.record_vm] - 1}", Why.SESSION)
        elif state[at + layout.record_state]:
            add(f"record{number}", Why.SESSION)
    for number, at in enumerate(layout.file_record, len(layout.vm_record)):
        if state[at + layout.record_file]:
            add(f"file{state[at + layout.record_file] - 1}", Why.SESSION)
        elif state[at + layout.file_record_state]:
            name = f"record{number}"
            add(name, Why.SESSION)
            add(f"inode{state[at + layout.record_inode] - 1}", Why.RECORD_PAGES, name)
            of = state[at + layout.record_of] - 1
            if of >= 0 and not state[layout.vm_record[of] + layout.record_vm]:
                add(f"record{of}", Why.RECORD_OF, name)
    return edges


def counts(layout: Layout, state: State) -> dict[str, int]:
    """The reference counts as the objects have them; what does not exist is left out."""
    found = {}
    for name, places, cell in (
        ("vm", layout.vm, REFS),
        ("file", layout.file, REFS),
        ("inode", layout.inode, INODE_FILES),
    ):
        for number, at in enumerate(places):
            if state[at]:
                found[f"{name}{number}"] = state[at + cell]
    return found
