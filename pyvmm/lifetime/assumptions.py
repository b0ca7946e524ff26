# SPDX-License-Identifier: MIT
"""Assumptions of the model: each with its reason, where it fails, and a run without it.

A claim that "holds" holds under these. Where one can be left out, it is, and what that changes is
read off the runs; where it cannot, `shown` is empty and the text says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyvmm.lifetime.claims import no_clean_up
from pyvmm.lifetime.designs import STANDARD_DESIGNS, file_pins_vm
from pyvmm.lifetime.evidence import Evidence
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.properties import BY_NAME
from pyvmm.lifetime.universe import MOVED, SMALL, Universe
from pyvmm.rules.lifecycle import Effect, Event

TWO_SECRETS = Universe("two secrets", 2, 1, 2, 2, 1, 1, secrets=2)
"""Two pages that can both hold something, which the other universes rule out."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """Something that the model takes for granted.

    `source` is the kernel function or message that it is taken from; `fails` says where it is not
    so; `shown` what a run without it finds, "" where none can be made.
    """

    name: str
    sentence: str
    reason: str
    source: str
    fails: str
    shown: str = ""


def assumptions(evidence: Evidence) -> tuple[Assumption, ...]:
    """Every assumption, those first on which a verdict turns."""
    return (
        _torn(evidence),
        _sizes(),
        _secrets(),
        _one_machine(),
        *_UNSHOWN,
    )


def _torn(evidence: Evidence) -> Assumption:
    with_it, without = no_clean_up(evidence), no_clean_up(evidence, torn_is_harm=False)
    return Assumption(
        "torn-mmu",
        "Touching a VM whose MMU is torn down does harm.",
        "the page tables are gone by then, and so is TDX's key, which reclaiming a page needs",
        "`kvm_destroy_vm`: `kvm_arch_destroy_vm` comes before `kvm_free_memslots`; "
        "`72655345e07a02028c9239ccb2c3633dd72bbf9d.1692119201.git.isaku.yamahata@intel.com`",
        "an MMU whose roots are an empty list by then, as x86's TDP MMU, finds nothing to zap",
        f"{with_it.name}: {with_it.verdict.value} with it, {without.verdict.value} without",
    )


def _violated(found: Exploration) -> frozenset[str]:
    return frozenset(found.stories)


def _differing(universes: Iterable[Universe]) -> list[str]:
    """Name each design and universe that violates other properties than the small universe."""
    found = []
    larger = tuple(universes)
    for design in STANDARD_DESIGNS:
        small = _violated(explore(design, SMALL))
        found += [
            f"{design.name} in {each.name}"
            for each in larger
            if _violated(explore(design, each)) != small
        ]
    return found


def grown() -> tuple[Universe, ...]:
    """The small universe with one more of one thing: of each thing in turn."""
    small = SMALL
    return (
        replace(small, name="another VM", vms=small.vms + 1),
        replace(small, name="another file", files=small.files + 1),
        replace(small, name="another slot", slots=small.slots + 1),
        replace(small, name="another page", pages=small.pages + 1),
        replace(small, name="another process", processes=small.processes + 1),
        replace(small, name="another descriptor", handles=small.handles + 1),
    )


def _sizes() -> Assumption:
    other = _differing(grown())
    return Assumption(
        "two-of-each",
        "Two of each object show what more of them would.",
        "every effect names at most one VM, file and slot, and one other that was there before",
        "the tables of `pyvmm/rules/lifecycle.py`",
        "nothing proves it; where a helper follows its virtual machine into another VM, it takes "
        "three VMs to see that forgotten, and the tests have a universe of three for it",
        "one more of each thing, one at a time, than the smallest universe has: "
        + (
            f"differs for {', '.join(other)}"
            if other
            else "the same properties fail in all designs"
        ),
    )


def _one_machine() -> Assumption:
    design = file_pins_vm()
    broken = design.without(Event.JOIN_VM, Effect.HELPER_TAKES_VM)
    helps = BY_NAME["helper-dies-first"]
    found = explore(broken, MOVED, properties=[helps], intended=design, stop_early=True)
    story = found.stories.get(helps.name)
    return Assumption(
        "one-machine",
        "A virtual machine ends with its last VM that is no helper.",
        "an ASID or HKID is given back when the VM that has it is destroyed, and a helper holds "
        "that VM",
        "`sev_vm_destroy`, `tdx_mmu_release_hkid`, `sev_vm_copy_enc_context_from`; "
        "`ZOO782YGRY0YMuPu@google.com`",
        "a helper that holds nothing would go on with an ASID that is another's",
        f"helpers that take no reference: {helps.name} "
        + (f"fails in {len(story.steps)} steps" if story else "holds all the same"),
    )


def _secrets() -> Assumption:
    other = _differing((TWO_SECRETS,))
    return Assumption(
        "one-secret",
        "One page with contents at a time shows every leak.",
        "no effect on a page looks at the contents of another, but for zeroing the whole file",
        "`kvm_gmem_fallocate`, `kvm_gmem_get_pfn`: by page",
        "a design that judged a file by several pages",
        "two pages with contents: "
        + (
            f"differs for {', '.join(other)}"
            if other
            else "the same properties fail in all designs"
        ),
    )


_UNSHOWN = (
    Assumption(
        "atomic-steps",
        "A step happens at once, and everybody sees steps in one order.",
        "what the steps change is read and written under locks, or published with the barriers "
        "of RCU, SRCU and reference counts",
        "`rcu_assign_pointer`, `smp_wmb` in `kvm_mmu_invalidate_end`, `refcount_t`",
        "a plain load or store that the kernel lacks a barrier for would not be found here; "
        "the kernel has KCSAN and litmus tests for those",
    ),
    Assumption(
        "made-at-once",
        "A helper, and a VM that takes a virtual machine over, are that from their creation on.",
        "a VM without a virtual machine of its own can do nothing with memory that belongs to one",
        "`sev_vm_copy_enc_context_from`, `sev_vm_move_enc_context_from`: not for a VM that has one",
        "two system calls make two steps, and what comes between them is not looked at",
    ),
    Assumption(
        "session-is-held",
        "The session of a live update is held by an agent, which closes it when it wants to.",
        "a session that a process of the universe could lose would only end sooner",
        "luo_session; `20260622184851.2309827-1-tarunsahu@google.com`",
        "an agent that dies takes what was preserved with it, as closing the session does here",
    ),
    Assumption(
        "any-process",
        "Any process with the descriptor can use a VM.",
        "it makes the explorations of forks larger, never smaller",
        "`kvm_vm_ioctl`: EIO unless `kvm->mm` is the caller's",
        "always, in the kernel; the replay expects the EIO and counts it",
    ),
    Assumption(
        "only-what-can-be-asked",
        "User space does what it can ask the kernel for, and the kernel keeps to its tables.",
        "the question is what a life cycle permits, not what a kernel under attack does",
        "KVM api.rst",
        "memory that is protected by hardware has a weaker host in mind: a leak is then "
        "ciphertext, or a fault, instead of contents",
    ),
)
