# SPDX-License-Identifier: MIT
"""The checks behind the properties: one line that says what is wrong, None where nothing is."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_FILES,
    INODE_TAGS,
    REFS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    SLOT_VM,
    VM_HANDLES,
    VM_MACHINE,
    Layout,
    State,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.rules.lifecycle import Effect, Event, Lifecycle


@dataclass(frozen=True, slots=True)
class World:
    """Facts of a design and its universe that checks need."""

    layout: Layout
    lifecycle: Lifecycle
    file_pins_vm: bool
    slot_pins_file: bool

    @classmethod
    def of(cls, lifecycle: Lifecycle, layout: Layout, intended: Lifecycle) -> World:
        """`intended` is the design without seeded faults: it says who is meant to hold whom."""
        return cls(
            layout,
            lifecycle,
            Effect.FILE_TAKES_VM in intended.of(Event.CREATE_FILE),
            Effect.SLOT_TAKES_FILE in intended.of(Event.BIND),
        )


def _handles(w: World, state: State, v: int) -> int:
    """Count the descriptors of a VM and of its vCPUs: each holds it, and with each it can run."""
    at = w.layout.vm[v]
    return sum(state[at + VM_HANDLES : at + w.layout.vm_holders])


def is_dead(w: World, state: State, v: int) -> bool:
    """Tell whether a VM has given its virtual machine away, and can only be closed."""
    return w.layout.vm_dead >= 0 and bool(state[w.layout.vm[v] + w.layout.vm_dead])


def _runs(w: World, state: State, v: int) -> bool:
    return bool(_handles(w, state, v)) and not is_dead(w, state, v)


def sources(w: World, state: State) -> list[tuple[int, int]]:
    """Each helper with the VM that it holds."""
    held = w.layout.vm_source
    if held < 0:
        return []
    return [(v, state[at + held] - 1) for v, at in enumerate(w.layout.vm) if state[at + held]]


def sessions_hold(w: World, state: State) -> tuple[list[int], list[int]]:
    """The VMs and the files that a session of preservation has a reference on."""
    layout = w.layout
    if layout.vm_preserved < 0:
        return [], []
    vms = [v for v, at in enumerate(layout.vm) if state[at + layout.vm_preserved]]
    files = [f for f, at in enumerate(layout.file) if state[at + layout.file_preserved]]
    vms += [state[at + layout.record_vm] - 1 for at in layout.vm_record]
    files += [state[at + layout.record_file] - 1 for at in layout.file_record]
    return [v for v in vms if v >= 0], [f for f in files if f >= 0]


def nothing_dangles(w: World, state: State) -> str | None:
    """Slots, files and bindings point to what lives."""
    layout = w.layout
    for s, at in enumerate(layout.slot):
        v, f = state[at + SLOT_VM], state[at + SLOT_FILE]
        if v and not state[layout.vm[v - 1]]:
            return f"slot{s} belongs to vm{v - 1}, which is freed"
        if f and not state[layout.file[f - 1]]:
            return f"slot{s} points to file{f - 1}, which is freed"
    for f, at in enumerate(layout.file):
        v = state[at + FILE_VM]
        if v and not state[layout.vm[v - 1]]:
            return f"file{f} points to vm{v - 1}, which is freed"
        for page in range(layout.universe.pages):
            s = state[at + layout.bindings + page]
            if s and not state[layout.slot[s - 1] + SLOT_VM]:
                return f"a binding of file{f} points to slot{s - 1}, which is freed"
    return None


def mappings_have_backing(w: World, state: State) -> str | None:
    """Guests map what their slots are bound to."""
    layout = w.layout
    for s, at in enumerate(layout.slot):
        mapping = state[at + SLOT_MAPPING]
        if not mapping:
            continue
        if not state[at + SLOT_VM]:
            return f"the guest still maps a page through slot{s}, which is deleted"
        inode, page = divmod(mapping - 1, layout.universe.pages)
        f = state[at + SLOT_FILE]
        if not f or not state[layout.inode[inode] + INODE_FILES]:
            return f"the guest still maps page{page} through slot{s}, whose file is closed"
        if state[layout.file[f - 1] + FILE_INODE] != inode + 1 or state[at + SLOT_PAGE] != page:
            return f"the guest maps another page through slot{s} than it is bound to"
    return None


def contents_stay(w: World, state: State) -> str | None:
    """No running VM has a slot over what another virtual machine wrote."""
    layout = w.layout
    for s, at in enumerate(layout.slot):
        v, f = state[at + SLOT_VM], state[at + SLOT_FILE]
        if not v or not f or not state[layout.file[f - 1]]:
            continue
        inode = layout.inode[state[layout.file[f - 1] + FILE_INODE] - 1]
        tag = state[inode + INODE_TAGS + state[at + SLOT_PAGE]]
        own = state[layout.vm[v - 1] + VM_MACHINE]
        if tag not in (0, own) and _runs(w, state, v - 1):
            whose = "a VM that is freed" if tag == layout.ghost else _vm_of(w, state, tag)
            return f"vm{v - 1} can read through slot{s} what {whose} wrote"
    return None


def _vm_of(w: World, state: State, machine: int) -> str:
    """A VM of a virtual machine, by its name."""
    vms = (f"vm{v}" for v, at in enumerate(w.layout.vm) if state[at + VM_MACHINE] == machine)
    return next(vms, "a virtual machine that is preserved")


def memory_dies(w: World, state: State) -> str | None:
    """Check that all contents of pages were written under a virtual machine that still exists."""
    layout = w.layout
    for i, at in enumerate(layout.inode):
        for page in range(layout.universe.pages):
            if state[at + INODE_FILES] and state[at + INODE_TAGS + page] == layout.ghost:
                return f"page{page} of inode{i} still holds what a VM that is freed wrote"
    return None


def one_vm_per_file(w: World, state: State) -> str | None:
    """A file's slots are of the VM that it names."""
    layout = w.layout
    for f, at in enumerate(layout.file):
        first = at + layout.bindings
        vms = {
            state[layout.slot[s - 1] + SLOT_VM]
            for s in state[first : first + layout.universe.pages]
            if s
        }
        named = state[at + FILE_VM]
        if len(vms) > 1 or (vms and named not in vms):
            return f"file{f} is bound to slots of a VM that it does not name"
    return None


def two_ways(w: World, state: State) -> str | None:
    """Slots' file pointers and files' bindings agree."""
    layout = w.layout
    for s, at in enumerate(layout.slot):
        f = state[at + SLOT_FILE]
        if f and state[layout.file[f - 1] + layout.bindings + state[at + SLOT_PAGE]] != s + 1:
            return f"slot{s} points to file{f - 1}, whose bindings do not name it"
    for f, at in enumerate(layout.file):
        for page in range(layout.universe.pages):
            s = state[at + layout.bindings + page]
            if s and state[layout.slot[s - 1] + SLOT_FILE] != f + 1:
                return f"the bindings of file{f} name slot{s - 1}, which does not point to it"
    return None


def _held(w: World, state: State) -> tuple[list[int], list[int]]:
    """Count the holders of each VM and of each file."""
    layout = w.layout
    u = layout.universe
    vms = [_handles(w, state, v) for v in range(u.vms)]
    files = [
        sum(state[at + FILE_HANDLES : at + FILE_HANDLES + 2 * u.processes]) for at in layout.file
    ]
    if w.file_pins_vm:
        for at in layout.file:
            if state[at] and state[at + FILE_VM]:
                vms[state[at + FILE_VM] - 1] += 1
    if w.slot_pins_file:
        for at in layout.slot:
            if state[at + SLOT_FILE]:
                files[state[at + SLOT_FILE] - 1] += 1
    for _, of in sources(w, state):
        vms[of] += 1
    for held, counted in zip(sessions_hold(w, state), (vms, files), strict=True):
        for each in held:
            counted[each] += 1
    return vms, files


def counts_agree(w: World, state: State) -> str | None:
    """Counts are the numbers of holders."""
    vms, files = _held(w, state)
    for name, places, held in (("vm", w.layout.vm, vms), ("file", w.layout.file, files)):
        for number, at in enumerate(places):
            if state[at + REFS] != held[number]:
                count = state[at + REFS]
                return f"{name}{number} counts {count} references, {held[number]} hold it"
    return None


def everything_is_freed(w: World, state: State) -> str | None:
    """Reachability from descriptors and mappings, along what pins."""
    layout = w.layout
    u = layout.universe
    vms = [_handles(w, state, v) > 0 for v in range(u.vms)]
    files = [
        any(state[at + FILE_HANDLES : at + FILE_HANDLES + 2 * u.processes]) for at in layout.file
    ]
    for held, reached in zip(sessions_hold(w, state), (vms, files), strict=True):
        for each in held:
            reached[each] = True
    for _ in range(u.vms + u.files):
        for f, at in enumerate(layout.file):
            if w.file_pins_vm and files[f] and state[at + FILE_VM]:
                vms[state[at + FILE_VM] - 1] = True
        for at in layout.slot:
            v, f = state[at + SLOT_VM], state[at + SLOT_FILE]
            if w.slot_pins_file and v and f and vms[v - 1]:
                files[f - 1] = True
        for helper, of in sources(w, state):
            vms[of] = vms[of] or vms[helper]
    for v, at in enumerate(layout.vm):
        if state[at] and not vms[v]:
            return f"vm{v} lives although no handle leads to it"
    for f, at in enumerate(layout.file):
        if state[at] and not files[f]:
            return f"file{f} lives although no handle leads to it"
    return None


def _access(w: World, state: State, v: int) -> list[tuple[int, int]]:
    """List what a VM can reach through its slots: (slot, 1 + inode), 0 where it faults."""
    layout = w.layout
    found = []
    for s, at in enumerate(layout.slot):
        if state[at + SLOT_VM] == v + 1:
            f = state[at + SLOT_FILE]
            found.append((s, state[layout.file[f - 1] + FILE_INODE] if f else 0))
    return found


def closing_is_harmless(
    w: World, before: State, _operation: Operation, _outcome: str, after: State
) -> str | None:
    """Running VMs reach what they reached before."""
    for v in range(w.layout.universe.vms):
        if _runs(w, after, v) and _runs(w, before, v):
            was, now = _access(w, before, v), _access(w, after, v)
            if was != now:
                return f"vm{v} still runs, but no longer reaches what it reached before"
    return None


def file_does_not_pin_vm(w: World, state: State) -> str | None:
    """VMs that live have a descriptor, or one of a vCPU, or a helper, or are preserved."""
    helped = {of for _, of in sources(w, state)}.union(sessions_hold(w, state)[0])
    also = " or of a vCPU" if w.layout.vcpus >= 0 else ""
    for v, at in enumerate(w.layout.vm):
        if state[at] and not _handles(w, state, v) and v not in helped:
            return f"vm{v} lives on without any descriptor of it{also}"
    return None


def slots_keep_contents(
    w: World, before: State, operation: Operation, outcome: str, after: State
) -> str | None:
    """Deleting a slot and making it again is everyday life: contents of a living VM stay."""
    if outcome != "ok":
        return None
    layout = w.layout
    for at in layout.inode:
        for page in range(layout.universe.pages):
            tag = before[at + INODE_TAGS + page]
            if 0 < tag < layout.ghost and not after[at + INODE_TAGS + page]:
                own = before[layout.vm[operation.vm] + VM_MACHINE]
                if operation.kind is Kind.BIND and tag != own:
                    continue
                if not after[at + INODE_FILES]:
                    continue  # the slot was the last that held the file
                whose = _vm_of(w, before, tag)
                return f"what {whose} wrote is gone, though it lives and nobody punched it out"
    return None


def cleared_by_owner(
    w: World, before: State, _operation: Operation, outcome: str, after: State
) -> str | None:
    """No page of a freed VM is cleared."""
    if outcome != "ok":
        return None
    layout = w.layout
    for at in layout.inode:
        for page in range(layout.universe.pages):
            if before[at + INODE_TAGS + page] == layout.ghost and not after[at + INODE_TAGS + page]:
                return "a page is cleared whose VM, and with it the key, is gone"
    return None


def holes_read_zeroes(
    w: World, _before: State, operation: Operation, outcome: str, after: State
) -> str | None:
    """The page punched out is zero."""
    if outcome != "ok":
        return None
    layout = w.layout
    inode = layout.inode[after[layout.file[operation.file] + FILE_INODE] - 1]
    if after[inode + INODE_TAGS + operation.page]:
        return f"page{operation.page} of file{operation.file} keeps its contents"
    return None


def hand_over(
    w: World, _before: State, operation: Operation, outcome: str, after: State
) -> str | None:
    """The page bound holds what another virtual machine wrote."""
    if outcome != "ok":
        return None
    layout = w.layout
    inode = layout.inode[after[layout.file[operation.file] + FILE_INODE] - 1]
    tag = after[inode + INODE_TAGS + operation.page]
    if tag not in (0, after[layout.vm[operation.vm] + VM_MACHINE]):
        return f"vm{operation.vm} takes over what another VM wrote"
    return None


def shared_within(
    w: World, before: State, operation: Operation, outcome: str, after: State
) -> str | None:
    """The page bound holds what the VM's own virtual machine wrote, by another VM of it."""
    if outcome != "ok":
        return None
    layout = w.layout
    own = after[layout.vm[operation.vm] + VM_MACHINE]
    inode = layout.inode[after[layout.file[operation.file] + FILE_INODE] - 1]
    others = [
        v for v, at in enumerate(layout.vm) if v != operation.vm and before[at + VM_MACHINE] == own
    ]
    has_slots = any(
        state_of == operation.vm + 1 for state_of in map(before.__getitem__, layout.slot)
    )
    if others and not has_slots and after[inode + INODE_TAGS + operation.page] == own:
        return f"vm{operation.vm} uses what vm{others[0]}, of the same virtual machine, can use"
    return None
