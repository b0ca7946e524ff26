# SPDX-License-Identifier: MIT
"""Checks about virtual machines that several VMs share, one after the other or at a time."""

from __future__ import annotations

from pyvmm.lifetime.checks import World, is_dead, sources
from pyvmm.lifetime.layout import (
    ALIVE,
    INODE_TAGS,
    SLOT_MAPPING,
    VM_MACHINE,
    State,
)
from pyvmm.lifetime.operations import Operation


def helper_dies_first(w: World, state: State) -> str | None:
    """Each virtual machine has one VM that is no helper, and helpers hold that."""
    layout = w.layout
    held = dict(sources(w, state))
    owners: dict[int, int] = {}
    for v, at in enumerate(layout.vm):
        machine = state[at + VM_MACHINE]
        if not state[at + ALIVE] or is_dead(w, state, v) or v in held:
            continue
        if machine in owners:
            return f"vm{owners[machine]} and vm{v} both have one virtual machine for their own"
        owners[machine] = v
    for helper, of in held.items():
        at = layout.vm[of]
        if not state[at + ALIVE]:
            return f"vm{helper} uses the virtual machine of vm{of}, which is freed"
        if owners.get(state[layout.vm[helper] + VM_MACHINE]) != of and not is_dead(
            w, state, helper
        ):
            return f"vm{helper} helps vm{of}, whose virtual machine is another's"
    return None


def reboot(w: World, before: State, operation: Operation, outcome: str, after: State) -> str | None:
    """A guest reads what was written in a VM before its own, which is freed."""
    layout = w.layout
    if not outcome.endswith("page"):
        return None
    slot = layout.slot[operation.slot]
    v = before[slot] - 1
    mapping = after[slot + SLOT_MAPPING] - 1
    inode, page = divmod(mapping, layout.universe.pages)
    at = layout.inode[inode]
    tag = before[at + INODE_TAGS + page]
    if tag == layout.ghost:
        return f"vm{v} reads what a VM that is freed wrote, with another virtual machine"
    inherited = layout.inherited >= 0 and before[at + layout.inherited + page]
    if inherited and not any(is_dead(w, before, other) for other in range(len(layout.vm))):
        return f"vm{v} reads what the VM wrote that had its virtual machine before it"
    return None


def handed_on(
    _w: World, _before: State, _operation: Operation, outcome: str, _after: State
) -> str | None:
    """The kernel can be replaced."""
    if outcome == "ok":
        return None
    return "the kernel is not replaced: a file is preserved whose VM is not"


def guests_go_on(
    w: World, before: State, operation: Operation, outcome: str, _after: State
) -> str | None:
    """The access is served, or fails as it would without a session."""
    if outcome != "EPERM":
        return None
    v = before[w.layout.slot[operation.slot]] - 1
    return f"the guest of vm{v} stops: it needs a page more, and its file is frozen"
