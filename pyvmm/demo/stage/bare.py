# SPDX-License-Identifier: MIT
"""A bare stage: VMs, memslots and files, and no firmware or guest kernel, on KVM or the model.

Beside a stage on KVM the model is asked the same, by its rules: so each refusal has its reason.
Where the kernel answers otherwise than the rules say, that is told too.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping

from pyvmm.demo.stage.objects import StageObjects
from pyvmm.demo.stage.taken import Taken
from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.chapter import Need
from pyvmm.demo.telling.outcomes import Explained, Observed, Outcome, Staged, StageHost
from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.model.recorded import RecordedModelSystem
from pyvmm.hosts.model.refusals import RefusedByRuleError
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.owner import Owner
from pyvmm.rules.catalogue import REFUSALS
from pyvmm.rules.profile import MAINLINE, SHARED_ONLY, Profile

_SOURCES: Mapping[str, str] = {
    rule.name: rule.source for rules in REFUSALS.values() for rule in rules
}


class BareStage(Owner):
    """A stage without a running guest. One thread; closing it frees everything on it."""

    def __init__(self, host: StageHost, why: str = "") -> None:
        """`why` it is not on the host that one would expect.

        Raises `HostLacksError` where there is no such host, `NoPermissionError`.
        """
        self._taken = Taken()
        system, profile = _open(host, self._taken)
        self._system = system
        self._objects = StageObjects(system)
        self._rules: StageObjects | None = None
        try:
            if host is StageHost.KVM:
                self._rules = StageObjects(ModelSystem(profile))
            self.offers = _offers(system.capabilities())
        except BaseException:
            self.close()
            raise
        self.staged = Staged(host, platform.release() if host is StageHost.KVM else "", why)
        self._taken.take()

    async def do(self, act: Act) -> Outcome:
        """Carry an act out. Raises `UsageError` for one that cannot be asked for here."""
        began = time.perf_counter()
        value, refusal = _done(self._objects, act)
        seconds = time.perf_counter() - began
        calls, exits = self._taken.take()
        by_rule = refusal
        if self._rules is not None:
            by_rule = _done(self._rules, act)[1]
        return Outcome(
            calls,
            exits,
            0 if refusal is None else refusal.errno,
            value,
            _explained(refusal, by_rule),
            self._observed(),
            seconds,
        )

    async def observe(self) -> Observed:
        """The state of the stage now."""
        return self._observed()

    def _observed(self) -> Observed:
        objects = self._objects
        held = [
            f"{kind} {number}"
            for kind, things in (
                ("vm", objects.vms),
                ("file", objects.files),
                ("mapping", objects.mappings),
            )
            for number in sorted(things)
        ]
        memory = [(number, run) for number, vm in sorted(objects.vms.items()) for run in vm.runs()]
        slots = [(number, slot) for number, vm in sorted(objects.vms.items()) for slot in vm.slots]
        return Observed(
            tuple(held),
            tuple(memory),
            tuple(sorted(objects.bindings)),
            slots=tuple(sorted(slots)),
            origins=tuple(sorted(objects.origins.items())),
        )

    def close(self) -> None:
        """Let go of all; a second call does nothing."""
        self._objects.close()
        if self._rules is not None:
            self._rules.close()
        self._system.close()


def _open(host: StageHost, taken: Taken) -> tuple[interface.System, Profile]:
    if host is StageHost.MODEL:
        return RecordedModelSystem(MAINLINE, recorder=taken), MAINLINE
    if host is not StageHost.KVM:
        raise HostLacksError("open a stage", f"a stage on the {host.value} is opened inside of it")
    from pyvmm.hosts.kvm.system import System

    system = System(recorder=taken)
    has_attributes = bool(system.capabilities().memory_attributes)
    return system, MAINLINE if has_attributes else SHARED_ONLY


def _offers(has: Capabilities) -> frozenset[Need]:
    found = set()
    if has.guest_memfd:
        found.add(Need.GUEST_MEMFD)
    if has.guest_memfd_flags & GuestMemfdFlag.MMAP:
        found.add(Need.MAPPED_FILES)
    if has.memory_attributes & MemoryAttribute.PRIVATE:
        found.add(Need.PRIVATE)
    return frozenset(found)


def _done(objects: StageObjects, act: Act) -> tuple[int | None, SystemCallError | None]:
    try:
        return objects.do(act), None
    except SystemCallError as error:
        return None, error


def _explained(
    refusal: SystemCallError | None, by_rule: SystemCallError | None
) -> Explained | None:
    """The rule behind a refusal; a sentence where rules and kernel do not agree."""
    if refusal is None:
        if by_rule is None:
            return None
        return Explained("", f"by the rules it should have been refused: {by_rule.cause}", "")
    if by_rule is None:
        return Explained("", "by the rules it should have worked", "")
    if by_rule.errno != refusal.errno:
        return Explained("", f"the rules say otherwise: {by_rule.cause}", "")
    if not isinstance(by_rule, RefusedByRuleError):
        return Explained("", by_rule.cause, "")
    found = by_rule.refusal
    return Explained(found.rule, found.cause, _SOURCES.get(found.rule, ""))
