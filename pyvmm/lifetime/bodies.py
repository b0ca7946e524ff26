# SPDX-License-Identifier: MIT
"""The objects of a state, and the effects on them: the interpreter of a `Lifecycle`."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.lifetime.layout import (
    ALIVE,
    FILE_INODE,
    FILE_VM,
    INODE_FILES,
    INODE_OWNER,
    INODE_TAGS,
    REFS,
    SLOT_CELLS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    SLOT_VM,
    VM_MACHINE,
    Cells,
    Layout,
)
from pyvmm.lifetime.machine_effects import MachineEffects, Target
from pyvmm.lifetime.universe import Universe
from pyvmm.rules.lifecycle import Effect, Event, Lifecycle

USED_AFTER_FREE = "something freed was used"
MAPPING_OUTLIVED = "a guest's mapping outlived what it mapped"
BINDINGS_LEFT = "a file was freed with bindings in it"
PAGES_LEFT = "an inode's pages were left when its last file went"
SLOTS_LEFT = "a VM was freed with slots in it"
COUNT_BROKEN = "a reference was dropped that nobody held"


class Bodies(MachineEffects):
    """Runs effects on cells. `faults` collects what broke; who calls empties it."""

    def __init__(self, lifecycle: Lifecycle, universe: Universe) -> None:
        self.layout = Layout(universe)
        self.universe = universe
        self.faults: list[str] = []
        self._pages_freed = False
        effects: dict[Effect, Callable[[Cells, Target], None]] = {
            Effect.FILE_NAMES_VM: self._file_names_vm,
            Effect.FILE_TAKES_VM: self._file_takes_vm,
            Effect.SLOT_NAMES_FILE: self._slot_names_file,
            Effect.SLOT_TAKES_FILE: self._slot_takes_file,
            Effect.FILE_NAMES_SLOT: self._file_names_slot,
            Effect.FIRST_BINDING_NAMES_VM: self._first_binding_names_vm,
            Effect.FIRST_BINDING_OWNS_INODE: self._first_binding_owns_inode,
            Effect.FOREIGN_BINDING_ZEROES: self._foreign_binding_zeroes,
            Effect.ZAP_SLOT: self._zap_slot,
            Effect.FILE_FORGETS_SLOT: self._file_forgets_slot,
            Effect.LAST_UNBINDING_FORGETS_VM: self._last_unbinding_forgets_vm,
            Effect.LAST_UNBINDING_ZEROES: self._last_unbinding_zeroes,
            Effect.SLOT_DROPS_FILE: self._slot_drops_file,
            Effect.SLOT_GOES: self._slot_goes,
            Effect.SLOTS_FORGET_FILE: self._slots_forget_file,
            Effect.ZAP_BOUND_SLOTS: self._zap_bound_slots,
            Effect.FORGET_BINDINGS: self._forget_bindings,
            Effect.FILE_DROPS_VM: self._file_drops_vm,
            Effect.DELETE_SLOTS: self._delete_slots,
            Effect.FREE_PAGES: self._free_pages,
            Effect.ZAP_PAGES: self._zap_pages,
            Effect.FREE_PUNCHED_PAGES: self._free_punched_pages,
            **self.machine_effects(),
        }
        self._bodies = {event: [effects[each] for each in lifecycle.of(event)] for event in Event}
        binding = lifecycle.of(Event.BIND)
        stored = (
            binding.index(Effect.FILE_NAMES_SLOT) + 1 if Effect.FILE_NAMES_SLOT in binding else 0
        )
        self._bodies[Event.BIND_FAILS][:0] = [effects[each] for each in binding[:stored]]

    def run(
        self,
        event: Event,
        cells: Cells,
        *,
        v: int | None = None,
        f: int = -1,
        s: int = -1,
        page: int = -1,
        inode: int = -1,
        of: int = -1,
    ) -> None:
        """Apply the effects of `event` to these objects."""
        target = Target(-1 if v is None else v, f, s, page, inode, of)
        for body in self._bodies[event]:
            body(cells, target)

    # Objects coming and going

    def free_inode(self, cells: Cells) -> int | None:
        """The first inode that no file has."""
        for i, at in enumerate(self.layout.inode):
            if not cells[at + INODE_FILES]:
                return i
        return None

    def new_file(self, cells: Cells, f: int, inode: int) -> None:
        """A file with one reference, its creator's descriptor."""
        at = self.layout.file[f]
        cells[at + ALIVE] = 1
        cells[at + REFS] = 1
        cells[at + FILE_INODE] = inode + 1
        cells[self.layout.inode[inode] + INODE_FILES] += 1

    def drop_file(self, cells: Cells, f: int) -> None:
        """One reference less; the last one releases the file."""
        at = self.layout.file[f]
        if not cells[at + REFS]:
            self.faults.append(COUNT_BROKEN)
            return
        cells[at + REFS] -= 1
        if cells[at + REFS]:
            return
        self.run(Event.RELEASE_FILE, cells, f=f)
        layout = self.layout
        if any(cells[at + layout.bindings : at + layout.bindings + self.universe.pages]):
            self.faults.append(BINDINGS_LEFT)
        inode = cells[at + FILE_INODE] - 1
        cells[at : at + layout.file_cells] = [0] * layout.file_cells
        inode_at = layout.inode[inode]
        cells[inode_at + INODE_FILES] -= 1
        if not cells[inode_at + INODE_FILES]:
            self._pages_freed = False
            self.run(Event.EVICT_INODE, cells, inode=inode)
            if not self._pages_freed:
                self.faults.append(PAGES_LEFT)
            cells[inode_at : inode_at + layout.inode_cells] = [0] * layout.inode_cells

    def drop_vm(self, cells: Cells, v: int) -> None:
        """One reference less; the last one frees the VM."""
        layout = self.layout
        at = layout.vm[v]
        if not cells[at + REFS]:
            self.faults.append(COUNT_BROKEN)
            return
        cells[at + REFS] -= 1
        if cells[at + REFS]:
            return
        self.run(Event.FREE_VM, cells, v=v)
        if any(cells[slot + SLOT_VM] == v + 1 for slot in layout.slot):
            self.faults.append(SLOTS_LEFT)
        machine = cells[at + VM_MACHINE]
        cells[at : at + layout.vm_cells] = [0] * layout.vm_cells
        self.end_machine(cells, machine)

    def unbind(self, cells: Cells, s: int) -> None:
        """Delete a slot."""
        at = self.layout.slot[s]
        f = cells[at + SLOT_FILE] - 1
        self.run(
            Event.UNBIND, cells, v=cells[at + SLOT_VM] - 1, f=f, s=s, page=cells[at + SLOT_PAGE]
        )

    def secrets(self, cells: Cells) -> int:
        """Count the pages that hold something written."""
        pages = self.universe.pages
        return sum(
            1
            for at in self.layout.inode
            for tag in cells[at + INODE_TAGS : at + INODE_TAGS + pages]
            if tag
        )

    # Effects

    def _alive(self, cells: Cells, at: int) -> bool:
        if not cells[at + ALIVE]:
            self.faults.append(USED_AFTER_FREE)
            return False
        return True

    def _file_names_vm(self, cells: Cells, t: Target) -> None:
        cells[self.layout.file[t.f] + FILE_VM] = t.v + 1

    def _file_takes_vm(self, cells: Cells, t: Target) -> None:
        cells[self.layout.vm[t.v] + REFS] += 1

    def _slot_names_file(self, cells: Cells, t: Target) -> None:
        at = self.layout.slot[t.s]
        cells[at : at + SLOT_CELLS] = [t.v + 1, t.f + 1, t.page, 0]

    def _slot_takes_file(self, cells: Cells, t: Target) -> None:
        cells[self.layout.file[t.f] + REFS] += 1

    def _file_names_slot(self, cells: Cells, t: Target) -> None:
        cells[self.layout.slot[t.s] + SLOT_VM] = t.v + 1
        cells[self.layout.file[t.f] + self.layout.bindings + t.page] = t.s + 1

    def _first_binding_names_vm(self, cells: Cells, t: Target) -> None:
        at = self.layout.file[t.f] + FILE_VM
        cells[at] = cells[at] or t.v + 1

    def _inode_of(self, cells: Cells, f: int) -> int:
        return self.layout.inode[cells[self.layout.file[f] + FILE_INODE] - 1]

    def _first_binding_owns_inode(self, cells: Cells, t: Target) -> None:
        at = self._inode_of(cells, t.f) + INODE_OWNER
        cells[at] = cells[at] or cells[self.layout.vm[t.v] + VM_MACHINE]

    def _foreign_binding_zeroes(self, cells: Cells, t: Target) -> None:
        at = self._inode_of(cells, t.f) + INODE_TAGS
        pages = range(at, at + self.universe.pages)
        own = cells[self.layout.vm[t.v] + VM_MACHINE]
        if any(cells[page] not in (0, own) for page in pages):
            for page in pages:
                cells[page] = 0

    def _zap_slot(self, cells: Cells, t: Target) -> None:
        cells[self.layout.slot[t.s] + SLOT_MAPPING] = 0

    def _file_forgets_slot(self, cells: Cells, t: Target) -> None:
        if t.f < 0:
            return  # released before: the slot has no file any more
        at = self.layout.file[t.f]
        if self._alive(cells, at):
            cells[at + self.layout.bindings + t.page] = 0

    def _is_unbound(self, cells: Cells, at: int) -> bool:
        first = at + self.layout.bindings
        return not any(cells[first : first + self.universe.pages])

    def _last_unbinding_forgets_vm(self, cells: Cells, t: Target) -> None:
        at = self.layout.file[t.f]
        if self._is_unbound(cells, at):
            cells[at + FILE_VM] = 0

    def _last_unbinding_zeroes(self, cells: Cells, t: Target) -> None:
        if self._is_unbound(cells, self.layout.file[t.f]):
            at = self._inode_of(cells, t.f) + INODE_TAGS
            for page in range(at, at + self.universe.pages):
                cells[page] = 0

    def _slot_drops_file(self, cells: Cells, t: Target) -> None:
        cells[self.layout.slot[t.s] + SLOT_FILE] = 0
        self.drop_file(cells, t.f)

    def _slot_goes(self, cells: Cells, t: Target) -> None:
        at = self.layout.slot[t.s]
        if cells[at + SLOT_MAPPING]:
            self.faults.append(MAPPING_OUTLIVED)
        cells[at : at + SLOT_CELLS] = [0] * SLOT_CELLS

    def _bound_slots(self, cells: Cells, f: int) -> list[int]:
        first = self.layout.file[f] + self.layout.bindings
        return [each - 1 for each in cells[first : first + self.universe.pages] if each]

    def _slots_forget_file(self, cells: Cells, t: Target) -> None:
        for s in self._bound_slots(cells, t.f):
            at = self.layout.slot[s]
            if not cells[at + SLOT_VM]:
                self.faults.append(USED_AFTER_FREE)
            cells[at + SLOT_FILE] = 0
            cells[at + SLOT_PAGE] = 0

    def _zap_bound_slots(self, cells: Cells, t: Target) -> None:
        for s in self._bound_slots(cells, t.f):
            cells[self.layout.slot[s] + SLOT_MAPPING] = 0

    def _forget_bindings(self, cells: Cells, t: Target) -> None:
        first = self.layout.file[t.f] + self.layout.bindings
        cells[first : first + self.universe.pages] = [0] * self.universe.pages

    def _file_drops_vm(self, cells: Cells, t: Target) -> None:
        v = cells[self.layout.file[t.f] + FILE_VM] - 1
        if v < 0:
            self.faults.append(USED_AFTER_FREE)
            return
        self.drop_vm(cells, v)

    def _delete_slots(self, cells: Cells, t: Target) -> None:
        for s, at in enumerate(self.layout.slot):
            if cells[at + SLOT_VM] == t.v + 1:
                self.unbind(cells, s)

    def _free_pages(self, cells: Cells, t: Target) -> None:
        first = 1 + t.inode * self.universe.pages
        mapped = range(first, first + self.universe.pages)
        if any(cells[at + SLOT_MAPPING] in mapped for at in self.layout.slot):
            self.faults.append(MAPPING_OUTLIVED)
        self._pages_freed = True

    def _zap_pages(self, cells: Cells, t: Target) -> None:
        mapped = 1 + t.inode * self.universe.pages + t.page
        for at in self.layout.slot:
            if cells[at + SLOT_MAPPING] == mapped:
                cells[at + SLOT_MAPPING] = 0

    def _free_punched_pages(self, cells: Cells, t: Target) -> None:
        mapped = 1 + t.inode * self.universe.pages + t.page
        if any(cells[at + SLOT_MAPPING] == mapped for at in self.layout.slot):
            self.faults.append(MAPPING_OUTLIVED)
        at = self.layout.inode[t.inode]
        cells[at + INODE_TAGS + t.page] = 0
        if self.layout.page_errors >= 0:
            cells[at + self.layout.page_errors + t.page] = 0  # another page will come
