# SPDX-License-Identifier: MIT
"""Effects among the VMs that share a virtual machine: helpers, and a VM that takes one over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pyvmm.lifetime.layout import (
    ALIVE,
    FILE_VM,
    INODE_OWNER,
    INODE_TAGS,
    REFS,
    SLOT_CELLS,
    SLOT_FILE,
    VM_MACHINE,
    Cells,
    Layout,
)
from pyvmm.rules.lifecycle import Effect


class Target(NamedTuple):
    """Objects that an effect works on; -1 where an event has no such object.

    `of` is the VM that a new one helps, or whose virtual machine it takes over.
    """

    v: int
    f: int
    s: int
    page: int
    inode: int
    of: int


class MachineEffects:
    """Effects on VMs as parts of virtual machines."""

    layout: Layout

    def drop_vm(self, cells: Cells, v: int) -> None:
        """One reference less; the last one frees the VM."""
        raise NotImplementedError

    def machine_effects(self) -> Mapping[Effect, Callable[[Cells, Target], None]]:
        """Each effect with what does it."""
        return {
            Effect.HELPER_NAMES_VM: self._helper_names_vm,
            Effect.HELPER_TAKES_VM: self._helper_takes_vm,
            Effect.HELPER_DROPS_VM: self._helper_drops_vm,
            Effect.HELPERS_FOLLOW: self._helpers_follow,
            Effect.FILES_FOLLOW: self._files_follow,
            Effect.SOURCE_DIES: self._source_dies,
            Effect.SESSION_TAKES_VM: self._session_takes_vm,
            Effect.SESSION_TAKES_FILE: self._session_takes_file,
            Effect.RECORD_KEEPS_MACHINE: self._record_keeps_machine,
        }

    def end_machine(self, cells: Cells, machine: int) -> None:
        """End a virtual machine that has neither a VM nor a record any more; 0: there is none."""
        layout = self.layout
        if not machine or machine in self._machines(cells):
            return
        for inode in layout.inode:
            for cell in (INODE_OWNER, *range(INODE_TAGS, INODE_TAGS + layout.universe.pages)):
                if cells[inode + cell] == machine:
                    cells[inode + cell] = layout.ghost
        for at in layout.vm:
            if cells[at + VM_MACHINE] == machine:
                cells[at + VM_MACHINE] = layout.ghost  # a VM that had given it away

    def free_machine(self, cells: Cells) -> int:
        """The first virtual machine that no VM is of, one higher; the VMs are not all there."""
        return min(set(range(1, self.layout.machines + 1)) - self._machines(cells))

    def _machines(self, cells: Cells) -> set[int]:
        """The virtual machines that VMs are of or records keep; 0 among them means nothing."""
        layout = self.layout
        found = {
            cells[at + VM_MACHINE]
            for v, at in enumerate(layout.vm)
            if layout.vm_dead < 0 or not cells[at + layout.vm_dead]
        }
        found.update(cells[at + layout.record_machine] for at in layout.vm_record)
        return found

    def is_dead(self, cells: Cells, v: int) -> bool:
        """Tell whether a VM has given its virtual machine away."""
        return self.layout.vm_dead >= 0 and bool(cells[self.layout.vm[v] + self.layout.vm_dead])

    def inherit(self, cells: Cells, machine: int) -> None:
        """Mark the pages that a virtual machine brings along into its next VM."""
        layout = self.layout
        for at in layout.inode:
            for page in range(layout.universe.pages):
                if cells[at + INODE_TAGS + page] == machine:
                    cells[at + layout.inherited + page] = 1

    def _helper_names_vm(self, cells: Cells, t: Target) -> None:
        cells[self.layout.vm[t.v] + self.layout.vm_source] = t.of + 1

    def _helper_takes_vm(self, cells: Cells, t: Target) -> None:
        cells[self.layout.vm[t.of] + REFS] += 1

    def _helper_drops_vm(self, cells: Cells, t: Target) -> None:
        if self.layout.vm_source < 0:
            return
        at = self.layout.vm[t.v] + self.layout.vm_source
        source = cells[at] - 1
        cells[at] = 0
        if source >= 0:
            self.drop_vm(cells, source)

    def _helpers_follow(self, cells: Cells, t: Target) -> None:
        if self.layout.vm_source < 0:
            return
        held = self.layout.vm_source
        of, own = self.layout.vm[t.of], self.layout.vm[t.v]
        cells[own + held], cells[of + held] = cells[of + held], 0
        for at in self.layout.vm:
            if cells[at + held] == t.of + 1:
                cells[at + held] = t.v + 1
                cells[own + REFS] += 1
                self.drop_vm(cells, t.of)

    def _files_follow(self, cells: Cells, t: Target) -> None:
        layout = self.layout
        for at in layout.file:
            if cells[at + ALIVE] and cells[at + FILE_VM] == t.of + 1:
                bindings = range(at + layout.bindings, at + layout.bindings + layout.universe.pages)
                for slot in (layout.slot[cells[each] - 1] for each in bindings if cells[each]):
                    cells[slot + SLOT_FILE : slot + SLOT_CELLS] = [0, 0, 0]
                for each in bindings:
                    cells[each] = 0
                cells[at + FILE_VM] = t.v + 1
                cells[layout.vm[t.v] + REFS] += 1
                self.drop_vm(cells, t.of)

    def _session_takes_vm(self, cells: Cells, t: Target) -> None:
        cells[self.layout.vm[t.v] + REFS] += 1

    def _session_takes_file(self, cells: Cells, t: Target) -> None:
        cells[self.layout.file[t.f] + REFS] += 1

    def _record_keeps_machine(self, cells: Cells, t: Target) -> None:
        """For the record `t.v`, of a VM whose virtual machine is `t.of`."""
        cells[self.layout.vm_record[t.v] + self.layout.record_machine] = t.of

    def _source_dies(self, cells: Cells, t: Target) -> None:
        cells[self.layout.vm[t.of] + self.layout.vm_dead] = 1
