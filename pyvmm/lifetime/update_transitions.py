# SPDX-License-Identifier: MIT
"""Preservation over a live update: a session keeps VMs and files while the kernel is replaced.

As the series of June 2026 has it (``20260622184851.2309827-1-tarunsahu@google.com``, v3): VM and
file are preserved apart, each by its descriptor, and the session holds both. Preserving a file
freezes it. On kexec all that is left is the session's records: of a VM, that it was one; of a file,
its pages, and which VM's record it belongs to. The next kernel makes VM and file anew from these.
An agent has the session, so that it is not a process of the universe that closes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import (
    ALIVE,
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_FILES,
    REFS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    VM_HANDLES,
    VM_MACHINE,
    Cells,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.rules.lifecycle import Event

WAITS, RETRIEVED = 1, 2
"""States of a record."""


class Updates(Part):
    """Sessions, and accesses to what they have frozen."""

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        return {
            Kind.PRESERVE_VM: self._preserve_vm,
            Kind.PRESERVE_FILE: self._preserve_file,
            Kind.UNPRESERVE: self._unpreserve,
            Kind.KEXEC: self._kexec,
            Kind.RETRIEVE_VM: self._retrieve_vm,
            Kind.RETRIEVE_FILE: self._retrieve_file,
            Kind.FINISH: self._finish,
        }

    # Before

    def _preserve_vm(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.vm[op.vm]
        held = any(cells[at + VM_HANDLES : at + VM_HANDLES + self.universe.processes])
        if not held or cells[at + self.layout.vm_preserved] or self._has_records(cells):
            return None
        if self.bodies.is_dead(cells, op.vm):
            return "EINVAL"  # kvm_luo_preserve
        cells[at + self.layout.vm_preserved] = 1
        self.bodies.run(Event.PRESERVE_VM, cells, v=op.vm)
        return OK

    def _preserve_file(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        held = any(cells[at + FILE_HANDLES : at + FILE_HANDLES + self.universe.processes])
        if not held or cells[at + self.layout.file_preserved] or self._has_records(cells):
            return None
        if not self.flags_of(cells, op.file):
            return "ENOENT"  # kvm_gmem_luo_can_preserve: all of it must be shared
        cells[at + self.layout.file_preserved] = 1
        cells[self._inode_at(cells, op.file) + self.layout.frozen] = 1
        self.bodies.run(Event.PRESERVE_FILE, cells, f=op.file)
        return OK

    def _unpreserve(self, cells: Cells, _op: Operation) -> str | None:
        vms, files = self._preserved(cells)
        for f in files:
            cells[self.layout.file[f] + self.layout.file_preserved] = 0
            cells[self._inode_at(cells, f) + self.layout.frozen] = 0
            self.bodies.drop_file(cells, f)
        for v in vms:
            cells[self.layout.vm[v] + self.layout.vm_preserved] = 0
            self.bodies.drop_vm(cells, v)
        return OK if vms or files else None

    def _preserved(self, cells: Cells) -> tuple[list[int], list[int]]:
        """The VMs and files that the session has before a kexec."""
        layout = self.layout
        return (
            [v for v, at in enumerate(layout.vm) if cells[at + layout.vm_preserved]],
            [f for f, at in enumerate(layout.file) if cells[at + layout.file_preserved]],
        )

    def _has_records(self, cells: Cells) -> bool:
        """Tell whether a session is not finished yet."""
        layout = self.layout
        return any(cells[at + layout.record_state] for at in layout.vm_record) or any(
            cells[at + layout.file_record_state] for at in layout.file_record
        )

    def _inode_at(self, cells: Cells, f: int) -> int:
        return self.layout.inode[cells[self.layout.file[f] + FILE_INODE] - 1]

    # In between

    def _kexec(self, cells: Cells, _op: Operation) -> str | None:
        vms, files = self._preserved(cells)
        if not vms and not files:
            return None  # nothing is left of anything
        layout = self.layout
        named = [cells[layout.file[f] + FILE_VM] - 1 for f in files]
        if not self.design.system_creation and any(v not in vms for v in named):
            return "ENOENT"  # kvm_gmem_luo_freeze: no vm_file any more, or no token of it
        machines = [cells[layout.vm[v] + VM_MACHINE] for v in vms]
        inodes = [cells[layout.file[f] + FILE_INODE] for f in files]
        cells[: layout.inode[0]] = [0] * layout.inode[0]  # processes, descriptors, VMs, files
        for i, at in enumerate(layout.inode, 1):
            if i in inodes:
                cells[at + INODE_FILES] = inodes.count(i)
                cells[at + layout.frozen] = 0
            else:
                cells[at : at + layout.inode_cells] = [0] * layout.inode_cells
        cells[layout.slot[0] :] = [0] * (layout.size - layout.slot[0])
        for number, (at, machine) in enumerate(zip(layout.vm_record, machines, strict=False)):
            cells[at + layout.record_state] = WAITS
            self.bodies.run(Event.HAND_ON_VM, cells, v=number, of=machine)
        for at, v, inode in zip(layout.file_record, named, inodes, strict=False):
            cells[at + layout.file_record_state] = WAITS
            cells[at + layout.record_of] = vms.index(v) + 1 if v in vms else 0
            cells[at + layout.record_inode] = inode
        for machine in range(1, layout.machines + 1):
            self.bodies.end_machine(cells, machine)
            self.bodies.inherit(cells, machine)
        return OK

    # After

    def _retrieve_vm(self, cells: Cells, op: Operation) -> str | None:
        record = self.layout.vm_record[op.vm]
        if not cells[record + self.layout.record_state]:
            return None
        v = self._vm_of_record(cells, record)
        if v is None:
            return None
        at = self.layout.vm[v]
        if cells[at + VM_HANDLES + op.process] >= self.universe.handles:
            return None
        cells[at + VM_HANDLES + op.process] += 1
        cells[at + REFS] += 1
        return OK

    def _vm_of_record(self, cells: Cells, record: int) -> int | None:
        """The VM of a record, made if it is not there yet; None where no number is free."""
        layout = self.layout
        if cells[record + layout.record_state] == RETRIEVED:
            return cells[record + layout.record_vm] - 1
        v = next((v for v, at in enumerate(layout.vm) if not cells[at]), None)
        if v is None:
            return None
        at = layout.vm[v]
        cells[at + ALIVE] = 1
        cells[at + VM_MACHINE] = cells[record + layout.record_machine] or self.bodies.free_machine(
            cells
        )
        cells[record + layout.record_state] = RETRIEVED
        cells[record + layout.record_vm] = v + 1
        self.bodies.run(Event.PRESERVE_VM, cells, v=v)
        return v

    def _retrieve_file(self, cells: Cells, op: Operation) -> str | None:
        layout = self.layout
        record = layout.file_record[op.file]
        if cells[record + layout.file_record_state] != WAITS:
            return None
        f = next((f for f, at in enumerate(layout.file) if not cells[at]), None)
        if f is None:
            return None
        v = None
        if cells[record + layout.record_of] and not self.design.system_creation:
            v = self._vm_of_record(cells, layout.vm_record[cells[record + layout.record_of] - 1])
            if v is None:
                return None
        inode = cells[record + layout.record_inode] - 1
        cells[layout.inode[inode] + INODE_FILES] -= 1  # the record's part: the file takes it over
        self.bodies.new_file(cells, f, inode)
        cells[layout.file[f] + FILE_HANDLES + op.process] = 1
        cells[record + layout.file_record_state] = RETRIEVED
        cells[record + layout.record_file] = f + 1
        cells[record + layout.record_inode] = 0
        self.bodies.run(Event.CREATE_FILE, cells, v=v, f=f)
        self.bodies.run(Event.PRESERVE_FILE, cells, f=f)
        return OK

    def _finish(self, cells: Cells, _op: Operation) -> str | None:
        if not self._has_records(cells):
            return None
        layout = self.layout
        files = [cells[at : at + self._file_record_cells] for at in layout.file_record]
        vms = [cells[at : at + self._vm_record_cells] for at in layout.vm_record]
        first = layout.vm_record[0]
        cells[first:] = [0] * (layout.size - first)
        for record in files:
            if record[layout.file_record_state] == RETRIEVED:
                self.bodies.drop_file(cells, record[layout.record_file] - 1)
            elif record[layout.file_record_state] == WAITS:
                at = layout.inode[record[layout.record_inode] - 1]
                cells[at + INODE_FILES] -= 1
                if not cells[at + INODE_FILES]:
                    cells[at : at + layout.inode_cells] = [0] * layout.inode_cells
        for record in vms:
            if record[layout.record_state] == RETRIEVED:
                self.bodies.drop_vm(cells, record[layout.record_vm] - 1)
            self.bodies.end_machine(cells, record[layout.record_machine])
        return OK

    @property
    def _file_record_cells(self) -> int:
        return (self.layout.size - self.layout.file_record[0]) // len(self.layout.file_record)

    @property
    def _vm_record_cells(self) -> int:
        first = self.layout.vm_record[0]
        return (self.layout.file_record[0] - first) // len(self.layout.vm_record)

    # Accesses to what is frozen

    def guarded(self, kind: Kind, do: Do) -> Do:
        """The same operation; EPERM where it needs a page to come or go that is frozen.

        ``kvm_gmem_get_folio`` gives a page that is there, and makes none in a frozen file; for the
        host's mapping that is SIGBUS. ``kvm_gmem_fallocate`` does nothing to a frozen file.
        """
        refused = {
            Kind.GUEST_READ: "EPERM",
            Kind.GUEST_WRITE: "EPERM",
            Kind.HOST_READ: "SIGBUS",
            Kind.PUNCH: "EPERM",
        }
        if kind not in refused:
            return do

        def guarded(cells: Cells, op: Operation) -> str | None:
            before = list(cells)
            outcome = do(cells, op)
            page = self._touched(cells, op) if outcome is not None else None
            if page is None or (outcome is not None and outcome.startswith("E")):
                return outcome
            inode, at = page
            if cells[inode + self.layout.frozen] and (kind is Kind.PUNCH or not cells[at]):
                cells[:] = before
                return refused[kind]
            cells[at] = int(kind is not Kind.PUNCH)
            return outcome

        return guarded

    def _touched(self, cells: Cells, op: Operation) -> tuple[int, int] | None:
        """Offsets of the inode that was reached, and of its page's cell that says it is there."""
        layout = self.layout
        if op.kind in (Kind.HOST_READ, Kind.PUNCH):
            inode, page = self._inode_at(cells, op.file), op.page
        else:
            slot = layout.slot[op.slot]
            if not cells[slot + SLOT_MAPPING] or not cells[slot + SLOT_FILE]:
                return None
            inode = self._inode_at(cells, cells[slot + SLOT_FILE] - 1)
            page = cells[slot + SLOT_PAGE]
        return inode, inode + layout.allocated + page
