# SPDX-License-Identifier: MIT
"""Base of the parts of a transition system, each of which does some kinds of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pyvmm.lifetime.bodies import Bodies
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.layout import FILE_INODE, REFS, SLOT_VM, VM_HANDLES, VM_MACHINE, Cells
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.questions import flags_for

OK = "ok"

Do: TypeAlias = Callable[[Cells, Operation], str | None]
"""Does an operation to cells: its outcome, None where it cannot even be attempted."""


class Part:
    """Operations of some kinds, under a design."""

    def __init__(self, design: Design, bodies: Bodies) -> None:
        self.design = design
        self.bodies = bodies
        self.layout = bodies.layout
        self.universe = bodies.universe

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        raise NotImplementedError

    def is_next_vm(self, cells: Cells, v: int) -> bool:
        """Tell whether `v` is the lowest free number, which a new VM takes."""
        free = (each for each, at in enumerate(self.layout.vm) if not cells[at])
        return next(free, -1) == v

    def new_vm(self, cells: Cells, op: Operation, machine: int) -> None:
        """A VM of this virtual machine, with one descriptor."""
        at = self.layout.vm[op.vm]
        cells[at] = 1
        cells[at + REFS] = 1
        cells[at + VM_MACHINE] = machine
        cells[at + VM_HANDLES + op.process] = 1
        if self.layout.vm_private >= 0:
            private = op.private if op.kind is Kind.CREATE_VM else self.is_private(cells, op.of)
            cells[at + self.layout.vm_private] = int(private)

    def asked(self, cells: Cells, s: int) -> int | None:
        """The VM of a slot, where some process has its descriptor: else nobody can ask it."""
        v = cells[self.layout.slot[s] + SLOT_VM] - 1
        if v < 0:
            return None
        at = self.layout.vm[v] + VM_HANDLES
        return v if any(cells[at : at + self.universe.processes]) else None

    def running(self, cells: Cells, s: int) -> int | None:
        """The VM of a slot, where some process can run its guest.

        Running one takes a vCPU's descriptor, not the VM's.
        """
        if self.layout.vcpus < 0:
            return self.asked(cells, s)
        v = cells[self.layout.slot[s] + SLOT_VM] - 1
        if v < 0:
            return None
        at = self.layout.vm[v]
        return v if any(cells[at + self.layout.vcpus : at + self.layout.vm_holders]) else None

    def is_private(self, cells: Cells, v: int) -> bool:
        """Tell whether a VM has private memory."""
        if self.layout.vm_private < 0:
            return not self.universe.host_maps
        return bool(cells[self.layout.vm[v] + self.layout.vm_private])

    def flags_of(self, cells: Cells, f: int) -> int:
        """The flags that a file's inode was created with."""
        if self.layout.inode_private < 0:
            return flags_for(not self.universe.host_maps)
        inode = self.layout.inode[cells[self.layout.file[f] + FILE_INODE] - 1]
        return flags_for(cells[inode + self.layout.inode_private])

    def some_process(self, cells: Cells, one: int, other: int) -> bool:
        """Tell whether one process holds both."""
        return any(cells[one + p] and cells[other + p] for p in range(self.universe.processes))
