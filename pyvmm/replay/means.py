# SPDX-License-Identifier: MIT
"""Means of a replay: what this host can be brought to do; and for the rest, why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.universe import Feature, Universe
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.replay.failing_bindings import Ending, FailedBinding, failed_bindings
from pyvmm.replay.host import kinds_of
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE, MemoryKind
from pyvmm.replay.page_errors import PageErrors

ON_NO_KERNEL = {
    Feature.LINKS: "a second file for an inode (KVM_LINK_GUEST_MEMFD) is not merged",
    Feature.MOVES: "giving a virtual machine to another VM takes SEV or TDX",
    Feature.UPDATES: "preserving a guest_memfd over a live update is not merged",
    Feature.SUCCESSORS: "that takes one of the two before",
}
"""Features that no kernel offers which we can run, and why not."""
IN_WORDS = {
    Feature.LINKS: "links",
    Feature.VCPUS: "descriptors of vCPUs",
    Feature.TYPES: "VMs of both types",
    Feature.ERRORS: "errors on pages",
    Feature.FAILURES: "bindings that run out of memory",
    Feature.MOVES: "virtual machines that move to another VM",
    Feature.UPDATES: "live updates",
    Feature.SUCCESSORS: "VMs that go on with another's memory",
}
"""Names of the features, for readers."""
RACES = "no thread of a kernel can be held between two steps from outside"
"""The reason why schedules of two or three tasks are not replayed."""
_NOT_ASKED = "the host has not been asked for it"


@dataclass(frozen=True, slots=True)
class Means:
    """Means of replays with memory of one kind; `why_not` has each feature that there is none for.

    `failed` are bindings for which there was no memory, as they ended when the host was asked. The
    descriptors that this holds belong to whoever made it.
    """

    kind: MemoryKind = MAPPABLE
    allocations: FailingAllocations | None = None
    page_errors: PageErrors | None = None
    failed: tuple[FailedBinding, ...] = ()
    why_not: Mapping[Feature, str] = field(
        default_factory=lambda: {
            **ON_NO_KERNEL,
            **dict.fromkeys((Feature.TYPES, Feature.ERRORS, Feature.FAILURES), _NOT_ASKED),
        }
    )

    def require(self, universe: Universe) -> None:
        """Raise `UsageError` for a universe with a feature that cannot be replayed."""
        for each in universe.features:
            if each in self.why_not:
                raise UsageError(
                    f"replay the universe {universe.name}", self.why_not[each], "choose another one"
                )
        if universe.errors and universe.processes > 1:
            raise UsageError(
                f"replay the universe {universe.name}",
                "errors on pages are made by one process",
                "choose one with processes=1",
            )
        if universe.host_maps and self.kind.is_private:
            raise UsageError(
                f"replay the universe {universe.name}",
                "the host cannot map this kernel's guest_memfd",
                "choose one without mappings (host_maps=0)",
            )


def find_means(system: System, kind: MemoryKind, stack: ExitStack) -> Means:
    """Means that this host has for memory of a kind; they end with `stack`."""
    why_not = dict(ON_NO_KERNEL)
    allocations = page_errors = None
    failed: tuple[FailedBinding, ...] = ()
    try:
        allocations = stack.enter_context(FailingAllocations())
    except HostLacksError as error:
        why_not[Feature.FAILURES] = f"allocations cannot be made to fail: {error.cause}"
    else:
        failed = tuple(failed_bindings(system, allocations, kind))
        if any(each.ending not in (Ending.REFUSED, Ending.BOUND) for each in failed):
            why_not[Feature.FAILURES] = "this kernel does not undo a binding that fails"
    if kind.is_private:
        why_not[Feature.ERRORS] = "an error is made by way of a mapping, and there is none"
    else:
        try:
            page_errors = stack.enter_context(PageErrors())
        except HostLacksError as error:
            why_not[Feature.ERRORS] = f"pages cannot be made to fail: {error.cause}"
    if PRIVATE not in kinds_of(system) or kind.is_private:
        why_not[Feature.TYPES] = "this KVM has not both kinds of VM"
    return Means(kind, allocations, page_errors, failed, why_not)
