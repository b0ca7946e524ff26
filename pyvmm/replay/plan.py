# SPDX-License-Identifier: MIT
"""Default plan of a replay: every transition, every shortest story."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.adapting import adapted
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Remedy
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.tour import tour
from pyvmm.lifetime.universe import FAMILY, SMALL, STANDARD, Universe
from pyvmm.replay.differences import Difference, Tally
from pyvmm.replay.executor import Replayer
from pyvmm.replay.hands import guest_program
from pyvmm.replay.host import can_name, kinds_of, profile_of
from pyvmm.replay.liveness import Liveness, observe
from pyvmm.replay.means import find_means
from pyvmm.replay.memory_kind import MemoryKind
from pyvmm.replay.remedies import design_of

UNIVERSES = (STANDARD, FAMILY)
"""Universes covered by default: two of everything in one process, one of everything in two."""
MOST_DIFFERENCES = 10
THREADS = 32
"""Replays at a time in one process: they wait for the kernel, more than they work."""

Taken = tuple[State, Operation]

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


@dataclass
class Result:
    """Result of one set of sequences.

    `taken` of `transitions` were taken (0 of 0 for stories); `cut` is whether it ended before all
    sequences were done.
    """

    name: str
    tally: Tally
    seconds: float
    transitions: int = 0
    taken: int = 0
    cut: bool = False
    differences: list[Difference] = field(default_factory=list)

    @property
    def per_minute(self) -> float:
        """Sequences a minute."""
        return self.tally.sequences / self.seconds * 60 if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "name": self.name,
            "sequences": self.tally.sequences,
            "steps": self.tally.steps,
            "seconds": round(self.seconds, 3),
            "per_minute": round(self.per_minute),
            "transitions": self.transitions,
            "taken": self.taken,
            "complete": not self.cut,
            "lives_compared": self.tally.lives,
            "contents_compared": self.tally.contents,
            "refused_as_foreign": self.tally.foreign,
            "errors_mapped_before": self.tally.errors_mapped,
            "judged_by_address": self.tally.by_address,
            "steps_by_kind": dict(sorted(self.tally.kinds.items())),
            "differences": [each.to_json() for each in self.differences],
        }


class Comparison:
    """Replays on one host; `unseen` says why the life of VMs is not compared, "" where it is."""

    def __init__(self, system: System, tell: Tell, kind: MemoryKind | None = None) -> None:
        """With memory of a kind; None: the first that there is.

        Raises `HostLacksError` where lifetimes cannot be replayed at all.
        """
        self._system = system
        self._tell = tell
        self._kind = kind or kinds_of(system)[0]
        self._stack = ExitStack()
        self.design = replace(design_of(system), profile=profile_of(system, self._kind))

    def __enter__(self) -> Comparison:
        with ExitStack() as stack:
            self.means = find_means(self._system, self._kind, stack)
            self._stack = stack.pop_all()
        liveness, self.unseen = observe()
        if liveness is not None and not can_name(self._system, liveness):
            liveness.close()
            liveness, self.unseen = None, "debugfs does not name this process's VMs as it would"
        self._liveness: Liveness | None = liveness
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self._liveness is not None:
                self._liveness.close()

    def cover(self, universe: Universe, most: int | None) -> Result:
        """Replay sequences that take every transition of a universe; at most so many.

        Raises `UsageError` where the universe cannot be replayed here. Where the host cannot map
        memory, the universe is one without mappings.
        """
        universe = self._fitting(universe)
        self.means.require(universe)

        def look(states: int, waiting: int) -> None:
            self._tell(f"{universe.name}: finding sequences", states - waiting, states)

        way = tour(self.design, universe, progress=look)
        total = way.transitions
        breaks_off = universe.processes > 1 or Remedy.NEVER_REBIND in self.design.remedies
        wanted = way.left() if breaks_off else set()
        result, taken = self._run(universe, universe.name, _at_most(way.sequences(), most), total)
        left = way.transitions
        result.transitions = total
        result.taken = len(wanted & taken) if wanted else total - left
        result.cut = left > 0
        return result

    def follow(self, name: str, stories: Iterable[Story]) -> list[Result]:
        """Replay stories, as far as the kernel's design knows their operations."""
        results: dict[Universe, list[Sequence[Operation]]] = {}
        for story in stories:
            universe = self._fitting(story.universe)
            told = adapted((step.operation for step in story.steps), self.design, universe)
            results.setdefault(universe, []).append([s.operation for s in told.steps])
        return [
            self._run(universe, f"{name}, {universe.name}", todo, 0)[0]
            for universe, todo in results.items()
        ]

    def _fitting(self, universe: Universe) -> Universe:
        if not self.means.kind.is_private or not universe.host_maps:
            return universe
        return replace(universe, name=f"{universe.name}, private", host_maps=False)

    def _run(
        self, universe: Universe, name: str, sequences: Iterable[Sequence[Operation]], total: int
    ) -> tuple[Result, set[Taken]]:
        """Replay all of them; several at a time where that takes no forks.

        Most of the time goes by waiting for the kernel's grace periods, when a slot or a VM goes.
        """
        begun = time.monotonic()
        shared = _Shared(iter(sequences))
        guest_program()
        threads = THREADS if universe.processes == 1 else 0
        with ExitStack() as stack:
            replayers = [
                stack.enter_context(
                    Replayer(self._system, self.design, universe, self._liveness, self.means)
                )
                for _ in range(threads or 1)
            ]
            if threads:
                self._in_threads(shared, replayers, name, total)
            else:
                shared.consume(replayers[0], lambda: self._say(shared, name, total))
        seconds = time.monotonic() - begun
        tally = sum((each.tally for each in replayers), Tally())
        taken = set().union(*(each.taken for each in replayers))
        return Result(name, tally, seconds, differences=shared.differences), taken

    def _in_threads(
        self, shared: _Shared, replayers: list[Replayer], name: str, total: int
    ) -> None:
        with ThreadPoolExecutor(len(replayers)) as pool:
            running = {pool.submit(shared.consume, each, lambda: None) for each in replayers}
            try:
                while running:
                    done, running = wait(running, 0.2)
                    self._say(shared, name, total)
                    for each in done:
                        each.result()
            finally:
                shared.stop = True

    def _say(self, shared: _Shared, name: str, total: int) -> None:
        words = f" through {total} transitions" if total else ""
        self._tell(f"{name}: sequences{words} replayed:", shared.given, 0)


class _Shared:
    """Sequences that several replayers take from, and the differences that they find."""

    def __init__(self, sequences: Iterator[Sequence[Operation]]) -> None:
        self._sequences = sequences
        self._lock = threading.Lock()
        self.differences: list[Difference] = []
        self.given = 0
        self.stop = False

    def consume(self, replayer: Replayer, after_each: Callable[[], None]) -> None:
        """Replay until nothing is left, or enough differences are found."""
        try:
            while not self.stop:
                with self._lock:
                    operations = next(self._sequences, None)
                    self.given += operations is not None
                if operations is None:
                    return
                difference = replayer.replay(operations)
                if difference is not None:
                    with self._lock:
                        self.differences.append(difference)
                        self.stop = len(self.differences) >= MOST_DIFFERENCES
                after_each()
        except BaseException:
            self.stop = True  # the others shall not go on
            raise


def _at_most(
    sequences: Iterable[Sequence[Operation]], most: int | None
) -> Iterator[Sequence[Operation]]:
    for number, each in enumerate(sequences):
        if number == most:
            return
        yield each


def shortest_stories(universes: Iterable[Universe] = (SMALL, FAMILY)) -> list[Story]:
    """The shortest counterexamples of every design: what would go wrong in one, done to a kernel.

    Small universes are enough: larger ones have the same shortest stories under other names.
    """
    return [
        story
        for universe in universes
        for design in STANDARD_DESIGNS
        for story in explore(design, universe).stories.values()
    ]
