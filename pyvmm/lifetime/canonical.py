# SPDX-License-Identifier: MIT
"""One state for all that differ in the names of their objects only."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, permutations, product
from typing import NamedTuple

from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_FILES,
    INODE_OWNER,
    INODE_TAGS,
    REFS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    SLOT_VM,
    VM_HANDLES,
    VM_MACHINE,
    Cells,
    Each,
    Extra,
    Layout,
    Names,
    Of,
    State,
)


class _Order(NamedTuple):
    """Old numbers in the order of the new ones."""

    vms: tuple[int, ...]
    files: tuple[int, ...]
    processes: tuple[int, ...]
    vm_records: tuple[int, ...]
    file_records: tuple[int, ...]


class _Names(NamedTuple):
    """New numbers by old ones; `processes` are the old numbers in the new order."""

    vm: list[int]
    file: list[int]
    inode: list[int]
    machine: list[int]
    vm_record: list[int]
    page: list[list[int]]
    processes: tuple[int, ...]

    def of(self, names: Names, number: int) -> int:
        """The new number in a cell that had `number`."""
        if names is Names.VM:
            return self.vm[number]
        if names is Names.FILE:
            return self.file[number]
        if names is Names.INODE:
            return self.inode[number]
        if names is Names.VM_RECORD:
            return self.vm_record[number]
        return self.machine[number] if names is Names.MACHINE else number


@dataclass
class Canonical:
    """Renames objects so that states that differ in names only become one state.

    VMs, files with their inodes, slots, records, pages of an inode, processes are interchangeable
    as long as slots and bindings agree. Where a fault lets them disagree, `renames` is False: every
    state stands for itself.
    """

    layout: Layout
    renames: bool = True
    known: dict[State, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._of_vm = self._offsets(Of.VM)
        self._of_file = self._offsets(Of.FILE)
        self._of_inode = self._offsets(Of.INODE)
        self._of_vm_record = self._offsets(Of.VM_RECORD)
        self._of_file_record = self._offsets(Of.FILE_RECORD)
        self._record_orders = [
            (vms, files)
            for vms in permutations(range(len(self.layout.vm_record)))
            for files in permutations(range(len(self.layout.file_record)))
        ]

    def _offsets(self, of: Of) -> list[tuple[Extra, int]]:
        return [(each, getattr(self.layout, each.name)) for each in self.layout.extras(of)]

    def of(self, state: State) -> State:
        """The one state that stands for all that `state` can be renamed to."""
        found = self.known.get(state)
        if found is None:
            found = min(self._renamings(state)) if self.renames else state
            self.known[state] = found
        return found

    def _renamings(self, state: State) -> list[State]:
        """Every renaming that sorts objects by what does not depend on names."""
        u = self.layout.universe
        found = []
        for processes in permutations(range(u.processes)):
            vms = _orders([self._vm_key(state, v, processes) for v in range(u.vms)])
            files = _orders([self._file_key(state, f, processes) for f in range(u.files)])
            found += [
                self._renamed(state, _Order(vm, file, processes, *records))
                for vm, file, records in product(vms, files, self._record_orders)
            ]
        return found

    def _vm_key(self, state: State, v: int, processes: tuple[int, ...]) -> tuple[int, ...]:
        at = self.layout.vm[v]
        if not state[at]:
            return (0,)
        slots = 0
        for slot in self.layout.slot:
            slots += state[slot] == v + 1
        return (-1, state[at + REFS], slots, *[state[at + VM_HANDLES + p] for p in processes])

    def _file_key(self, state: State, f: int, processes: tuple[int, ...]) -> tuple[int, ...]:
        layout = self.layout
        at = layout.file[f]
        if not state[at]:
            return (0,)
        pages = layout.universe.pages
        inode = layout.inode[state[at + FILE_INODE] - 1]
        first = inode + INODE_TAGS
        bound = at + layout.bindings
        return (
            -1,
            state[at + REFS],
            pages - state.count(0, first, first + pages),
            pages - state.count(0, bound, bound + pages),
            state[inode + INODE_FILES],
            *[state[at + FILE_HANDLES + p] for p in processes],
            *[state[at + layout.mappings + p] for p in processes],
        )

    def _renamed(self, state: State, order: _Order) -> State:
        """`state` with VM ``order.vms[i]`` called i, and so on; inodes, pages and slots sorted."""
        layout = self.layout
        u = layout.universe
        vm_order, file_order = order.vms, order.files
        vm = [0] * (u.vms + 2)
        for new, old in enumerate(vm_order):
            vm[old + 1] = new + 1
        machine = self._machine_names(state, order)
        file = [0] * (u.files + 1)
        inode_order: list[int] = []
        for new, old in enumerate(file_order):
            file[old + 1] = new + 1
            own = state[layout.file[old] + FILE_INODE]
            if own and own - 1 not in inode_order:
                inode_order.append(own - 1)
        for record in order.file_records:
            own = state[layout.file_record[record] + layout.record_inode]
            if own and own - 1 not in inode_order:
                inode_order.append(own - 1)
        inode_order += [i for i in range(u.files) if i not in inode_order]
        inode = [0] * (u.files + 1)
        for new, old in enumerate(inode_order):
            inode[old + 1] = new + 1
        page = self._page_names(state, vm, machine, file)
        vm_record = [0, *(order.vm_records.index(i) + 1 for i in range(len(order.vm_records)))]
        names = _Names(vm, file, inode, machine, vm_record, page, order.processes)
        slots = sorted(self._slot_cells(state, at, names) for at in layout.slot)
        new_slot = {old: new + 1 for new, (_, old) in enumerate(slots)}
        out: Cells = []
        for old in vm_order:
            out += self._vm_cells(state, layout.vm[old], names)
        for old in file_order:
            out += self._file_cells(state, layout.file[old], names, new_slot)
        for old in inode_order:
            out += self._inode_cells(state, old, names)
        for cells, _ in slots:
            out += cells
        for old in order.vm_records:
            out += self._extra_cells(state, self._of_vm_record, layout.vm_record[old], names)
        for old in order.file_records:
            out += self._extra_cells(state, self._of_file_record, layout.file_record[old], names)
        return bytes(out)

    def _vm_cells(self, state: State, at: int, names: _Names) -> list[int]:
        out = [state[at], state[at + REFS], names.machine[state[at + VM_MACHINE]]]
        out += [state[at + VM_HANDLES + p] for p in names.processes]
        if self._of_vm:
            out += self._extra_cells(state, self._of_vm, at, names)
        return out

    def _file_cells(
        self, state: State, at: int, names: _Names, new_slot: dict[int, int]
    ) -> list[int]:
        layout = self.layout
        own = state[at + FILE_INODE]
        out = [state[at], state[at + REFS], names.vm[state[at + FILE_VM]], names.inode[own]]
        out += [state[at + FILE_HANDLES + p] for p in names.processes]
        out += [state[at + layout.mappings + p] for p in names.processes]
        bound = [0] * layout.universe.pages
        for i in range(layout.universe.pages):
            target = state[at + layout.bindings + i]
            bound[names.page[own - 1][i] if own else i] = new_slot[target] if target else 0
        out += bound
        if self._of_file:
            out += self._extra_cells(state, self._of_file, at, names)
        return out

    def _inode_cells(self, state: State, old: int, names: _Names) -> list[int]:
        at = self.layout.inode[old]
        out = [state[at], names.machine[state[at + INODE_OWNER]]]
        tags = [0] * self.layout.universe.pages
        for i, new in enumerate(names.page[old]):
            tags[new] = names.machine[state[at + INODE_TAGS + i]]
        out += tags
        if self._of_inode:
            out += self._extra_cells(state, self._of_inode, at, names, old)
        return out

    def _extra_cells(
        self,
        state: State,
        extras: list[tuple[Extra, int]],
        at: int,
        names: _Names,
        inode: int = -1,
    ) -> list[int]:
        """The extras of the object at `at`, under new names; `inode` is the old number of one."""
        out: list[int] = []
        for extra, offset in extras:
            first = at + offset
            if extra.each is Each.PER_PAGE:
                pages = [0] * self.layout.universe.pages
                for old, new in enumerate(names.page[inode]):
                    pages[new] = state[first + old]
                out += pages
            elif extra.each is Each.PER_PROCESS:
                out += [state[first + p] for p in names.processes]
            else:
                out.append(names.of(extra.names, state[first]))
        return out

    def _machine_names(self, state: State, order: _Order) -> list[int]:
        """New numbers of virtual machines: in the order of their first VMs, then of records."""
        layout = self.layout
        names = [0] * (layout.ghost + 1)
        names[layout.ghost] = layout.ghost
        used = 0
        places = [layout.vm[old] + VM_MACHINE for old in order.vms]
        places += [layout.vm_record[old] + layout.record_machine for old in order.vm_records]
        for place in places:
            machine = state[place]
            if machine and not names[machine]:
                used += 1
                names[machine] = used
        return names

    def _page_names(
        self, state: State, vm: list[int], machine: list[int], file: list[int]
    ) -> list[list[int]]:
        """For each inode: the new number of each page, by what is in it and bound to it."""
        layout = self.layout
        pages = layout.universe.pages
        names = []
        straight = list(range(pages))
        extras = [offset for each, offset in self._of_inode if each.each is Each.PER_PAGE]
        for i, at in enumerate(layout.inode):
            if pages == 1 or not state[at + INODE_FILES]:
                names.append(straight)
                continue
            keys = []
            for page in range(pages):
                bound = []
                mapped = 1 + i * pages + page
                for slot in layout.slot:
                    own = state[slot + SLOT_FILE]
                    here = (
                        own
                        and state[slot + SLOT_PAGE] == page
                        and state[layout.file[own - 1] + FILE_INODE] == i + 1
                    )
                    if here or state[slot + SLOT_MAPPING] == mapped:
                        bound.append(
                            (vm[state[slot]], file[own], state[slot + SLOT_MAPPING] == mapped)
                        )
                bound.sort()
                marks = [state[at + offset + page] for offset in extras] if extras else extras
                keys.append((-machine[state[at + INODE_TAGS + page]], marks, bound, page))
            order = [key[3] for key in sorted(keys)]
            names.append([order.index(page) for page in range(pages)])
        return names

    def _slot_cells(self, state: State, at: int, names: _Names) -> tuple[list[int], int]:
        """A slot's cells under new names, with its old number for the bindings that name it."""
        layout = self.layout
        pages = layout.universe.pages
        number = layout.slot.index(at) + 1
        if not state[at + SLOT_VM]:
            return [0, 0, 0, 0], number
        own = state[at + SLOT_FILE]
        where = state[at + SLOT_PAGE]
        if own:
            own_inode = state[layout.file[own - 1] + FILE_INODE]
            where = names.page[own_inode - 1][where] if own_inode else where
        mapping = state[at + SLOT_MAPPING]
        if mapping:
            old_inode, old_page = divmod(mapping - 1, pages)
            mapping = names.inode[old_inode + 1] - 1
            mapping = 1 + mapping * pages + names.page[old_inode][old_page]
        return [names.vm[state[at]], names.file[own], where, mapping], number


def _orders(keys: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Every order of the indices that sorts by `keys`: equal keys in every order."""
    if len(keys) == 1:
        return [(0,)]
    if len(keys) == 2:
        first, second = keys
        if first < second:
            return [(0, 1)]
        return [(1, 0)] if second < first else [(0, 1), (1, 0)]
    return [
        order
        for order in permutations(range(len(keys)))
        if all(keys[a] <= keys[b] for a, b in pairwise(order))
    ]
