# SPDX-License-Identifier: MIT
"""Several VMs of one virtual machine: helpers, and a VM that takes it over from another.

Both are what KVM has for SEV: ``KVM_CAP_VM_COPY_ENC_CONTEXT_FROM`` makes a VM a mirror of another,
``KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM`` moves the ASID of a VM to one that has none yet. Here each is
one operation together with the creation of the VM that it is for.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import SLOT_VM, VM_HANDLES, VM_MACHINE, Cells
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.rules.lifecycle import Event

_OF_A_VM = frozenset({Kind.CREATE_FILE, Kind.CREATE_VCPU, Kind.LINK, Kind.BIND, Kind.BIND_FAILS})
_OF_A_SLOT = frozenset({Kind.UNBIND, Kind.MOVE, Kind.GUEST_READ, Kind.GUEST_WRITE})


class Machines(Part):
    """VMs that are made of another's virtual machine."""

    def table(self) -> Mapping[Kind, Do]:
        """Kinds and what does them."""
        return {Kind.JOIN_VM: self._join_vm, Kind.MOVE_CONTEXT: self._move_context}

    def guarded(self, kind: Kind, do: Do) -> Do:
        """The same operation, EIO where it asks a VM that has given its virtual machine away.

        ``kvm_vm_ioctl`` and ``kvm_vcpu_ioctl`` look at ``kvm->vm_dead``.
        """
        if kind not in _OF_A_VM | _OF_A_SLOT:
            return do

        def guarded(cells: Cells, op: Operation) -> str | None:
            v = op.vm if kind in _OF_A_VM else cells[self.layout.slot[op.slot] + SLOT_VM] - 1
            if v < 0 or not self.bodies.is_dead(cells, v):
                return do(cells, op)
            outcome = do(list(cells), op)
            self.bodies.faults.clear()  # of something that is not done
            return None if outcome is None else "EIO"

        return guarded

    def _join_vm(self, cells: Cells, op: Operation) -> str | None:
        of = self.layout.vm[op.of]
        if not cells[of + VM_HANDLES + op.process] or not self.is_next_vm(cells, op.vm):
            return None
        if cells[of + self.layout.vm_source] or self.bodies.is_dead(cells, op.of):
            return "EINVAL"  # is_mirroring_enc_context(source_kvm), !sev_guest(source_kvm)
        self.new_vm(cells, op, cells[of + VM_MACHINE])
        self.bodies.run(Event.JOIN_VM, cells, v=op.vm, of=op.of)
        return OK

    def _move_context(self, cells: Cells, op: Operation) -> str | None:
        of = self.layout.vm[op.of]
        if not cells[of + VM_HANDLES + op.process] or not self.is_next_vm(cells, op.vm):
            return None
        if self.bodies.is_dead(cells, op.of):
            return "EINVAL"  # !sev_guest(source_kvm)
        machine = cells[of + VM_MACHINE]
        self.new_vm(cells, op, machine)
        self.bodies.inherit(cells, machine)
        self.bodies.run(Event.MOVE_CONTEXT, cells, v=op.vm, of=op.of)
        return OK
