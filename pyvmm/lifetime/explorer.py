# SPDX-License-Identifier: MIT
"""Every state of a universe, breadth first: counts, and the shortest way to what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pyvmm.errors import InternalError
from pyvmm.lifetime.canonical import Canonical
from pyvmm.lifetime.checks import World
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.properties import Property, properties_of
from pyvmm.lifetime.story import Story, Told
from pyvmm.lifetime.transitions import Step, TransitionSystem
from pyvmm.lifetime.universe import Universe

Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with the number of states seen and of those still to be looked at."""

PROGRESS_EVERY = 1024


@dataclass(frozen=True, slots=True)
class Exploration:
    """Result of an exploration.

    `stories` has the shortest counterexample of each property that does not hold; for a
    possibility: the shortest way to it. `operations` counts transitions by kind and outcome.
    """

    design: Design
    universe: Universe
    states: int
    transitions: int
    depth: int
    operations: Mapping[tuple[Kind, str], int]
    stories: Mapping[str, Story]
    checked: tuple[str, ...]

    def holds(self, name: str) -> bool:
        """Tell whether a property that was checked holds in every state and step."""
        if name not in self.checked:
            raise InternalError(f"say whether {name} holds", "this exploration did not check it")
        return name not in self.stories


@dataclass
class _Search:
    system: TransitionSystem
    world: World
    properties: Sequence[Property]
    came_from: dict[State, tuple[State, Operation] | None] = field(default_factory=dict)
    found: dict[str, tuple[State, Operation | None, str]] = field(default_factory=dict)

    def look_at(self, state: State) -> None:
        """Check a new state."""
        for each in self.properties:
            if each.state is not None and each.name not in self.found:
                wrong = each.state(self.world, state)
                if wrong is not None:
                    self.found[each.name] = (state, None, wrong)


def explore(
    design: Design,
    universe: Universe,
    *,
    properties: Sequence[Property] | None = None,
    progress: Progress | None = None,
    intended: Design | None = None,
    stop_early: bool = False,
) -> Exploration:
    """Visit every state to closure and check `properties`: all that the universe has, if None.

    `intended` is the design that `design` is a broken variant of, if it is one: then states are not
    renamed. `stop_early` ends
    as soon as one property fails: for seeded faults.
    """
    if properties is None:
        properties = properties_of(universe)
    system = TransitionSystem(design, universe)
    canonical = Canonical(system.layout, renames=intended is None)
    world = World.of(design.lifecycle, system.layout, (intended or design).lifecycle)
    search = _Search(system, world, properties)
    by_operation = [[p for p in properties if op.kind in p.kinds] for op in system.operations]
    start = canonical.of(system.initial)
    search.came_from[start] = None
    level, depth = [start], 0
    counted: dict[tuple[int, str], int] = {}
    came_from, found, known = search.came_from, search.found, canonical.known
    while level and not (stop_early and search.found):
        following: list[State] = []
        for number, state in enumerate(level):
            if progress is not None and number % PROGRESS_EVERY == 0:
                progress(len(came_from), len(level) - number + len(following))
            for index, outcome, raw, faults in system.moves(state):
                key = (index, outcome)
                counted[key] = counted.get(key, 0) + 1
                if faults:
                    _blame(search, state, system.operations[index], faults)
                for each in by_operation[index]:
                    if each.name not in found and each.step is not None:
                        operation = system.operations[index]
                        wrong = each.step(world, state, operation, outcome, raw)
                        if wrong is not None:
                            found[each.name] = (state, operation, wrong)
                if raw == state:
                    continue
                reached = known.get(raw) or canonical.of(raw)
                if reached not in came_from:
                    came_from[reached] = (state, system.operations[index])
                    following.append(reached)
                    search.look_at(reached)
        level = following
        depth += bool(level)
    stories = {name: _tell(search, canonical, name, where) for name, where in search.found.items()}
    return Exploration(
        design,
        universe,
        len(search.came_from),
        sum(counted.values()),
        depth,
        _by_kind(system, counted),
        stories,
        tuple(each.name for each in properties),
    )


def _by_kind(
    system: TransitionSystem, counted: Mapping[tuple[int, str], int]
) -> dict[tuple[Kind, str], int]:
    """Transitions by kind and by outcome: "ok", or how it was refused."""
    found: Counter[tuple[Kind, str]] = Counter()
    for (index, outcome), times in counted.items():
        kind = system.operations[index].kind
        found[kind, outcome if outcome.isupper() else "ok"] += times
    return dict(found)


def _blame(search: _Search, state: State, operation: Operation, faults: tuple[str, ...]) -> None:
    """Put down a step's faults to the properties that they violate."""
    for each in search.properties:
        if each.name not in search.found:
            for fault in faults:
                if fault in each.faults:
                    search.found[each.name] = (state, operation, fault)
                    break


def _tell(
    search: _Search,
    canonical: Canonical,
    name: str,
    where: tuple[State, Operation | None, str],
) -> Story:
    """The way to where it was found, told under names that stay the same throughout."""
    state, last, wrong = where
    path: list[State] = [state]
    origin = search.came_from[state]
    while origin is not None:
        path.append(origin[0])
        origin = search.came_from[origin[0]]
    path.reverse()
    system = search.system
    now = system.initial
    told: list[Told] = []
    for target in path[1:]:
        operation, step = _towards(system, canonical, now, target)
        told.append(Told(operation, step.outcome, step.faults))
        now = step.state
    prop = next(each for each in search.properties if each.name == name)
    if last is not None:
        final, wrong = _last_step(search, prop, now, last.kind)
        told.append(final)
    elif prop.state is not None:
        wrong = prop.state(search.world, now) or wrong
    return Story(system.design.name, system.universe, name, tuple(told), wrong)


def _towards(
    system: TransitionSystem, canonical: Canonical, now: State, target: State
) -> tuple[Operation, Step]:
    """A step from `now` to a state that `target` stands for."""
    for operation, step in system.steps(now):
        if canonical.of(step.state) == target:
            return operation, step
    raise InternalError("tell a story", "a state does not behave like the one it stands for")


def _last_step(search: _Search, prop: Property, now: State, kind: Kind) -> tuple[Told, str]:
    """The step of this kind that violates `prop`, and how."""
    for operation, step in search.system.steps(now):
        if operation.kind is not kind:
            continue
        wrong = next((fault for fault in step.faults if fault in prop.faults), None)
        if wrong is None and prop.step is not None and kind in prop.kinds:
            wrong = prop.step(search.world, now, operation, step.outcome, step.state)
        if wrong is not None:
            return Told(operation, step.outcome, step.faults), wrong
    raise InternalError("tell a story", "a state does not behave like the one it stands for")
