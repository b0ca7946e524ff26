# SPDX-License-Identifier: MIT
"""Explorations that judgements rest on, and the judgements as values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.locks import Protection
from pyvmm.lifetime.race_starts import scenarios
from pyvmm.lifetime.races import Races, Schedule, run_races
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.universe import STANDARD, Universe


class Verdict(enum.Enum):
    """Verdict of the runs on a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds only if"
    FAILS = "does not hold"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim in the mail's words, its verdict, the condition where there is one, and why."""

    name: str
    quote: str
    verdict: Verdict
    condition: str
    because: tuple[str, ...]
    stories: tuple[Story, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def lines(self) -> list[str]:
        """The judgement as text; stories and schedules are told by their own `lines`."""
        told = [f'{self.name}: "{self.quote}"', f"  {self.verdict.value} {self.condition}".rstrip()]
        return [*told, *(f"  - {each}" for each in self.because)]


_Raced: TypeAlias = tuple[Locking, frozenset[Protection], bool, tuple[int, ...]]


@dataclass
class Evidence:
    """Runs explorations when they are first asked for, and keeps them.

    `sizes`: how many operations run at the same time in races.
    """

    universe: Universe = STANDARD
    sizes: tuple[int, ...] = (1, 2, 3)
    progress: Callable[[str], None] | None = None
    _explored: dict[tuple[str, Universe], Exploration] = field(default_factory=dict)
    _raced: dict[_Raced, Races] = field(default_factory=dict)

    def explored(self, design: Design) -> Exploration:
        """The sequential exploration of a design."""
        return self.within(design, self.universe)

    def within(self, design: Design, universe: Universe) -> Exploration:
        """The sequential exploration of a design over another universe, one with features."""
        key = (design.name, universe)
        found = self._explored.get(key)
        if found is None:
            where = "" if universe == self.universe else f" in {universe.name}"
            self._tell(f"exploring {design.name}{where}")
            found = self._explored[key] = explore(design, universe)
        return found

    def raced(self, locking: Locking, *dropped: Protection, torn_is_harm: bool = True) -> Races:
        """The interleavings of one locking; with something dropped, of up to two operations.

        `torn_is_harm`: a VM must not be touched once its MMU is torn down.
        """
        sizes = (1, 2) if dropped else self.sizes
        key = (locking, frozenset(dropped), torn_is_harm, sizes)
        found = self._raced.get(key)
        if found is None:
            names = " and ".join(each.name for each in dropped)
            self._tell(f"racing {locking.name}" + (f" without {names}" if names else ""))
            found = run_races(
                locking, scenarios(sizes), dropped=frozenset(dropped), torn_is_harm=torn_is_harm
            )
            self._raced[key] = found
        return found

    def beside(self, universe: Universe, sizes: tuple[int, ...]) -> Evidence:
        """Evidence of another size, which shares the runs that both ask for."""
        return Evidence(universe, sizes, self.progress, self._explored, self._raced)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what)


def counted(found: Exploration) -> str:
    """Tell the size of an exploration in words."""
    return f"{found.design.name}: {found.states} states, {found.transitions} transitions"
