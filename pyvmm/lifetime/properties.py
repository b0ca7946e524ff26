# SPDX-License-Identifier: MIT
"""Properties that should hold in every state and of every step: one sentence each.

A check gives one line that says what is wrong, None where nothing is. `invariants` are what any
design must have; `OWNERSHIP` what memory needs that belongs to a virtual machine; `wishes` the
mail's two; `prices` what a remedy can cost.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.lifetime import bodies, checks, feature_checks, machine_checks
from pyvmm.lifetime.checks import World
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.universe import Feature, Universe

StateCheck: TypeAlias = Callable[[World, State], str | None]
StepCheck: TypeAlias = Callable[[World, State, Operation, str, State], str | None]


class Role(enum.Enum):
    """Purpose of a property."""

    INVARIANT = "any design must have it"
    WISH = "the mail asks for it"
    OWNERSHIP = "memory that belongs to a virtual machine, as SNP's and TDX's does, must have it"
    PRICE = "what a remedy can cost"
    CARE = "user space has to see to it itself: no design does"
    POSSIBILITY = "something that ought to be possible: a story is good news"

    @property
    def verb(self) -> str:
        """Words between a design and a property of this role that does not hold in it."""
        return _VERBS[self]

    @property
    def is_demand(self) -> bool:
        """True where a design without it is broken; a wish that is not fulfilled breaks nothing."""
        return self in {Role.INVARIANT, Role.OWNERSHIP}


_VERBS = {
    Role.INVARIANT: "violates",
    Role.WISH: "is not as the mail wishes,",
    Role.OWNERSHIP: "where memory belongs to a virtual machine, violates",
    Role.PRICE: "pays with",
    Role.CARE: "leaves to user space",
    Role.POSSIBILITY: "makes possible",
}


@dataclass(frozen=True, slots=True)
class Property:
    """A name, one sentence, and a check of states, or of steps of these kinds, or both.

    `faults` are those of the machine that violate it. `needs`: a feature without which there is
    nothing to check.
    """

    name: str
    sentence: str
    role: Role
    state: StateCheck | None = None
    step: StepCheck | None = None
    kinds: frozenset[Kind] = frozenset()
    faults: frozenset[str] = frozenset()
    needs: Feature | None = None


_CLOSING = frozenset({Kind.CLOSE_FILE, Kind.UNMAP, Kind.EXIT})

INVARIANTS = (
    Property(
        "nothing-dangles",
        "Nothing points to something freed.",
        Role.INVARIANT,
        state=checks.nothing_dangles,
        faults=frozenset({bodies.USED_AFTER_FREE}),
    ),
    Property(
        "mappings-have-backing",
        "No guest mapping outlives its backing.",
        Role.INVARIANT,
        state=checks.mappings_have_backing,
        faults=frozenset({bodies.MAPPING_OUTLIVED}),
    ),
    Property(
        "contents-stay",
        "What was written under one virtual machine is never readable by another, unless zeroed.",
        Role.INVARIANT,
        state=checks.contents_stay,
    ),
    Property(
        "one-vm-per-file",
        "All slots bound to a file belong to the one VM that it names.",
        Role.INVARIANT,
        state=checks.one_vm_per_file,
    ),
    Property(
        "bindings-agree",
        "A slot points to a file exactly when the file's bindings name the slot.",
        Role.INVARIANT,
        state=checks.two_ways,
    ),
    Property(
        "counts-agree",
        "Every reference count is the number of those that hold a reference.",
        Role.INVARIANT,
        state=checks.counts_agree,
        faults=frozenset({bodies.COUNT_BROKEN}),
    ),
    Property(
        "everything-is-freed",
        "What no handle leads to is freed.",
        Role.INVARIANT,
        state=checks.everything_is_freed,
        faults=frozenset({bodies.BINDINGS_LEFT, bodies.SLOTS_LEFT, bodies.PAGES_LEFT}),
    ),
    Property(
        "holes-read-zeroes",
        "What is punched out reads as zeroes.",
        Role.INVARIANT,
        step=checks.holes_read_zeroes,
        kinds=frozenset({Kind.PUNCH}),
    ),
)

OWNERSHIP = (
    Property(
        "memory-dies-with-its-vm",
        "No page holds what a freed virtual machine wrote.",
        Role.OWNERSHIP,
        state=checks.memory_dies,
    ),
)

WISHES = (
    Property(
        "closing-is-harmless",
        "Closing the file never changes what a running VM can access.",
        Role.WISH,
        step=checks.closing_is_harmless,
        kinds=_CLOSING,
    ),
    Property(
        "file-does-not-pin-vm",
        "An open file never keeps a VM alive.",
        Role.WISH,
        state=checks.file_does_not_pin_vm,
    ),
)

PRICES = (
    Property(
        "slots-keep-contents",
        "Deleting a slot and making it again keeps what its VM wrote.",
        Role.PRICE,
        step=checks.slots_keep_contents,
        kinds=frozenset({Kind.BIND, Kind.UNBIND}),
    ),
    Property(
        "cleared-by-owner",
        "Contents are cleared for another VM only while the VM that wrote them exists.",
        Role.PRICE,
        step=checks.cleared_by_owner,
        kinds=frozenset({Kind.BIND}),
    ),
)

POSSIBILITIES = (
    Property(
        "hand-over",
        "A file's contents can be handed over to another virtual machine.",
        Role.POSSIBILITY,
        step=checks.hand_over,
        kinds=frozenset({Kind.BIND}),
    ),
)

OF_FEATURES = (
    Property(
        "shared-within",
        "A second VM of one virtual machine can use what the first wrote.",
        Role.POSSIBILITY,
        step=checks.shared_within,
        kinds=frozenset({Kind.BIND}),
        needs=Feature.LINKS,
    ),
    Property(
        "slots-can-be-changed",
        "While a guest runs over a slot, somebody can delete the slot.",
        Role.CARE,
        state=feature_checks.slots_can_be_changed,
        needs=Feature.VCPUS,
    ),
    Property(
        "errors-are-told",
        "A page that has a memory error is never read as if it had none.",
        Role.INVARIANT,
        step=feature_checks.errors_are_told,
        kinds=frozenset({Kind.GUEST_READ, Kind.HOST_READ}),
        needs=Feature.ERRORS,
    ),
    Property(
        "failure-changes-nothing",
        "A binding that fails leaves everything as it was.",
        Role.INVARIANT,
        step=feature_checks.failure_changes_nothing,
        kinds=frozenset({Kind.BIND_FAILS}),
        needs=Feature.FAILURES,
    ),
    Property(
        "helper-dies-first",
        "A virtual machine has one VM that is no helper, and no helper outlives that.",
        Role.OWNERSHIP,
        state=machine_checks.helper_dies_first,
        needs=Feature.LINKS,
    ),
    Property(
        "reboot",
        "A VM finds what its predecessor wrote, after that is freed.",
        Role.POSSIBILITY,
        step=machine_checks.reboot,
        kinds=frozenset({Kind.GUEST_READ}),
        needs=Feature.SUCCESSORS,
    ),
    Property(
        "handed-on",
        "What is preserved comes over the live update.",
        Role.CARE,
        step=machine_checks.handed_on,
        kinds=frozenset({Kind.KEXEC}),
        needs=Feature.UPDATES,
    ),
    Property(
        "guests-go-on",
        "A guest goes on while its memory is preserved.",
        Role.CARE,
        step=machine_checks.guests_go_on,
        kinds=frozenset({Kind.GUEST_READ, Kind.GUEST_WRITE}),
        needs=Feature.UPDATES,
    ),
    Property(
        "flags-fit-the-type",
        "A VM has slots over files only whose flags its type can have.",
        Role.INVARIANT,
        state=feature_checks.flags_fit_the_type,
        needs=Feature.TYPES,
    ),
    Property(
        "private-stays-private",
        "The host never reads what a VM with private memory wrote.",
        Role.INVARIANT,
        step=feature_checks.private_stays_private,
        kinds=frozenset({Kind.HOST_READ}),
        needs=Feature.TYPES,
    ),
)
"""Properties that only universes with a feature can show."""

ALL = INVARIANTS + OWNERSHIP + WISHES + PRICES + POSSIBILITIES
BY_NAME = {each.name: each for each in ALL + OF_FEATURES}


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A property that does not hold in a design, in words; `is_fault`: the design is broken so."""

    verb: str
    name: str
    sentence: str
    is_fault: bool

    def __str__(self) -> str:
        return f"{self.verb} {self.name}: {self.sentence}" if self.sentence else self.name


def shortfall(name: str) -> Shortfall:
    """Say of a property by its name that it does not hold; of an unknown name no more than that."""
    if name not in BY_NAME:
        return Shortfall("", name, "", is_fault=True)
    one = BY_NAME[name]
    return Shortfall(one.role.verb, name, one.sentence, one.role.is_demand)


def properties_of(universe: Universe) -> tuple[Property, ...]:
    """Select the properties to check in a universe."""
    return ALL + tuple(
        each for each in OF_FEATURES if each.needs is not None and universe.has(each.needs)
    )
