# SPDX-License-Identifier: MIT
"""Every interleaving of a few operations: what goes wrong, and how little it takes.

A scenario is a start and two or three tasks. All orders of their steps are followed, breadth first,
so that the schedule told is a shortest one; a step that does harm ends its schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TypeAlias

from pyvmm.lifetime import locks
from pyvmm.lifetime.endings import Locking, Program
from pyvmm.lifetime.locks import (
    BLOCKED,
    FILE,
    INODE,
    SIZE,
    SLOT,
    T_AT,
    THREAD,
    VM,
    Cells,
    Floor,
    Harm,
    Protection,
)
from pyvmm.lifetime.programs import Act, Task, Writer

Where: TypeAlias = bytes
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of scenarios done and of all."""

STARTS = ("unbound", "bound", "mapped", "half-closed", "linked")
"""unbound: a file of vm0, nothing bound. bound: slot0 of vm0 is bound to it. mapped: and the guest
maps its page. half-closed: the same with the descriptor closed whose object the other side keeps
(the VM's where files pin VMs, the file's where slots pin files). linked: a second file on the same
inode for vm1, both bound and mapped."""

_MAINLINE = (
    Protection.SLOTS_LOCK,
    Protection.INVALIDATE_LOCK,
    Protection.SRCU_GRACE,
    Protection.FILE_MEMORY,
    Protection.UNLESS_ZERO,
    Protection.RETRY,
)
_V11 = (
    Protection.SLOTS_LOCK,
    Protection.INVALIDATE_LOCK,
    Protection.SRCU_GRACE,
    Protection.RCU_GRACE,
    Protection.FILE_MEMORY,
    Protection.UNLESS_ZERO,
    Protection.RETRY,
)
PROTECTIONS: Mapping[Locking, tuple[Protection, ...]] = {
    Locking.MAINLINE: _MAINLINE,
    Locking.MAINLINE_BEFORE: _MAINLINE,
    Locking.V11: _V11,
    Locking.V11_ORDER: _V11,
    Locking.PROPOSAL: (
        Protection.SLOTS_LOCK,
        Protection.INVALIDATE_LOCK,
        Protection.SRCU_GRACE,
        Protection.RETRY,
        Protection.SLOTS_FIRST,
    ),
}
"""Protections that each has to keep operations apart."""

_ONE_FILE = (
    Task(Act.BIND, vm=0, slot=0),
    Task(Act.BIND, vm=0, slot=1),
    Task(Act.BIND, vm=1, slot=2),
    Task(Act.UNBIND),
    Task(Act.CLOSE_FILE),
    Task(Act.CLOSE_VM),
    Task(Act.GUEST),
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


@dataclass(frozen=True, slots=True)
class Scenario:
    """A start by name, and the tasks that run at the same time."""

    start: str
    tasks: tuple[Task, ...]

    def __str__(self) -> str:
        return f"{self.start}: " + " | ".join(map(str, self.tasks))


@dataclass(frozen=True, slots=True)
class Schedule:
    """Schedule by which a scenario comes to harm: (thread, step) in order."""

    scenario: Scenario
    harm: Harm
    steps: tuple[tuple[int, str], ...]

    def lines(self) -> list[str]:
        """The tasks, one line a step in its thread's column, and the harm."""
        letters = [chr(ord("A") + t) for t in range(len(self.scenario.tasks))]
        told = [f"start: {self.scenario.start}"]
        told += [f"{name}: {task}" for name, task in zip(letters, self.scenario.tasks, strict=True)]
        told += [f"{'':{4 * t}}{letters[t]} {step}" for t, step in self.steps]
        return [*told, f"=> {self.harm.value}"]


@dataclass(frozen=True, slots=True)
class Raced:
    """Result of all interleavings of one scenario.

    `schedules` counts complete ones: to the end, to a harm, or to where nobody can go on.
    """

    scenario: Scenario
    states: int
    steps: int
    schedules: int
    harms: Mapping[Harm, Schedule]


@dataclass(frozen=True, slots=True)
class Races:
    """Result of a set of scenarios: the coverage, and a shortest schedule for each harm."""

    locking: Locking
    dropped: frozenset[Protection]
    scenarios: int
    states: int
    steps: int
    schedules: int
    harms: Mapping[Harm, Schedule]
    harmful: tuple[Scenario, ...]


def start_cells(name: str, locking: Locking) -> Cells:
    """The cells of a start."""
    pins = locking is Locking.PROPOSAL
    w = [0] * SIZE
    for at in VM:
        w[at : at + locks.VM_CELLS] = [locks.V_LIVE, 1, 1, locks.NONE_IN_PROGRESS, 0, 0]
    for f in range(2 if name == "linked" else 1):
        w[FILE[f] : FILE[f] + locks.FILE_CELLS] = [locks.F_LIVE, 1, 1, 0, 0, 0]
        w[INODE[0] + locks.I_FILES] += 1
        if not pins:
            w[FILE[f] + locks.F_VM] = f + 1
            w[VM[f] + locks.V_REFS] += 1
        if name != "unbound":
            mapping = 0 if name == "bound" else 1
            w[SLOT[f] : SLOT[f] + locks.SLOT_CELLS] = [locks.S_VISIBLE, f + 1, f + 1, mapping]
            w[FILE[f] + locks.F_BINDING] = f + 1
            w[FILE[f] + locks.F_VM] = f + 1
            w[FILE[f] + locks.F_REFS] += pins
    if name == "half-closed":
        fd, refs = (
            (FILE[0] + locks.F_FD, FILE[0] + locks.F_REFS)
            if pins
            else (VM[0] + locks.V_FD, VM[0] + locks.V_REFS)
        )
        w[fd] -= 1
        w[refs] -= 1
    return w


def scenarios(sizes: Iterable[int] = (2, 3), starts: Iterable[str] = STARTS) -> Iterator[Scenario]:
    """Every multiset of so many tasks, from every start; at most one of them an error on a page."""
    starts = tuple(starts)
    for size in sizes:
        for start in starts:
            tasks = _TWO_FILES if start == "linked" else _ONE_FILE
            for chosen in combinations_with_replacement(tasks, size):
                yield Scenario(start, chosen)
            for chosen in combinations_with_replacement(tasks, size - 1):
                yield Scenario(start, (*chosen, Task(Act.MEMORY_ERROR)))


def final_harm(w: Cells) -> Harm | None:
    """Return the harm that is left when all threads are done; None: there is none."""
    return _harm_of_vms(w) or _harm_of_files(w) or _harm_of_slots(w)


def _harm_of_vms(w: Cells) -> Harm | None:
    for at in VM:
        if w[at + locks.V_STATE] == locks.V_LIVE:
            if w[at + locks.V_INVALIDATING] != locks.NONE_IN_PROGRESS:
                return Harm.UNBALANCED
            if not w[at + locks.V_REFS]:
                return Harm.LEFT_OVER
    return None


def _harm_of_files(w: Cells) -> Harm | None:
    for f, at in enumerate(FILE):
        binding = w[at + locks.F_BINDING]
        if w[at + locks.F_STATE] == locks.F_LIVE and not w[at + locks.F_REFS]:
            return Harm.LEFT_OVER
        if binding:
            slot = SLOT[binding - 1]
            if w[slot + locks.S_STATE] != locks.S_VISIBLE or w[slot + locks.S_FILE] != f + 1:
                return Harm.STALE_POINTER
            if w[slot + locks.S_VM] != w[at + locks.F_VM]:
                return Harm.TWO_VMS
    return None


def _harm_of_slots(w: Cells) -> Harm | None:
    for s, at in enumerate(SLOT):
        if w[at + locks.S_MAPPING] and not w[at + locks.S_FILE]:
            return Harm.STALE_MAPPING
        state, v, f = w[at + locks.S_STATE], w[at + locks.S_VM], w[at + locks.S_FILE]
        if state in (locks.S_NEW, locks.S_INVALID):
            return Harm.LEFT_OVER
        if state == locks.S_VISIBLE:
            if w[VM[v - 1] + locks.V_STATE] != locks.V_LIVE:
                return Harm.STALE_POINTER
            if f and w[FILE[f - 1] + locks.F_STATE] != locks.F_LIVE:
                return Harm.STALE_POINTER
            if f and w[FILE[f - 1] + locks.F_BINDING] != s + 1:
                return Harm.TWO_VMS
    return None


def race(
    locking: Locking,
    scenario: Scenario,
    dropped: frozenset[Protection],
    *,
    torn_is_harm: bool = True,
) -> Raced:
    """Follow every interleaving of a scenario, with some protections dropped."""
    held = frozenset(PROTECTIONS[locking]) - dropped
    floor = Floor(held, locking is Locking.PROPOSAL, torn_is_harm)
    writer = Writer(locking, floor)
    programs = [writer.program(task) for task in scenario.tasks]
    start = bytes(start_cells(scenario.start, locking))
    came_from: dict[Where, tuple[Where, int, str] | None] = {start: None}
    following: dict[Where, list[Where | None]] = {}
    harms: dict[Harm, Schedule] = {}
    level, steps = [start], 0
    while level:
        reached: list[Where] = []
        for where in level:
            moves: list[Where | None] = []
            waiting = False
            for t, program in enumerate(programs):
                moved = _move(floor, program, where, t)
                if moved is None:
                    waiting = waiting or where[THREAD[t] + T_AT] < len(program.names)
                    continue
                steps += 1
                name, after = moved
                if floor.harms:
                    for harm in floor.harms:
                        if harm not in harms:
                            harms[harm] = _told(scenario, harm, came_from, where, (t, name))
                    floor.harms.clear()
                    moves.append(None)
                    continue
                moves.append(after)
                if after not in came_from:
                    came_from[after] = (where, t, name)
                    reached.append(after)
            if not moves:
                last = Harm.DEADLOCK if waiting else final_harm(list(where))
                if last is not None and last not in harms:
                    harms[last] = _told(scenario, last, came_from, where, None)
            following[where] = moves
        level = reached
    return Raced(scenario, len(came_from), steps, _paths(following, start), harms)


def _move(floor: Floor, program: Program, where: Where, t: int) -> tuple[str, Where] | None:
    """One step of a thread: its name and the state after it; None where it cannot go."""
    at = where[THREAD[t] + T_AT]
    if at >= len(program.names):
        return None
    w = list(where)
    to = program.bodies[at](w, t)
    if to == BLOCKED and not floor.harms:
        return None
    w[THREAD[t] + T_AT] = at + 1 if to is None or to == BLOCKED else program.labels[to]
    if w[THREAD[t] + T_AT] >= len(program.names):
        w[THREAD[t] + T_AT + 1 : THREAD[t] + locks.THREAD_CELLS] = [0] * (locks.THREAD_CELLS - 1)
    return program.names[at], bytes(each & 0xFF for each in w)


def _paths(following: Mapping[Where, list[Where | None]], start: Where) -> int:
    """Count the complete schedules: every step goes forward, so this ends."""
    counted: dict[Where, int] = {}
    order = sorted(following, key=lambda where: -sum(where[at + T_AT] for at in THREAD))
    for where in order:
        moves = following[where]
        counted[where] = sum(1 if to is None else counted[to] for to in moves) if moves else 1
    return counted[start]


def _told(
    scenario: Scenario,
    harm: Harm,
    came_from: Mapping[Where, tuple[Where, int, str] | None],
    where: Where,
    last: tuple[int, str] | None,
) -> Schedule:
    steps = [last] if last is not None else []
    origin = came_from[where]
    while origin is not None:
        where, t, name = origin
        steps.append((t, name))
        origin = came_from[where]
    return Schedule(scenario, harm, tuple(reversed(steps)))


def run_races(
    locking: Locking,
    chosen: Iterable[Scenario],
    *,
    dropped: frozenset[Protection] = frozenset(),
    torn_is_harm: bool = True,
    progress: Progress | None = None,
    stop_early: bool = False,
) -> Races:
    """Follow every interleaving of every scenario; `stop_early`: until something goes wrong."""
    todo = list(chosen)
    states = steps = schedules = done = 0
    harms: dict[Harm, Schedule] = {}
    harmful: list[Scenario] = []
    for scenario in todo:
        if progress is not None:
            progress(done, len(todo))
        raced = race(locking, scenario, dropped, torn_is_harm=torn_is_harm)
        done += 1
        states += raced.states
        steps += raced.steps
        schedules += raced.schedules
        if raced.harms:
            harmful.append(scenario)
        for harm, schedule in raced.harms.items():
            if harm not in harms or len(schedule.steps) < len(harms[harm].steps):
                harms[harm] = schedule
        if harms and stop_early:
            break
    return Races(locking, dropped, done, states, steps, schedules, harms, tuple(harmful))
