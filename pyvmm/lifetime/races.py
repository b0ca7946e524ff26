# SPDX-License-Identifier: MIT
"""Every interleaving of a few operations: what goes wrong, and how little it takes.

A scenario is a start and two or three tasks. All orders of their steps are followed, breadth first,
so that the schedule told is a shortest one; a step that does harm ends its schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from pyvmm.lifetime import locks
from pyvmm.lifetime.locks import (
    BLOCKED,
    FILE,
    SLOT,
    THREAD,
    THREAD_CELLS,
    VM,
    Cells,
    Floor,
    Harm,
    Protection,
)
from pyvmm.lifetime.programs import Writer
from pyvmm.lifetime.race_starts import PROTECTIONS, Scenario, start_cells
from pyvmm.lifetime.race_tasks import Task
from pyvmm.lifetime.steps import Locking, Program

Where: TypeAlias = bytes
_FORGOTTEN = bytes(THREAD_CELLS - 1)
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of scenarios done and of all."""


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


def final_harm(w: Cells, floor: Floor) -> Harm | None:
    """Return the harm that is left when all threads are done; None: there is none."""
    return (
        _harm_of_vms(w) or _harm_of_files(w) or _harm_of_slots(w) or _harm_of_references(w, floor)
    )


def _harm_of_vms(w: Cells) -> Harm | None:
    for at in VM:
        if w[at + locks.V_STATE] == locks.V_LIVE:
            if w[at + locks.V_INVALIDATING] != locks.NONE_IN_PROGRESS:
                return Harm.UNBALANCED
            if not w[at + locks.V_REFS]:
                return Harm.LEFT_OVER
    return None


def _harm_of_references(w: Cells, floor: Floor) -> Harm | None:
    """Each reference must be held by somebody who can still drop it."""
    for v, at in enumerate(VM):
        holders = w[at + locks.V_FD] + w[at + locks.V_VCPU]
        if not floor.slots_pin_files and floor.has(Protection.FILE_PINS):
            holders += sum(
                w[f + locks.F_VM] == v + 1 and w[f + locks.F_STATE] == locks.F_LIVE for f in FILE
            )
        if w[at + locks.V_STATE] == locks.V_LIVE and w[at + locks.V_REFS] != holders:
            return Harm.LEFT_OVER
    for f, at in enumerate(FILE):
        holders = w[at + locks.F_FD]
        if floor.slots_pin_files:
            holders += sum(w[s + locks.S_FILE] == f + 1 for s in SLOT)
        if w[at + locks.F_STATE] == locks.F_LIVE and w[at + locks.F_REFS] != holders:
            return Harm.LEFT_OVER
    return None


def _harm_of_files(w: Cells) -> Harm | None:
    for f, at in enumerate(FILE):
        if w[at + locks.F_STATE] == locks.F_LIVE and not w[at + locks.F_REFS]:
            return Harm.LEFT_OVER
        v = w[at + locks.F_VM] - 1
        named = w[at + locks.F_STATE] == locks.F_LIVE and v >= 0
        if named and w[VM[v] + locks.V_STATE] != locks.V_LIVE:
            return Harm.STALE_POINTER
        bindings = at + locks.F_BINDINGS
        for binding in w[bindings : bindings + locks.PAGES]:
            if not binding:
                continue
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
            harm = _harm_of_bindings(w, f - 1, s) if f else None
            if harm is not None:
                return harm
    return None


def _harm_of_bindings(w: Cells, f: int, s: int) -> Harm | None:
    """A file must name a slot for every page that the slot has of it."""
    pages = w[SLOT[s] + locks.S_PAGES]
    bindings = FILE[f] + locks.F_BINDINGS
    named = {w[bindings + page] for page in range(locks.PAGES) if pages >> page & 1}
    if named == {s + 1}:
        return None
    return Harm.TWO_VMS if named - {0, s + 1} else Harm.HALF_BOUND


class _Move(NamedTuple):
    """A step that thread `t` can do, with the quiet ones after it: `length` steps in all.

    `forward`: how far its program goes on. `after`: the state then, unless there is harm.
    """

    t: int
    length: int
    forward: int
    after: Where
    harms: tuple[Harm, ...]


class _Search:
    """Follows the interleavings of scenarios under one locking, some protections dropped.

    Every step goes forward in its program, so the sum of the threads' positions orders the states:
    all that lead to a state come before it. Schedules are counted along the way, and only where
    there is harm the way there is looked for, in a second pass.
    """

    def __init__(
        self, locking: Locking, dropped: frozenset[Protection], torn_is_harm: bool
    ) -> None:
        self._locking = locking
        held = frozenset(PROTECTIONS[locking]) - dropped
        self._floor = Floor(held, locking is Locking.PROPOSAL, torn_is_harm)
        self._writer = Writer(locking, self._floor)
        self._written: dict[Task, Program] = {}

    def race(self, scenario: Scenario) -> Raced:
        """Follow every interleaving of a scenario."""
        programs = [self._program(task) for task in scenario.tasks]
        start = bytes(start_cells(scenario.start, self._locking, self._floor.held))
        ahead: dict[int, dict[Where, int]] = {0: {start: 1}}
        states = steps = schedules = 0
        harmful = False
        while ahead:
            reached = min(ahead)
            for where, ways in ahead.pop(reached).items():
                states += 1
                moves, waiting = self._moves(programs, where)
                for move in moves:
                    steps += 1
                    if move.harms:
                        harmful = True
                        schedules += ways
                        continue
                    bucket = ahead.setdefault(reached + move.forward, {})
                    bucket[move.after] = bucket.get(move.after, 0) + ways
                if not moves:
                    schedules += ways
                    harmful = harmful or self._last_harm(where, waiting) is not None
        harms = self._trace(scenario, programs, start) if harmful else {}
        return Raced(scenario, states, steps, schedules, harms)

    def _program(self, task: Task) -> Program:
        program = self._written.get(task)
        if program is None:
            program = self._written[task] = self._writer.program(task)
        return program

    def _moves(self, programs: Sequence[Program], where: Where) -> tuple[list[_Move], bool]:
        """Each thread's next step, where it can go on; and if another waits."""
        moves: list[_Move] = []
        waiting = False
        harms = self._floor.harms
        for t, program in enumerate(programs):
            cell = THREAD[t]
            at = where[cell]
            if at == program.end:
                continue
            w = bytearray(where)
            to = program.bodies[at](w, t)
            if to is BLOCKED and not harms:
                waiting = True
                continue
            now = at + 1 if to is None or to is BLOCKED else program.labels[to]
            length = 1
            while now != program.end and program.quiet[now] and not harms:
                told = program.tells(now)
                to = program.bodies[now](w, t)
                now = now + 1 if to is None else program.labels[to]
                length += told
            if harms:
                moves.append(_Move(t, length, 0, where, tuple(harms)))
                harms.clear()
                continue
            w[cell] = now
            if now == program.end:
                w[cell + 1 : cell + THREAD_CELLS] = _FORGOTTEN
            moves.append(_Move(t, length, now - at, bytes(w), ()))
        return moves, waiting

    def _trace(
        self, scenario: Scenario, programs: Sequence[Program], start: Where
    ) -> dict[Harm, Schedule]:
        """A shortest schedule for each harm."""
        came_from: dict[Where, tuple[Where, int] | None] = {start: None}
        ahead: dict[int, dict[Where, int]] = {0: {start: 0}}
        found: dict[Harm, tuple[int, Where, int | None]] = {}

        def note(harm: Harm, length: int, where: Where, t: int | None) -> None:
            if harm not in found or length < found[harm][0]:
                found[harm] = (length, where, t)

        while ahead:
            reached = min(ahead)
            for where, length in ahead.pop(reached).items():
                moves, waiting = self._moves(programs, where)
                for move in moves:
                    for harm in move.harms:
                        note(harm, length + move.length, where, move.t)
                    if move.harms:
                        continue
                    bucket = ahead.setdefault(reached + move.forward, {})
                    then = length + move.length
                    if bucket.get(move.after, then + 1) > then:
                        bucket[move.after] = then
                        came_from[move.after] = (where, move.t)
                last = self._last_harm(where, waiting) if not moves else None
                if last is not None:
                    note(last, length, where, None)
        return {
            harm: Schedule(scenario, harm, self._told(programs, came_from, where, t))
            for harm, (_, where, t) in found.items()
        }

    def _told(
        self,
        programs: Sequence[Program],
        came_from: Mapping[Where, tuple[Where, int] | None],
        where: Where,
        last: int | None,
    ) -> tuple[tuple[int, str], ...]:
        """The steps to a state, and those that `last` does there."""
        runs: list[list[tuple[int, str]]] = []
        if last is not None:
            runs.append(self._names(programs[last], where, last))
        origin = came_from[where]
        while origin is not None:
            where, t = origin
            runs.append(self._names(programs[t], where, t))
            origin = came_from[where]
        return tuple(step for run in reversed(runs) for step in run)

    def _names(self, program: Program, where: Where, t: int) -> list[tuple[int, str]]:
        """A thread's next step in a state, and the quiet ones after it, by name."""
        w, now = bytearray(where), where[THREAD[t]]
        names: list[tuple[int, str]] = []
        while not names or (now != program.end and program.quiet[now] and not self._floor.harms):
            if program.tells(now):
                names.append((t, program.names[now]))
            to = program.bodies[now](w, t)
            now = now + 1 if to is None or to is BLOCKED else program.labels[to]
        self._floor.harms.clear()
        return names

    def _last_harm(self, where: Where, waiting: bool) -> Harm | None:
        return Harm.DEADLOCK if waiting else final_harm(Cells(where), self._floor)


def race(
    locking: Locking,
    scenario: Scenario,
    dropped: frozenset[Protection],
    *,
    torn_is_harm: bool = True,
) -> Raced:
    """Follow every interleaving of a scenario, with some protections dropped."""
    return _Search(locking, dropped, torn_is_harm).race(scenario)


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
    search = _Search(locking, dropped, torn_is_harm)
    states = steps = schedules = done = 0
    harms: dict[Harm, Schedule] = {}
    harmful: list[Scenario] = []
    for scenario in todo:
        if progress is not None:
            progress(done, len(todo))
        raced = search.race(scenario)
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
