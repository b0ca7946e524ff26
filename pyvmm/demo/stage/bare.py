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
from pyvmm.demo.stage.one_access import Accessed
from pyvmm.demo.stage.residency import resident
from pyvmm.demo.stage.seen_vms import SeenVms
from pyvmm.demo.stage.taken import Taken
from pyvmm.demo.stage.taken_runs import TakenRuns
from pyvmm.demo.telling.acts import (
    Act,
    Actor,
    Close,
    ConvertInPlace,
    Duplicate,
    HoldPage,
    Hole,
    MakeFile,
    MakeVm,
    MapFile,
    Read,
    SetAttributes,
    SetSlot,
    Thing,
    Write,
)
from pyvmm.demo.telling.chapter import Need
from pyvmm.demo.telling.outcomes import Explained, Observed, Outcome, Staged, StageHost
from pyvmm.errors import HostLacksError, SystemCallError, UsageError
from pyvmm.hosts import interface
from pyvmm.hosts.call_record import Made
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.model.recorded import RecordedModelSystem
from pyvmm.hosts.model.refusals import RefusedByRuleError
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.page_held import PageHeldError
from pyvmm.rules.catalogue import REFUSALS
from pyvmm.rules.in_place import HELD
from pyvmm.rules.profile import IN_PLACE, MAINLINE, SHARED_ONLY, Profile

_JUDGED = (
    MakeVm
    | MakeFile
    | SetSlot
    | SetAttributes
    | MapFile
    | Hole
    | Close
    | Duplicate
    | ConvertInPlace
    | HoldPage
)
"""Acts that the rules are asked about; a guest's access has rules of its own."""
_SOURCES: Mapping[str, str] = {
    rule.name: rule.source for rules in REFUSALS.values() for rule in rules
}


class BareStage(Owner):
    """A stage without a running guest. One thread; closing it frees everything on it."""

    def __init__(self, host: StageHost, why: str = "", *, in_place: bool = False) -> None:
        """`why` it is not on the host that one would expect.

        `in_place`: on the model, files keep which pages are private, as posted for Linux. Raises
        `HostLacksError` where there is no such host, `NoPermissionError`.
        """
        is_kvm = host is StageHost.KVM
        self._taken = TakenRuns(Made.KERNEL if is_kvm else Made.MODEL)
        self._system, profile = _open(host, self._taken, in_place=in_place)
        self._objects = StageObjects(self._system)
        self._rules: StageObjects | None = None
        self._seen = SeenVms(None)
        try:
            self.offers = _offers(self._system.capabilities())
            if is_kvm:
                self._rules = StageObjects(ModelSystem(profile))
                self._seen = SeenVms(self._system)
                self.offers |= {Need.LIVENESS} if self._seen.can_see else set()
        except BaseException:
            self.close()
            raise
        self.staged = Staged(host, platform.release() if is_kvm else "", why)
        self._taken.take()

    async def do(self, act: Act) -> Outcome:
        """Carry an act out. Raises `UsageError` for one that cannot be asked for here."""
        began = time.perf_counter()
        try:
            done, refusal = _done(self._objects, act)
        except UsageError:
            self._taken.take_access()
            raise
        seconds = time.perf_counter() - began
        accessed = done if isinstance(done, Accessed) else None
        if isinstance(act, Read | Write) and act.who is Actor.GUEST:
            calls, exits, left_out = self._taken.take_access()
            if accessed is not None and accessed.tells_no_exit:
                exits = ()
        else:
            (calls, exits), left_out = self._taken.take(), ()
        if accessed is not None:
            number, value, explained = accessed.errno, accessed.value, accessed.explained
        else:
            number = 0 if refusal is None else refusal.errno
            value = done if isinstance(done, int) else None
            explained = self._explained(act, refusal)
        if isinstance(act, MakeVm) and refusal is None:
            self._seen.add(act.vm, self._objects.things.vms[act.vm].vm)
        return Outcome(
            calls, exits, number, value, explained, self._observed(), seconds, left_out=left_out
        )

    async def observe(self) -> Observed:
        """The state of the stage now."""
        return self._observed()

    def _observed(self) -> Observed:
        things = self._objects.things
        memory = [(number, run) for number, vm in sorted(things.vms.items()) for run in vm.runs()]
        observed = Observed(
            tuple(things.held()),
            tuple(memory),
            tuple(sorted(things.bindings())),
            resident=tuple(resident(things)),
            alive=tuple(self._seen.alive(things)),
            slots=tuple(things.slots()),
            origins=tuple(things.origins()),
        )
        self._taken.take()  # Looking is no part of an act.
        return observed

    def _explained(self, act: Act, refusal: SystemCallError | None) -> Explained | None:
        """The rule behind a refusal; a sentence where rules and kernel do not agree."""
        if self._rules is None or not isinstance(act, _JUDGED):
            return None if refusal is None else _by_rule(refusal)
        if isinstance(act, Close | Duplicate) and act.what is Thing.VCPU:
            return None
        try:
            judged = _done(self._rules, act)[1]
        except UsageError:
            # Kernel and rules have not agreed before, which was said then: so they differ now.
            return None
        return _compared(refusal, judged)

    def close(self) -> None:
        """Let go of all; a second call does nothing."""
        self._objects.close()
        if self._rules is not None:
            self._rules.close()
        self._seen.close()
        self._system.close()


def _open(host: StageHost, taken: Taken, *, in_place: bool) -> tuple[interface.System, Profile]:
    if host is StageHost.MODEL:
        profile = IN_PLACE if in_place else MAINLINE
        return RecordedModelSystem(profile, recorder=taken), profile
    if host is not StageHost.KVM:
        raise HostLacksError("open a stage", f"a stage on the {host.value} is opened inside of it")
    from pyvmm.hosts.kvm.system import System
    from pyvmm.hosts.kvm.unowned_files import has_unowned_files

    system = System(recorder=taken)
    try:
        if has_unowned_files(system):
            raise HostLacksError(
                "open a stage on kvm",
                "its files pin no VM, by the design memslot-pins-file, and this is about Linux's",
                "use --host model; the chapter pins tells of both designs",
            )
        has = system.capabilities()
    except BaseException:
        system.close()
        raise
    if has.file_attributes:
        return system, IN_PLACE
    return system, MAINLINE if has.memory_attributes else SHARED_ONLY


def _offers(has: Capabilities) -> frozenset[Need]:
    found = set()
    if has.guest_memfd:
        found.add(Need.GUEST_MEMFD)
    if has.guest_memfd_flags & GuestMemfdFlag.MMAP:
        found.add(Need.MAPPED_FILES)
    if has.memory_attributes & MemoryAttribute.PRIVATE:
        found.add(Need.PRIVATE)
    if has.file_attributes & MemoryAttribute.PRIVATE:
        found.add(Need.IN_PLACE)
    return frozenset(found)


def _done(objects: StageObjects, act: Act) -> tuple[Accessed | int | None, SystemCallError | None]:
    try:
        return objects.do(act), None
    except SystemCallError as error:
        return None, error


def _compared(refusal: SystemCallError | None, judged: SystemCallError | None) -> Explained | None:
    if refusal is None:
        if judged is None:
            return None
        return Explained("", f"by the rules it should have been refused: {judged.cause}", "")
    if judged is None:
        return Explained("", "by the rules it should have worked", "")
    if judged.errno != refusal.errno:
        return Explained("", f"the rules say otherwise: {judged.cause}", "")
    return _by_rule(judged)


def _by_rule(refusal: SystemCallError) -> Explained:
    if isinstance(refusal, PageHeldError):
        cause = f"{HELD.cause}: at file offset {refusal.error_offset:#x}"
        return Explained(HELD.name, cause, HELD.source)
    if not isinstance(refusal, RefusedByRuleError):
        return Explained("", refusal.cause, "")
    found = refusal.refusal
    return Explained(found.rule, found.cause, _SOURCES.get(found.rule, ""))
