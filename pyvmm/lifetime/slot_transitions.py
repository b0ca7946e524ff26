# SPDX-License-Identifier: MIT
"""Binding, deleting and moving slots."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_OWNER,
    VM_HANDLES,
    VM_MACHINE,
    Cells,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.lifetime.questions import Binding, binding_refusal, moving_refusal
from pyvmm.rules.lifecycle import Event


class Slots(Part):
    """Slots of a VM, and their bindings."""

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        return {
            Kind.BIND: self._bind,
            Kind.BIND_FAILS: self._bind_fails,
            Kind.UNBIND: self._unbind,
            Kind.MOVE: self._move,
        }

    def _bind(self, cells: Cells, op: Operation) -> str | None:
        refusal = self._refusal(cells, op)
        if refusal == OK:
            self.bodies.run(Event.BIND, cells, v=op.vm, f=op.file, s=op.slot, page=op.page)
        return refusal

    def _bind_fails(self, cells: Cells, op: Operation) -> str | None:
        if self._refusal(cells, op) != OK:
            return None  # it does not come as far as that
        self.bodies.run(Event.BIND_FAILS, cells, v=op.vm, f=op.file, s=op.slot, page=op.page)
        return "ENOMEM"

    def _refusal(self, cells: Cells, op: Operation) -> str | None:
        """The errno's name if a binding is refused; OK if it is not."""
        binding = self.binding(cells, op)
        return None if binding is None else binding_refusal(self.design.profile, binding) or OK

    def binding(self, cells: Cells, op: Operation) -> Binding | None:
        """The question to the rules that a binding is; None where it cannot be attempted."""
        layout = self.layout
        vm_at, file_at, slot_at = layout.vm[op.vm], layout.file[op.file], layout.slot[op.slot]
        if not self.some_process(cells, vm_at + VM_HANDLES, file_at + FILE_HANDLES):
            return None
        holder = cells[slot_at]
        if holder not in (0, op.vm + 1):
            return None
        if not holder and any(not cells[layout.slot[s]] for s in range(op.slot)):
            return None  # the lower free number does the same
        occupied = tuple(s for s, at in enumerate(layout.slot) if cells[at] == op.vm + 1)
        bound = tuple(
            page for page in range(self.universe.pages) if cells[file_at + layout.bindings + page]
        )
        of = self._vm_for_binding(cells, op)
        return Binding(
            op.slot,
            op.page,
            self.universe.pages,
            op.vm + 1,
            of,
            occupied,
            bound,
            self.flags_of(cells, op.file),
            self.is_private(cells, op.vm),
            self.design.judges_flags,
        )

    def _vm_for_binding(self, cells: Cells, op: Operation) -> int:
        """The VM that the file can be bound for, as far as the design can tell."""
        at = self.layout.file[op.file]
        if self.design.identity:
            inode = self.layout.inode[cells[at + FILE_INODE] - 1]
            owner = cells[inode + INODE_OWNER]
            if owner and owner != cells[self.layout.vm[op.vm] + VM_MACHINE]:
                return self.layout.ghost  # no VM that could ask
        named = cells[at + FILE_VM]
        return named or op.vm + 1

    def _unbind(self, cells: Cells, op: Operation) -> str | None:
        v = self.asked(cells, op.slot)
        if v is None:
            return None
        self.bodies.unbind(cells, op.slot)
        return OK

    def _move(self, cells: Cells, op: Operation) -> str | None:
        if self.asked(cells, op.slot) is None:
            return None
        return moving_refusal(self.design.profile, op.slot) or OK
