# SPDX-License-Identifier: MIT
"""Descriptors, mappings and processes."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    REFS,
    VM_HANDLES,
    Cells,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.lifetime.questions import mapping_refusal


class Descriptors(Part):
    """Holdings of processes: descriptors of VMs and files, and mappings."""

    @property
    def _vm_held(self) -> tuple[int, ...]:
        """Offsets in a VM of the processes' descriptors: its own, its vCPUs'."""
        return (VM_HANDLES,) if self.layout.vcpus < 0 else (VM_HANDLES, self.layout.vcpus)

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        return {
            Kind.DUP_VM: self._dup_vm,
            Kind.DUP_FILE: self._dup_file,
            Kind.CLOSE_VM: self._close_vm,
            Kind.CLOSE_FILE: self._close_file,
            Kind.CREATE_VCPU: self._create_vcpu,
            Kind.CLOSE_VCPU: self._close_vcpu,
            Kind.MAP: self._map,
            Kind.UNMAP: self._unmap,
            Kind.FORK: self._fork,
            Kind.EXIT: self._exit,
        }

    def _dup_vm(self, cells: Cells, op: Operation) -> str | None:
        return self._dup(cells, self.layout.vm[op.vm], VM_HANDLES + op.process)

    def _dup_file(self, cells: Cells, op: Operation) -> str | None:
        return self._dup(cells, self.layout.file[op.file], FILE_HANDLES + op.process)

    def _dup(self, cells: Cells, at: int, handles: int) -> str | None:
        if not 0 < cells[at + handles] < self.universe.handles:
            return None
        cells[at + handles] += 1
        cells[at + REFS] += 1
        return OK

    def _close_vm(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.vm[op.vm] + VM_HANDLES + op.process
        if not cells[at]:
            return None
        cells[at] -= 1
        self.bodies.drop_vm(cells, op.vm)
        return OK

    # A vCPU's descriptor holds the VM: kvm_vm_ioctl_create_vcpu takes a reference (kvm_get_kvm),
    # kvm_vcpu_release drops it. A mapping of its kvm_run holds the same file.

    def _create_vcpu(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.vm[op.vm]
        held = at + self.layout.vcpus + op.process
        if not cells[at + VM_HANDLES + op.process] or cells[held] >= self.universe.vcpus:
            return None
        cells[held] += 1
        cells[at + REFS] += 1
        return OK

    def _close_vcpu(self, cells: Cells, op: Operation) -> str | None:
        held = self.layout.vm[op.vm] + self.layout.vcpus + op.process
        if not cells[held]:
            return None
        cells[held] -= 1
        self.bodies.drop_vm(cells, op.vm)
        return OK

    def _close_file(self, cells: Cells, op: Operation) -> str | None:
        return self._drop(cells, op.file, FILE_HANDLES + op.process)

    def _map(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        mapping = at + self.layout.mappings + op.process
        if not cells[at + FILE_HANDLES + op.process] or cells[mapping]:
            return None
        flags = self.flags_of(cells, op.file)
        refusal = mapping_refusal(self.design.profile, self.universe.pages, flags)
        if refusal is not None:
            return refusal
        cells[mapping] = 1
        cells[at + REFS] += 1
        return OK

    def _unmap(self, cells: Cells, op: Operation) -> str | None:
        return self._drop(cells, op.file, self.layout.mappings + op.process)

    def _drop(self, cells: Cells, f: int, held: int) -> str | None:
        at = self.layout.file[f] + held
        if not cells[at]:
            return None
        cells[at] -= 1
        self.bodies.drop_file(cells, f)
        return OK

    def _fork(self, cells: Cells, op: Operation) -> str | None:
        parent, child = op.process, 1 - op.process
        places = [(at, held) for at in self.layout.vm for held in self._vm_held]
        places += [(at, FILE_HANDLES) for at in self.layout.file]
        places += [(at, self.layout.mappings) for at in self.layout.file]
        if any(cells[at + held + child] for at, held in places):
            return None
        if not any(cells[at + held + parent] for at, held in places):
            return None
        for at, held in places:
            count = cells[at + held + parent]
            cells[at + held + child] = count
            cells[at + REFS] += count
        return OK

    def _exit(self, cells: Cells, op: Operation) -> str | None:
        p = op.process
        done = None
        for f, at in enumerate(self.layout.file):
            while cells[at + self.layout.mappings + p]:
                done = self._drop(cells, f, self.layout.mappings + p)
        for f, at in enumerate(self.layout.file):
            while cells[at + FILE_HANDLES + p]:
                done = self._drop(cells, f, FILE_HANDLES + p)
        for v, at in enumerate(self.layout.vm):
            for held in self._vm_held:
                while cells[at + held + p]:
                    cells[at + held + p] -= 1
                    self.bodies.drop_vm(cells, v)
                    done = OK
        return done
