# SPDX-License-Identifier: MIT
"""Creating VMs and files."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    VM_HANDLES,
    VM_MACHINE,
    Cells,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.lifetime.questions import creation_refusal, flags_for
from pyvmm.rules.lifecycle import Event


class Creating(Part):
    """VMs, files, and second files of an inode."""

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        return {
            Kind.CREATE_VM: self._create_vm,
            Kind.CREATE_FILE: self._create_file,
            Kind.CREATE_UNOWNED: self._create_file,
            Kind.LINK: self._link,
            Kind.LINK_UNOWNED: self._link,
        }

    def _create_vm(self, cells: Cells, op: Operation) -> str | None:
        if not self.is_next_vm(cells, op.vm):
            return None
        self.new_vm(cells, op, self.bodies.free_machine(cells))
        return OK

    def _create_file(self, cells: Cells, op: Operation) -> str | None:
        v = None
        if not self.design.system_creation:
            v = op.vm
            if not cells[self.layout.vm[v] + VM_HANDLES + op.process]:
                return None
        inode = self.bodies.free_inode(cells)
        if self._free_file(cells) != op.file or inode is None:
            return None  # the lowest free number is taken
        refusal = self._flags_refused(cells, op, v)
        if refusal is not None:
            return refusal
        if self.layout.inode_private >= 0:
            cells[self.layout.inode[inode] + self.layout.inode_private] = op.private
        return self._new_file(cells, op, v, f=op.file, inode=inode)

    def _flags_refused(self, cells: Cells, op: Operation, v: int | None) -> str | None:
        """The errno's name if no file of these flags is created for the VM; None: for any VM."""
        if self.layout.inode_private < 0:
            return None
        private_vm = v is not None and self.is_private(cells, v)
        return creation_refusal(self.design.profile, flags_for(op.private), private_vm)

    def _link(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        if not cells[at + FILE_HANDLES + op.process]:
            return None
        v = None
        if not self.design.system_creation:
            v = op.vm
            if not cells[self.layout.vm[v] + VM_HANDLES + op.process]:
                return None
        f = self._free_file(cells)
        if f is None:
            return None
        inode = cells[at + FILE_INODE] - 1
        if v is not None:
            named = cells[at + FILE_VM] - 1
            if named == v:
                return "EINVAL"  # kvm_gmem_link: the same VM needs no second file
            own = cells[self.layout.vm[v] + VM_MACHINE]
            if not self.design.links_strangers and cells[self.layout.vm[named] + VM_MACHINE] != own:
                return "EINVAL"
        return self._new_file(cells, op, v, f=f, inode=inode)

    def _free_file(self, cells: Cells) -> int | None:
        for f, at in enumerate(self.layout.file):
            if not cells[at]:
                return f
        return None

    def _new_file(self, cells: Cells, op: Operation, v: int | None, *, f: int, inode: int) -> str:
        self.bodies.new_file(cells, f, inode)
        cells[self.layout.file[f] + FILE_HANDLES + op.process] = 1
        linked = op.kind in (Kind.LINK, Kind.LINK_UNOWNED)
        self.bodies.run(Event.LINK_FILE if linked else Event.CREATE_FILE, cells, v=v, f=f)
        return OK
