# SPDX-License-Identifier: MIT
"""Starts of races, the tasks that run at the same time, and what keeps them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

from pyvmm.lifetime import locks
from pyvmm.lifetime.locks import (
    BOTH_PAGES,
    FILE,
    INODE,
    SECOND_PAGE,
    SIZE,
    SLOT,
    VM,
    Cells,
    Protection,
)
from pyvmm.lifetime.race_tasks import Act, Failure, Task
from pyvmm.lifetime.steps import Locking

STARTS = ("unbound", "bound", "mapped", "half-closed", "vcpu-only", "twice", "linked")
"""unbound: a file of vm0, nothing bound. bound: slot0 of vm0 is bound to it. mapped: and the guest
maps its page. half-closed: the same with the descriptor closed whose object the other side keeps
(the VM's where files pin VMs, the file's where slots pin files). vcpu-only: mapped,
and of vm0 only a vCPU's descriptor is open. twice: slot0 and slot1 of vm0 are
bound to its two pages, and mapped. linked: a second file on the same inode for vm1, both bound and
mapped."""

_MAINLINE = (
    Protection.SLOTS_LOCK,
    Protection.INVALIDATE_LOCK,
    Protection.SRCU_GRACE,
    Protection.FILE_MEMORY,
    Protection.UNLESS_ZERO,
    Protection.RETRY,
    Protection.FILE_PINS,
    Protection.RELEASE_OUTSIDE_SRCU,
    Protection.ROLL_BACK,
    Protection.RELOAD,
    Protection.SAME_FILE,
    Protection.SAME_SLOT,
    Protection.LIST_LOCK,
)
_V11 = (*_MAINLINE, Protection.RCU_GRACE)
PROTECTIONS: Mapping[Locking, tuple[Protection, ...]] = {
    Locking.MAINLINE: _MAINLINE,
    Locking.MAINLINE_BEFORE: _MAINLINE,
    Locking.NEWEST: (*_MAINLINE, Protection.FETCH_ONCE),
    Locking.V11: _V11,
    Locking.V11_ORDER: _V11,
    Locking.PROPOSAL: (
        Protection.SLOTS_LOCK,
        Protection.INVALIDATE_LOCK,
        Protection.SRCU_GRACE,
        Protection.RETRY,
        Protection.SLOTS_FIRST,
        Protection.ROLL_BACK,
        Protection.ROLL_BACK_VM,
        Protection.LIST_LOCK,
    ),
}
"""Protections that each has to keep operations apart."""

_ONE_FILE = (
    Task(Act.BIND, vm=0, slot=0),
    Task(Act.BIND, vm=0, slot=1),
    Task(Act.BIND, vm=1, slot=2),
    Task(Act.BIND, vm=0, slot=1, pages=SECOND_PAGE),
    Task(Act.BIND, vm=1, slot=2, pages=SECOND_PAGE),
    Task(Act.UNBIND),
    Task(Act.CLOSE_FILE),
    Task(Act.CLOSE_VM),
    Task(Act.GUEST),
    Task(Act.PUNCH),
)
_TWO_BINDINGS = (
    Task(Act.BIND, vm=1, slot=2),
    Task(Act.UNBIND),
    Task(Act.UNBIND, slot=1),
    Task(Act.CLOSE_FILE),
    Task(Act.CLOSE_VM),
    Task(Act.GUEST),
    Task(Act.GUEST, slot=1),
    Task(Act.PUNCH),
)
_TWO_FILES = (
    Task(Act.UNBIND),
    Task(Act.UNBIND, vm=1, slot=1),
    Task(Act.CLOSE_FILE),
    Task(Act.CLOSE_FILE, file=1),
    Task(Act.CLOSE_VM),
    Task(Act.CLOSE_VM, vm=1),
    Task(Act.GUEST),
    Task(Act.PUNCH),
    Task(Act.PUNCH, file=1),
)


_NOTHING_BOUND = (
    *_ONE_FILE,
    *(Task(Act.BIND, slot=1, pages=BOTH_PAGES, fails=failure) for failure in Failure),
)
_ONE_VCPU = (
    Task(Act.BIND, vm=1, slot=2, pages=SECOND_PAGE),
    Task(Act.CLOSE_FILE),
    Task(Act.CLOSE_VCPU),
    Task(Act.GUEST),
    Task(Act.PUNCH),
)
_TASKS = {
    "unbound": _NOTHING_BOUND,
    "vcpu-only": _ONE_VCPU,
    "twice": _TWO_BINDINGS,
    "linked": _TWO_FILES,
}
_AT_MOST_ONE = {
    Task(Act.MEMORY_ERROR): STARTS,
    Task(Act.REOPEN, vm=1): ("bound", "mapped", "half-closed"),
    Task(Act.LINK, vm=1): ("bound", "mapped"),
    Task(Act.POPULATE): ("bound",),
}
"""Tasks of which a scenario has one at most, and the starts from which they are raced."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A start by name, and the tasks that run at the same time."""

    start: str
    tasks: tuple[Task, ...]

    def __str__(self) -> str:
        return f"{self.start}: " + " | ".join(map(str, self.tasks))


def start_cells(name: str, locking: Locking, held: frozenset[Protection]) -> Cells:
    """The cells of a start, where the protections in `held` were not dropped."""
    pins = locking is Locking.PROPOSAL
    w = Cells(SIZE)
    for at in VM:
        w[at : at + 4] = (locks.V_LIVE, 1, 1, locks.NONE_IN_PROGRESS)
    for f in range(2 if name == "linked" else 1):
        w[FILE[f] : FILE[f] + 3] = (locks.F_LIVE, 1, 1)
        w[INODE[0] + locks.I_FILES] += 1
        if not pins:
            w[FILE[f] + locks.F_VM] = f + 1
            w[VM[f] + locks.V_REFS] += Protection.FILE_PINS in held
        if name != "unbound":
            _bound(w, f, f, name != "bound", pins)
    if name == "twice":
        _bound(w, 0, 1, True, pins)
    if name == "half-closed" and (pins or Protection.FILE_PINS in held):
        fd, refs = (
            (FILE[0] + locks.F_FD, FILE[0] + locks.F_REFS)
            if pins
            else (VM[0] + locks.V_FD, VM[0] + locks.V_REFS)
        )
        w[fd] = 0
        w[refs] -= 1
    if name == "vcpu-only":
        w[VM[0] + locks.V_FD], w[VM[0] + locks.V_VCPU] = 0, 1
    return w


def _bound(w: Cells, f: int, s: int, mapped: bool, pins: bool) -> None:
    """A slot of the file's VM is bound: a second one of file0 to its second page."""
    page = int(s > f)
    w[SLOT[s] : SLOT[s] + locks.SLOT_CELLS] = locks.slot_cells(
        locks.S_VISIBLE, f + 1, f + 1, 1 << page
    )
    if mapped:
        w[SLOT[s] + locks.S_MAPPING] = locks.mapping_of(w, w[FILE[f] + locks.F_INODE], page)
    w[FILE[f] + locks.F_BINDINGS + page] = s + 1
    w[FILE[f] + locks.F_VM] = f + 1
    w[FILE[f] + locks.F_REFS] += pins


def tasks_of(start: str) -> tuple[Task, ...]:
    """The tasks that are raced from a start."""
    return _TASKS.get(start, _ONE_FILE)


def scenarios(
    sizes: Iterable[int] = (1, 2, 3), starts: Iterable[str] = STARTS
) -> Iterator[Scenario]:
    """Every multiset of so many tasks, from every start, with at most one of the rarer ones."""
    starts = tuple(starts)
    for size in sizes:
        for start in starts:
            tasks = tasks_of(start)
            for chosen in combinations_with_replacement(tasks, size):
                yield Scenario(start, chosen)
            for rarer, of_starts in _AT_MOST_ONE.items():
                if start not in of_starts:
                    continue
                for chosen in combinations_with_replacement(tasks, size - 1):
                    yield Scenario(start, (*chosen, rarer))
