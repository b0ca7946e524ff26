# SPDX-License-Identifier: MIT
"""One sequence on two hosts, and the story of where they part."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.strategies import SearchStrategy

from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.kvm.system import System

from .guests import MMIO, PLAIN_FAULT, Guest, RunningGuest
from .operations import ARENA, GuestTouch, HostTouch, Operation, SetSlot
from .world import PAGE, World, result_of

LOOKED_AT = (0, 1, 4, 5)
"""The pages of the arena that the guest reads in the end, where it does anything."""


def same(kvm: str, model: str) -> bool:
    """Whether the model may answer this where KVM answers that."""
    if kvm == model:
        return True
    # KVM does not say where; the model does.
    return kvm == PLAIN_FAULT and model.startswith("MEMORY_FAULT") and " shared EFAULT" in model


def took_as_mmio(operation: Operation, mmio: set[int], real: str) -> bool:
    """Whether KVM answered from what it remembers of a page in `mmio`; nothing is known after that.

    It remembers that a page without a slot is MMIO, and setting the page's attribute does not make
    it forget: MMIO stays MMIO. With a slot there it notices, but the fault of such a page is not
    looked up in the attributes (``kvm_mmu_page_fault`` sets PFERR_PRIVATE_ACCESS only where
    PFERR_RSVD_MASK is not set), so it is one of shared memory. Seen on 7.3.
    """
    if not isinstance(operation, GuestTouch) or operation.gpa // PAGE not in mmio:
        return False
    return real == MMIO or (real.startswith("MEMORY_FAULT") and " shared EFAULT" in real)


@dataclass
class Counted:
    """What sequences did, to be sure that they do something."""

    sequences: int = 0
    operations: int = 0
    refused: int = 0
    reached: int = 0
    """Guest accesses that were served."""
    faulted: int = 0
    """Guest accesses that ended the run as a fault."""
    stale: int = 0
    """Sequences that were left early, because KVM took an access for MMIO that no longer is."""

    def note(self, operation: Operation, result: str) -> None:
        """One more, as KVM answered it."""
        self.operations += 1
        if isinstance(operation, GuestTouch):
            self.reached += result == "done" or result.startswith("reads")
            self.faulted += result == PLAIN_FAULT or result.startswith("MEMORY_FAULT")
        else:
            self.refused += result.startswith("E")


MakeGuest = Callable[[interface.System, interface.Vm], Guest]


def prefetches_beside_guest_memfd(kvm: System) -> bool:
    """Whether a guest may reach the memory beside a guest_memfd that should serve all of a slot.

    Shadow paging fetches the neighbours of a page that the guest touches from the slot's host
    address (``kvm_mmu_prefetch_sptes``, ``kvm_prefetch_pages``), where the host has touched them.
    """
    flags = kvm.capabilities().guest_memfd_flags
    world = World(kvm, lambda vm: RunningGuest(kvm, vm), VmType.DEFAULT, flags, reserves=True)
    with closing(world):
        if GuestMemfdFlag.MMAP not in flags:
            return False
        SetSlot(1, ARENA, 4 * PAGE, "M", file="A").run(world)
        HostTouch("M", 0).run(world)
        GuestTouch(ARENA + PAGE).run(world)
        GuestTouch(ARENA, 0x11).run(world)
        return HostTouch("M", 0).run(world) == "reads 0x11"


class Pair:
    """A host and the model that shall answer as it does; which guest runs on which."""

    def __init__(
        self,
        real: interface.System,
        model: interface.System,
        flags: GuestMemfdFlag,
        guests: tuple[MakeGuest, MakeGuest],
        *,
        prefetches: bool = False,
    ) -> None:
        """`flags`: those of file A in VMs without private memory."""
        self.real = real
        self.model = model
        self.counted = Counted()
        self._flags = flags
        self._guests = guests
        self._prefetches = prefetches

    def _world(self, system: interface.System, guest: MakeGuest, kind: VmType) -> World:
        return World(
            system,
            lambda vm: guest(system, vm),
            kind,
            self._flags if kind is VmType.DEFAULT else GuestMemfdFlag(0),
            reserves=isinstance(system, System),
            prefetches=self._prefetches,
        )

    def _worlds(self, kind: VmType) -> tuple[World, World]:
        real, model = self._guests
        return self._world(self.real, real, kind), self._world(self.model, model, kind)

    def difference(self, sequence: Sequence[Operation], kind: VmType) -> str | None:
        """Run it on both: the story up to where they differ, None where they do not."""
        self.counted.sequences += 1
        told = [f"VMs of type {kind.name}"]
        kvm, model = self._worlds(kind)
        with closing(kvm), closing(model):
            mmio: set[int] = set()
            looks: list[Operation] = [GuestTouch(ARENA + page * PAGE + page) for page in LOOKED_AT]
            if not any(isinstance(operation, GuestTouch) for operation in sequence):
                looks = []  # A processor for nothing else would take most of the time.
            for number, operation in enumerate([*sequence, *looks], 1):
                real = result_of(lambda op=operation: op.run(kvm))  # type: ignore[misc]
                modelled = result_of(lambda op=operation: op.run(model))  # type: ignore[misc]
                self.counted.note(operation, real)
                line = f"{number:3}. {operation}"
                if not same(real, modelled):
                    if took_as_mmio(operation, mmio, real):
                        self.counted.stale += 1
                        return None
                    return "\n".join([*told, line, f"     KVM: {real}", f"     model: {modelled}"])
                if isinstance(operation, GuestTouch) and real == MMIO:
                    mmio.add(operation.gpa // PAGE)
                told.append(f"{line}  ->  {real}")
            there, here = kvm.contents(), model.contents()
            for name in there:
                if there[name] != here.get(name):
                    told.append(f"     {name} in the end, the first byte of each page:")
                    told.append(f"     KVM: {there[name].hex(' ')}")
                    return "\n".join([*told, f"     model: {here.get(name, b'').hex(' ')}"])
        return None


def story_of_a_difference(
    pair: Pair,
    tried: SearchStrategy[list[Operation]],
    kind: VmType,
    count: int,
    seed: int,
) -> str | None:
    """The shortest found in `count` sequences of `tried`; None where there is none."""
    stories: list[str] = []

    def differ(sequence: list[Operation]) -> bool:
        story = pair.difference(sequence, kind)
        if story is not None:
            stories.append(story)
        return story is not None

    try:
        found = find(
            tried,
            differ,
            settings=settings(
                max_examples=count,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
            random=random.Random(seed),
        )
    except NoSuchExample:
        return None
    except Flaky:
        if not stories:
            raise
        return f"not there when tried again:\n{stories[-1]}"
    return pair.difference(found, kind) or f"a difference that was there only once: {found}"
