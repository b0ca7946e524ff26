# SPDX-License-Identifier: MIT
"""A state of a universe as a string of bytes, and where what is in it.

Indices are stored one higher, so that 0 is "none". Memory belongs to a *virtual machine* (an ASID,
an HKID), which one or several VMs (``struct kvm``) share: a migration's helper or target is made as
a further VM of the same one. A virtual machine ends with its last VM. A page's tag is 0 for zeroes,
``1 + m`` for what was written under virtual machine `m`, and `Layout.ghost` for what was written
under one that has ended: a number that is used again is not the one that had it before.

::

    VM      alive, references, virtual machine, descriptors of each process
    file    alive, references, VM pointer, inode, descriptors.., mappings.., binding of each page
    inode   files, owner (a virtual machine), tag of each page
    slot    VM, file, page, guest mapping: 0, or 1 + inode * pages + page
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, permutations, product
from typing import NamedTuple

from pyvmm.lifetime.universe import Universe

State = bytes
Cells = list[int]
"""A state while it is being changed."""

ALIVE, REFS = 0, 1
VM_MACHINE = 2
VM_HANDLES = 3
FILE_VM, FILE_INODE = 2, 3
FILE_HANDLES = 4
INODE_FILES, INODE_OWNER = 0, 1
INODE_TAGS = 2
SLOT_VM, SLOT_FILE, SLOT_PAGE, SLOT_MAPPING = 0, 1, 2, 3
SLOT_CELLS = 4


@dataclass(frozen=True)
class Layout:
    """Offsets in a state at which the objects of `universe` begin."""

    universe: Universe
    vm: tuple[int, ...] = field(init=False)
    file: tuple[int, ...] = field(init=False)
    inode: tuple[int, ...] = field(init=False)
    slot: tuple[int, ...] = field(init=False)
    mappings: int = field(init=False)
    bindings: int = field(init=False)
    ghost: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        u = self.universe
        at = 0
        for name, count, cells in (
            ("vm", u.vms, VM_HANDLES + u.processes),
            ("file", u.files, FILE_HANDLES + 2 * u.processes + u.pages),
            ("inode", u.files, INODE_TAGS + u.pages),
            ("slot", u.slots, SLOT_CELLS),
        ):
            object.__setattr__(self, name, tuple(at + i * cells for i in range(count)))
            at += count * cells
        object.__setattr__(self, "size", at)
        object.__setattr__(self, "mappings", FILE_HANDLES + u.processes)
        object.__setattr__(self, "bindings", FILE_HANDLES + 2 * u.processes)
        object.__setattr__(self, "ghost", 1 + u.vms)

    @property
    def initial(self) -> State:
        """Nothing exists."""
        return bytes(self.size)


class _Names(NamedTuple):
    """New numbers by old ones."""

    vm: list[int]
    file: list[int]
    inode: list[int]
    page: list[list[int]]


@dataclass
class Canonical:
    """Renames objects so that states that differ in names only become one state.

    VMs, files with their inodes, slots, the pages of an inode and processes are interchangeable
    as long as slots and bindings agree. Where a fault lets them disagree, `renames` is False: every
    state stands for itself.
    """

    layout: Layout
    renames: bool = True
    known: dict[State, State] = field(default_factory=dict)

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
                self._renamed(state, vm_order, file_order, processes)
                for vm_order, file_order in product(vms, files)
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

    def _renamed(
        self,
        state: State,
        vm_order: tuple[int, ...],
        file_order: tuple[int, ...],
        processes: tuple[int, ...],
    ) -> State:
        """`state` with VM ``vm_order[i]`` called i, and so on; inodes, pages and slots sorted."""
        layout = self.layout
        u = layout.universe
        vm = [0] * (u.vms + 2)
        for new, old in enumerate(vm_order):
            vm[old + 1] = new + 1
        machine = self._machine_names(state, vm_order)
        file = [0] * (u.files + 1)
        inode_order: list[int] = []
        for new, old in enumerate(file_order):
            file[old + 1] = new + 1
            own = state[layout.file[old] + FILE_INODE]
            if own and own - 1 not in inode_order:
                inode_order.append(own - 1)
        inode_order += [i for i in range(u.files) if i not in inode_order]
        inode = [0] * (u.files + 1)
        for new, old in enumerate(inode_order):
            inode[old + 1] = new + 1
        page = self._page_names(state, vm, machine, file)
        names = _Names(vm, file, inode, page)
        slots = sorted(self._slot_cells(state, at, names) for at in layout.slot)
        new_slot = {old: new + 1 for new, (_, old) in enumerate(slots)}
        out: Cells = []
        for old in vm_order:
            at = layout.vm[old]
            out += [state[at], state[at + REFS], machine[state[at + VM_MACHINE]]]
            out += [state[at + VM_HANDLES + p] for p in processes]
        for old in file_order:
            at = layout.file[old]
            own = state[at + FILE_INODE]
            out += [state[at], state[at + REFS], vm[state[at + FILE_VM]], inode[own]]
            out += [state[at + FILE_HANDLES + p] for p in processes]
            out += [state[at + layout.mappings + p] for p in processes]
            bound = [0] * u.pages
            for i in range(u.pages):
                target = state[at + layout.bindings + i]
                bound[page[own - 1][i] if own else i] = new_slot[target] if target else 0
            out += bound
        for old in inode_order:
            at = layout.inode[old]
            out += [state[at], machine[state[at + INODE_OWNER]]]
            tags = [0] * u.pages
            for i in range(u.pages):
                tags[page[old][i]] = machine[state[at + INODE_TAGS + i]]
            out += tags
        for cells, _ in slots:
            out += cells
        return bytes(out)

    def _machine_names(self, state: State, vm_order: tuple[int, ...]) -> list[int]:
        """New numbers of virtual machines: in the order of their first VMs."""
        layout = self.layout
        names = [0] * (layout.universe.vms + 2)
        names[layout.ghost] = layout.ghost
        used = 0
        for old in vm_order:
            machine = state[layout.vm[old] + VM_MACHINE]
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
                keys.append((-machine[state[at + INODE_TAGS + page]], bound, page))
            order = [key[2] for key in sorted(keys)]
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
