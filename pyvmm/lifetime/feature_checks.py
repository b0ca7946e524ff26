# SPDX-License-Identifier: MIT
"""The checks behind properties of universes with features; as `pyvmm.lifetime.checks`."""

from __future__ import annotations

from pyvmm.lifetime.checks import World
from pyvmm.lifetime.layout import SLOT_VM, VM_HANDLES, State


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
