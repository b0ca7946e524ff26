# SPDX-License-Identifier: MIT
"""A stage for who pins whom: the same operations in several designs, step by step.

The design that this machine's KVM has is carried out there where that is wished and can be, and
compared with the model of lifetimes; other designs are followed by the model alone. Which one a
kernel has is found by what it does (`replay.remedies.design_of`).
"""

from __future__ import annotations

import errno
import platform
import time
from collections.abc import Sequence
from dataclasses import replace

from pyvmm.demo.stage.pins_in_design import DesignOnStage, Followed, difference_line
from pyvmm.demo.stage.pins_on_host import PinsOnHost
from pyvmm.demo.stage.taken import Taken
from pyvmm.demo.telling.acts import ATTEMPT, Act, End, Look, Operate
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.outcomes import Explained, Observed, Outcome, Staged, StageHost
from pyvmm.errors import HostLacksError, PyvmmError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.lifetime.adapting import design_named
from pyvmm.lifetime.designs import file_pins_vm
from pyvmm.lifetime.operation_words import operation_words, parse_operation
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.universe import STANDARD
from pyvmm.rules.abi import EHWPOISON
from pyvmm.rules.access import FAULTS
from pyvmm.rules.catalogue import REFUSALS

UNIVERSE = replace(STANDARD, name="stage", secrets=4)
"""Two of everything, in one process: all that a chapter can name."""
LINUX = file_pins_vm().name
ON_MACHINE = frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES, Need.LIVENESS})
"""Abilities that the model of lifetimes has."""
_SOURCES = {rule.name: rule.source for rules in REFUSALS.values() for rule in rules} | {
    name: source for name, (_, source) in FAULTS.items()
}


class PinsStage(Owner):
    """Designs side by side, the first of them on a host or not. Closing lets go of all of it."""

    def __init__(
        self, names: Sequence[str], host: PinsOnHost | None, taken: Taken, why: str
    ) -> None:
        """Take over `host`, which records to `taken`; None: on the model alone, and `why`.

        `names` are those of designs; the host's, which is one of them, comes first on the stage.
        """
        if host is not None:
            names = (host.design.name, *(name for name in names if name != host.design.name))
        self._host = host
        self._taken = taken
        profile = file_pins_vm().profile if host is None else host.profile
        universe = UNIVERSE if host is None else host.universe
        designs = [replace(design_named(name), profile=profile) for name in names]
        hosts = [host, *[None] * len(designs)]
        self._designs = [
            DesignOnStage(design, universe, on) for design, on in zip(designs, hosts, strict=False)
        ]
        self._parted = ""
        self._count = 0
        self.offers = ON_MACHINE if host is None else host.offers
        self.staged = Staged(StageHost.MACHINE, "", why)
        if host is not None:
            self.staged = Staged(StageHost.KVM, platform.release(), _alone(names[1:]))
        self._taken.take()

    async def do(self, act: Act) -> Outcome:
        """Carry an operation out in every design.

        Raises `UsageError` for what is none, and for one that can be attempted in no design.
        """
        if isinstance(act, Look):
            return Outcome((), (), 0, None, None, self._observed(), 0.0)
        operation = _operation(act)
        if self._parted:
            cause = f"{self._parted}; what comes behind that cannot be compared"
            raise UsageError(ATTEMPT, cause, "restart the chapter")
        adapted = [self._adapted(one, operation) for one in self._designs]
        began = time.perf_counter()
        number = self._count + 1
        before = [one.scene for one in self._designs]
        done = [
            design.follow(each, number) for design, each in zip(self._designs, adapted, strict=True)
        ]
        seconds = time.perf_counter() - began
        if not any(one.answer.answer for one in done):
            for design, scene in zip(self._designs, before, strict=True):
                design.scene = scene
            cause = "it cannot be attempted now: what it takes is not there, or in use already"
            raise UsageError(ATTEMPT, cause, "new things get the lowest number that is free")
        self._count = number
        first = done[0]
        if first.difference is not None:
            self._parted = difference_line(first.difference)
        calls, exits = self._taken.take()
        return Outcome(
            calls,
            exits,
            _errno(first.answer.answer),
            _value(first),
            _explained(first),
            self._observed(),
            seconds,
            answers=tuple(one.answer for one in done),
        )

    def _adapted(self, design: DesignOnStage, operation: Operation) -> Operation:
        adapted = design.adapted(operation)
        if adapted is not None:
            return adapted
        counts = {"vm": UNIVERSE.vms, "file": UNIVERSE.files, "slot": UNIVERSE.slots}
        there = ", ".join(f"{name} 0..{count - 1}" for name, count in counts.items())
        there += f", page 0..{UNIVERSE.pages - 1}"
        cause = f"{operation_words(operation)} is none of this stage's, which has {there}"
        raise UsageError(ATTEMPT, cause)

    async def observe(self) -> Observed:
        """The state of the stage now."""
        return self._observed()

    def _observed(self) -> Observed:
        first, host = self._designs[0], self._host
        return Observed(
            held=first.held() if host is None else host.held(),
            bound=first.bound(),
            alive=first.alive() if host is None else host.alive(),
            scenes=tuple((one.name, one.scene) for one in self._designs),
        )

    def close(self) -> None:
        """Let go of what is on the host; a second call does nothing."""
        if self._host is not None:
            self._host.close()


def open_pins(setup: Setup, needs: frozenset[Need], wish: StageHost | None) -> PinsStage:
    """A stage on the host wished; without a wish on this machine's KVM if it can be.

    Otherwise on the model of lifetimes, and the stage says why. Raises `HostLacksError` and
    `NoPermissionError` where a wish cannot be.
    """
    names, taken = setup.designs or (LINUX,), Taken()
    no_kernel = ""
    if wish is StageHost.MODEL or wish is StageHost.MACHINE:
        no_kernel = "no kernel takes part with --host model"
    elif not setup.host_side:
        no_kernel = "no kernel takes part in this"
    if no_kernel:
        return PinsStage(names, None, taken, no_kernel)
    if wish not in {None, StageHost.KVM}:
        cause = f"a stage on the {wish.value if wish else ''} is opened inside of it"
        raise HostLacksError("open a stage", cause)
    try:
        host = PinsOnHost(taken, UNIVERSE)
    except PyvmmError as error:
        if wish is not None:
            raise
        return PinsStage(names, None, taken, f"there is no KVM to be used: {error.cause}")
    other_than_told = _other_than_told(host, names, needs)
    if not other_than_told:
        try:
            return PinsStage(names, host, taken, "")
        except BaseException:
            host.close()
            raise
    host.close()
    if wish is not None:
        cause = f"it {other_than_told}"
        raise HostLacksError(f"tell this chapter on {wish.value}", cause, "use --host model")
    return PinsStage(names, None, taken, f"this machine's KVM {other_than_told}")


def _other_than_told(host: PinsOnHost, names: Sequence[str], needs: frozenset[Need]) -> str:
    """The reason that designs of these names are not told on a host's KVM; "" where they can be."""
    if host.design.name not in names:
        return f"follows {host.design.name}, and this is about {' and '.join(names)}"
    lacking = " and no ".join(sorted(one.value for one in needs - host.offers))
    return f"has no {lacking}" if lacking else ""


def _alone(others: Sequence[str]) -> str:
    if not others:
        return ""
    is_one = len(others) == 1
    verb, it = ("is", "it") if is_one else ("are", "them")
    return f"{', '.join(others)} {verb} followed by the rules alone: this kernel does not have {it}"


def _operation(act: Act) -> Operation:
    if isinstance(act, Operate):
        return parse_operation(act.operation)
    if isinstance(act, End):
        return Operation(Kind.EXIT)
    remedy = "as operate close-vm, or operate bind:vm=1,slot=1"
    raise UsageError(ATTEMPT, "this stage takes operations on VMs, files and slots", remedy)


def _errno(answer: str) -> int:
    """The errno that an answer is; 0 where it is none."""
    if answer == "SIGBUS":
        return errno.EFAULT
    return EHWPOISON if answer == "EHWPOISON" else int(getattr(errno, answer, 0) or 0)


def _value(done: Followed) -> int | None:
    """The byte that was read, as far as it is known without a host."""
    if done.byte is None and done.answer.answer == "zeroes":
        return 0
    return done.byte


def _explained(done: Followed) -> Explained | None:
    """The rule behind a refusal; or the difference, or that it was not even attempted."""
    if not done.answer.answer:
        cause = f"it was not attempted: in {done.answer.design} what it takes is not there"
        return Explained("", cause, "")
    if done.difference is not None:
        return Explained("", difference_line(done.difference), "")
    if done.refusal is None:
        return None
    rule = done.refusal.rule
    return Explained(rule, done.refusal.cause, _SOURCES.get(rule, ""))
