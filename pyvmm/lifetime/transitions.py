# SPDX-License-Identifier: MIT
"""Follows a design: what an operation does to a state, with its outcome.

The system decides nothing by itself: refusals come from `pyvmm.rules`, effects from the design's
`Lifecycle`. Whatever breaks while an effect runs (something freed is used, a guest's mapping loses
its page) is a fault of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyvmm.errors import UsageError
from pyvmm.lifetime.bodies import Bodies
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.layout import (
    FILE_HANDLES,
    FILE_INODE,
    FILE_VM,
    INODE_OWNER,
    INODE_TAGS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    VM_HANDLES,
    VM_MACHINE,
    Cells,
    State,
)
from pyvmm.lifetime.operations import Kind, Operation, operations
from pyvmm.lifetime.questions import (
    Binding,
    binding_refusal,
    host_sees,
    moving_refusal,
    served_offset,
)
from pyvmm.lifetime.universe import Universe
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.lifecycle import Event

OK = "ok"


class Step(NamedTuple):
    """Result of an operation: its outcome, the state after it, and what broke."""

    outcome: str
    state: State
    faults: tuple[str, ...]


class TransitionSystem:
    """A design over a universe."""

    def __init__(self, design: Design, universe: Universe) -> None:
        self.design = design
        self.universe = universe
        self.bodies = Bodies(design.lifecycle, universe)
        self.layout = self.bodies.layout
        self.operations = tuple(operations(universe, design.system_creation))
        self._do: dict[Kind, Callable[[Cells, Operation], str | None]] = {
            Kind.CREATE_VM: self._create_vm,
            Kind.JOIN_VM: self._join_vm,
            Kind.CREATE_FILE: self._create_file,
            Kind.CREATE_UNOWNED: self._create_file,
            Kind.LINK: self._link,
            Kind.LINK_UNOWNED: self._link,
            Kind.BIND: self._bind,
            Kind.UNBIND: self._unbind,
            Kind.MOVE: self._move,
            Kind.DUP_VM: self._dup_vm,
            Kind.DUP_FILE: self._dup_file,
            Kind.CLOSE_VM: self._close_vm,
            Kind.CLOSE_FILE: self._close_file,
            Kind.MAP: self._map,
            Kind.UNMAP: self._unmap,
            Kind.FORK: self._fork,
            Kind.EXIT: self._exit,
            Kind.GUEST_READ: self._guest_read,
            Kind.GUEST_WRITE: self._guest_write,
            Kind.HOST_READ: self._host_read,
            Kind.PUNCH: self._punch,
        }
        self._table = [(i, each, self._do[each.kind]) for i, each in enumerate(self.operations)]

    @property
    def initial(self) -> State:
        """Nothing exists."""
        return self.layout.initial

    def steps(self, state: State) -> list[tuple[Operation, Step]]:
        """Every operation that can be attempted in `state`, with what it does."""
        return [
            (self.operations[index], Step(outcome, raw, faults))
            for index, outcome, raw, faults in self.moves(state)
        ]

    def moves(self, state: State) -> Iterator[tuple[int, str, State, tuple[str, ...]]]:
        """As `steps`, quicker: the index in `operations`, outcome, state, faults."""
        broken = self.bodies.faults
        for index, operation, do in self._table:
            cells = list(state)
            outcome = do(cells, operation)
            if broken:
                faults = tuple(broken)
                broken.clear()
                if outcome is not None:
                    yield index, outcome, bytes(cells), faults
            elif outcome is not None:
                yield index, outcome, bytes(cells), ()

    def step(self, state: State, operation: Operation) -> Step:
        """Do one operation. Raises `UsageError` where it cannot even be attempted."""
        cells = list(state)
        outcome = self._do[operation.kind](cells, operation)
        faults = tuple(self.bodies.faults)
        self.bodies.faults.clear()
        if outcome is None:
            raise UsageError(f"do '{operation}'", "who would do it lacks what it takes for it")
        return Step(outcome, bytes(cells), faults)

    # Creating

    def _create_vm(self, cells: Cells, op: Operation) -> str | None:
        return self._new_vm(cells, op, None)

    def _join_vm(self, cells: Cells, op: Operation) -> str | None:
        of = self.layout.vm[op.of]
        if not cells[of + VM_HANDLES + op.process]:
            return None
        return self._new_vm(cells, op, cells[of + VM_MACHINE])

    def _new_vm(self, cells: Cells, op: Operation, machine: int | None) -> str | None:
        """A VM of this virtual machine; None: of a new one."""
        at = self.layout.vm[op.vm]
        if cells[at] or any(not cells[lower] for lower in self.layout.vm[: op.vm]):
            return None  # the lowest free number is taken
        cells[at] = 1
        cells[at + 1] = 1
        cells[at + VM_MACHINE] = machine or self.bodies.free_machine(cells)
        cells[at + VM_HANDLES + op.process] = 1
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
        return self._new_file(cells, op, v, f=op.file, inode=inode)

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
        if v is not None and not self.design.links_strangers:
            of = self.layout.vm[cells[at + FILE_VM] - 1]
            if cells[of + VM_MACHINE] != cells[self.layout.vm[v] + VM_MACHINE]:
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

    # Slots

    def _bind(self, cells: Cells, op: Operation) -> str | None:
        layout = self.layout
        vm_at, file_at, slot_at = layout.vm[op.vm], layout.file[op.file], layout.slot[op.slot]
        if not self._some_process(cells, vm_at + VM_HANDLES, file_at + FILE_HANDLES):
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
        binding = Binding(op.slot, op.page, self.universe.pages, op.vm + 1, of, occupied, bound)
        refusal = binding_refusal(self.design.profile, binding)
        if refusal is not None:
            return refusal
        self.bodies.run(Event.BIND, cells, v=op.vm, f=op.file, s=op.slot, page=op.page)
        return OK

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
        v = self._running(cells, op.slot)
        if v is None:
            return None
        self.bodies.unbind(cells, op.slot)
        return OK

    def _move(self, cells: Cells, op: Operation) -> str | None:
        if self._running(cells, op.slot) is None:
            return None
        return moving_refusal(self.design.profile, op.slot) or OK

    # Descriptors, mappings, processes

    def _dup_vm(self, cells: Cells, op: Operation) -> str | None:
        return self._dup(cells, self.layout.vm[op.vm], VM_HANDLES + op.process)

    def _dup_file(self, cells: Cells, op: Operation) -> str | None:
        return self._dup(cells, self.layout.file[op.file], FILE_HANDLES + op.process)

    def _dup(self, cells: Cells, at: int, handles: int) -> str | None:
        if not 0 < cells[at + handles] < self.universe.handles:
            return None
        cells[at + handles] += 1
        cells[at + 1] += 1
        return OK

    def _close_vm(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.vm[op.vm] + VM_HANDLES + op.process
        if not cells[at]:
            return None
        cells[at] -= 1
        self.bodies.drop_vm(cells, op.vm)
        return OK

    def _close_file(self, cells: Cells, op: Operation) -> str | None:
        return self._drop(cells, op.file, FILE_HANDLES + op.process)

    def _map(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        mapping = at + self.layout.mappings + op.process
        if not cells[at + FILE_HANDLES + op.process] or cells[mapping]:
            return None
        cells[mapping] = 1
        cells[at + 1] += 1
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
        places = [(at, VM_HANDLES) for at in self.layout.vm]
        places += [(at, FILE_HANDLES) for at in self.layout.file]
        places += [(at, self.layout.mappings) for at in self.layout.file]
        if any(cells[at + held + child] for at, held in places):
            return None
        if not any(cells[at + held + parent] for at, held in places):
            return None
        for at, held in places:
            count = cells[at + held + parent]
            cells[at + held + child] = count
            cells[at + 1] += count
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
            while cells[at + VM_HANDLES + p]:
                cells[at + VM_HANDLES + p] -= 1
                self.bodies.drop_vm(cells, v)
                done = OK
        return done

    # Accesses

    def _guest_read(self, cells: Cells, op: Operation) -> str | None:
        v = self._running(cells, op.slot)
        return None if v is None else self._access(cells, op.slot, write=False)

    def _guest_write(self, cells: Cells, op: Operation) -> str | None:
        v = self._running(cells, op.slot)
        return None if v is None else self._access(cells, op.slot, write=True)

    def _access(self, cells: Cells, s: int, *, write: bool) -> str | None:
        layout = self.layout
        at = layout.slot[s]
        mapping = cells[at + SLOT_MAPPING]
        if not mapping:
            offset = served_offset(bool(cells[at + SLOT_FILE]), cells[at + SLOT_PAGE], write)
            if offset is None:
                return "EFAULT"
            file_at = layout.file[cells[at + SLOT_FILE] - 1]
            inode = cells[file_at + FILE_INODE] - 1
            mapping = 1 + inode * self.universe.pages + offset // PAGE_SIZE
        inode, page = divmod(mapping - 1, self.universe.pages)
        tag_at = layout.inode[inode] + INODE_TAGS + page
        if write:
            if not cells[tag_at] and self.bodies.secrets(cells) >= self.universe.secrets:
                return None
            cells[tag_at] = cells[layout.vm[cells[at] - 1] + VM_MACHINE]
        cells[at + SLOT_MAPPING] = mapping
        return OK if write else self._sees(cells[tag_at])

    def _host_read(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        p = self.layout.mappings
        if not any(cells[at + p : at + p + self.universe.processes]):
            return None
        if not host_sees(op.page, self.universe.pages):
            return "SIGBUS"
        inode = self.layout.inode[cells[at + FILE_INODE] - 1]
        return self._sees(cells[inode + INODE_TAGS + op.page])

    def _punch(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        if not any(cells[at + FILE_HANDLES : at + FILE_HANDLES + self.universe.processes]):
            return None
        inode = cells[at + FILE_INODE] - 1
        self.bodies.run(Event.PUNCH_HOLE, cells, f=op.file, inode=inode, page=op.page)
        return OK

    def _sees(self, tag: int) -> str:
        if not tag:
            return "zeroes"
        return "a freed VM's page" if tag == self.layout.ghost else f"vm{tag - 1}'s page"

    def _running(self, cells: Cells, s: int) -> int | None:
        """The VM of a slot, where some process holds it: else nobody can run it or ask it."""
        v = cells[self.layout.slot[s]] - 1
        if v < 0:
            return None
        at = self.layout.vm[v] + VM_HANDLES
        return v if any(cells[at : at + self.universe.processes]) else None

    def _some_process(self, cells: Cells, one: int, other: int) -> bool:
        """Tell whether one process holds both."""
        return any(cells[one + p] and cells[other + p] for p in range(self.universe.processes))
