# SPDX-License-Identifier: MIT
"""The checks behind properties of universes with features; as `pyvmm.lifetime.checks`."""

from __future__ import annotations

from pyvmm.lifetime.checks import World
from pyvmm.lifetime.layout import (
    FILE_INODE,
    INODE_TAGS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    SLOT_VM,
    VM_HANDLES,
    VM_MACHINE,
    State,
)
from pyvmm.lifetime.operations import Kind, Operation


def slots_can_be_changed(w: World, state: State) -> str | None:
    """Check that somebody has the descriptor of each VM whose guest runs over a slot."""
    layout = w.layout
    processes = layout.universe.processes
    for s, slot in enumerate(layout.slot):
        v = state[slot + SLOT_VM]
        if not v:
            continue
        at = layout.vm[v - 1]
        runs = any(state[at + layout.vcpus : at + layout.vm_holders])
        if runs and not any(state[at + VM_HANDLES : at + VM_HANDLES + processes]):
            return f"the guest of vm{v - 1} runs, and nobody can delete its slot{s}"
    return None


def errors_are_told(
    w: World, before: State, operation: Operation, outcome: str, _after: State
) -> str | None:
    """Check that no contents come of reading a page that has an error."""
    layout = w.layout
    if operation.kind is Kind.HOST_READ:
        who, page = "the host", operation.page
        inode = before[layout.file[operation.file] + FILE_INODE]
    else:
        who = f"the guest of vm{before[layout.slot[operation.slot] + SLOT_VM] - 1}"
        inode, page = _page_of(w, before, operation.slot)
    if not inode or not before[layout.inode[inode - 1] + layout.page_errors + page]:
        return None
    if outcome.isupper():
        return None  # an error or a signal: nothing was read
    return f"{who} reads page{page}, which has a memory error, and is told nothing"


def _page_of(w: World, state: State, s: int) -> tuple[int, int]:
    """The page that a guest reaches through a slot: its inode, one higher, and its number."""
    layout = w.layout
    at = layout.slot[s]
    if state[at + SLOT_MAPPING]:
        inode, page = divmod(state[at + SLOT_MAPPING] - 1, layout.universe.pages)
        return inode + 1, page
    f = state[at + SLOT_FILE]
    return (state[layout.file[f - 1] + FILE_INODE] if f else 0), state[at + SLOT_PAGE]


def failure_changes_nothing(
    _w: World, before: State, operation: Operation, _outcome: str, after: State
) -> str | None:
    """Check that all is as before."""
    if before == after:
        return None
    return f"slot{operation.slot} was not bound to file{operation.file}, but not all is as before"


def flags_fit_the_type(w: World, state: State) -> str | None:
    """Check that no VM with private memory has a slot over a file that the host can look into."""
    layout = w.layout
    for s, at in enumerate(layout.slot):
        v, f = state[at + SLOT_VM], state[at + SLOT_FILE]
        if not v or not f or not state[layout.vm[v - 1] + layout.vm_private]:
            continue
        inode = layout.inode[state[layout.file[f - 1] + FILE_INODE] - 1]
        if not state[inode + layout.inode_private]:
            return (
                f"vm{v - 1} has private memory, and slot{s} over file{f - 1}, "
                "which the host can look into"
            )
    return None


def private_stays_private(
    w: World, before: State, operation: Operation, outcome: str, _after: State
) -> str | None:
    """Check that what the host reads was written under no VM that has private memory."""
    layout = w.layout
    if outcome == "zeroes" or outcome.isupper():
        return None
    inode = layout.inode[before[layout.file[operation.file] + FILE_INODE] - 1]
    tag = before[inode + INODE_TAGS + operation.page]
    if tag == layout.ghost:
        return None  # nobody knows any more whose it was
    for v, at in enumerate(layout.vm):
        if before[at + VM_MACHINE] == tag and before[at + layout.vm_private]:
            return f"the host reads what vm{v} wrote, which has private memory"
    return None
