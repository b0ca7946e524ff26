# SPDX-License-Identifier: MIT
"""References on this machine's KVM: real descriptors, beside the model of lifetimes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pyvmm.demo.telling.chapter import Need
from pyvmm.hosts.call_record import Recorder
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.owner import Owner
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.holdings import Holding, Why
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.universe import Universe
from pyvmm.replay.differences import Attempt
from pyvmm.replay.executor import Replayer
from pyvmm.replay.host import can_name, kinds_of, profile_of
from pyvmm.replay.liveness import Liveness, observe
from pyvmm.replay.means import Means
from pyvmm.replay.remedies import design_of

PROCESS = "process0"


class PinsOnHost(Owner):
    """The objects of the design that this machine's KVM has. Closing lets go of all of them."""

    def __init__(self, recorder: Recorder, universe: Universe) -> None:
        """Raises `HostLacksError` and `NoPermissionError` where there is no KVM for it."""
        with ExitStack() as stack:
            system = stack.enter_context(System(recorder=recorder))
            kind = kinds_of(system)[0]
            self.profile = profile_of(system, kind)
            self.universe = replace(universe, host_maps=not kind.is_private)
            self.design: Design = replace(design_of(system), profile=self.profile)
            self._liveness = _liveness(system, stack)
            self._replayer = stack.enter_context(
                Replayer(system, self.design, self.universe, self._liveness, Means(kind))
            )
            self._stack = stack.pop_all()

    @property
    def offers(self) -> frozenset[Need]:
        """Abilities that a chapter may need."""
        found = {Need.GUEST_MEMFD}
        if self.universe.host_maps:
            found.add(Need.MAPPED_FILES)
        if self._liveness is not None:
            found.add(Need.LIVENESS)
        return frozenset(found)

    @property
    def state(self) -> State:
        """The model's state."""
        return self._replayer.state

    def attempt(self, operation: Operation) -> Attempt:
        """Carry an operation out. Raises `UsageError` where it cannot be attempted now."""
        return self._replayer.attempt(operation)

    def held(self) -> tuple[str, ...]:
        """The process's descriptors and mappings, one for each: ``vm 0``, ``file 0``."""
        hands = self._replayer.hands
        names = [name for name, _ in hands.descriptors()]
        names += [name.replace("file", "mapping") for name, _ in hands.mapped_at()]
        return tuple(sorted(f"{name[:-1]} {name[-1]}" for name in names))

    def alive(self) -> tuple[tuple[str, bool | None], ...]:
        """Existence of each VM that there has been, by debugfs; None: that cannot be seen."""
        seen = self._liveness
        return tuple(
            (f"vm {v}", None if seen is None else seen.has(name))
            for v, name in sorted(self._replayer.names().items())
        )

    def seen(self) -> frozenset[str | Holding]:
        """Objects and edges that are seen: in /proc/self/fd and maps, in debugfs.

        Without /proc what is in debugfs alone.
        """
        hands = self._replayer.hands
        found: set[str | Holding] = set()
        for name, fd in hands.descriptors():
            if "kvm" in _target(fd):
                found |= {PROCESS, name, Holding(PROCESS, name, Why.DESCRIPTOR)}
        starts = {line.split("-")[0] for line in _maps() if "kvm-gmem" in line}
        for name, hva in hands.mapped_at():
            if f"{hva:08x}" in starts:
                found |= {PROCESS, name, Holding(PROCESS, name, Why.MAPPING)}
        found |= {name.replace(" ", "") for name, alive in self.alive() if alive}
        return frozenset(found)

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        self._stack.close()


def _target(fd: int) -> str:
    """The kernel's name of what a descriptor of this process leads to; "" without /proc."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except FileNotFoundError:
        return ""


def _maps() -> list[str]:
    try:
        return Path("/proc/self/maps").read_text().splitlines()
    except FileNotFoundError:
        return []


def _liveness(system: System, stack: ExitStack) -> Liveness | None:
    liveness, _ = observe()
    if liveness is None:
        return None
    stack.enter_context(liveness)
    return liveness if can_name(system, liveness) else None
