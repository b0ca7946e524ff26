# SPDX-License-Identifier: MIT
"""The designs: a table of effects each, a kernel's behaviours, and the remedies discussed later."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyvmm.rules.lifecycle import FILE_PINS_VM, SHARED_EFFECTS, Effect, Event, Lifecycle
from pyvmm.rules.profile import MAINLINE, UNDER_REVIEW, Profile


class Remedy(enum.Enum):
    """Remedies proposed so that contents do not reach another VM in the second design."""

    NEVER_REBIND = "the VM pointer stays after the last unbinding and is compared"
    ZERO_AT_UNBINDING = "the last unbinding zeroes the file"
    ZERO_AT_REBINDING = "a binding to another VM zeroes the file"
    OWNER_IN_INODE = "the inode keeps the identity of its first VM"


@dataclass(frozen=True, slots=True)
class Design:
    """Design that an exploration follows.

    `system_creation`: files are created by an ioctl of /dev/kvm, for no VM. `identity`: whether a
    binding is judged by the inode's owner, a virtual machine, and not by a bare pointer.
    `links_strangers`: a second file may be linked for a VM of another virtual machine.
    `judges_flags`: a binding refuses a file whose flags the VM's type has not got.
    """

    name: str
    lifecycle: Lifecycle
    profile: Profile
    system_creation: bool = False
    identity: bool = False
    remedies: frozenset[Remedy] = frozenset()
    links_strangers: bool = False
    judges_flags: bool = False

    def without(self, event: Event, effect: Effect) -> Design:
        """The same with one effect forgotten: a seeded fault."""
        broken = self.lifecycle.without(event, effect)
        return replace(self, name=broken.name, lifecycle=broken)


MEMSLOT_PINS_FILE: Mapping[Event, tuple[Effect, ...]] = {
    **SHARED_EFFECTS,
    Event.CREATE_FILE: (),
    Event.LINK_FILE: (),
    Event.BIND: (
        Effect.SLOT_NAMES_FILE,
        Effect.SLOT_TAKES_FILE,
        Effect.FILE_NAMES_SLOT,
        Effect.FIRST_BINDING_NAMES_VM,
    ),
    Event.BIND_FAILS: (Effect.FILE_FORGETS_SLOT, Effect.SLOT_DROPS_FILE, Effect.SLOT_GOES),
    Event.UNBIND: (
        Effect.ZAP_SLOT,
        Effect.FILE_FORGETS_SLOT,
        Effect.LAST_UNBINDING_FORGETS_VM,
        Effect.SLOT_DROPS_FILE,
        Effect.SLOT_GOES,
    ),
    Event.RELEASE_FILE: (),
}
"""The mail's proposal: "let memslot take a refcount on the gmem file when the memslots are
configured"; nothing at creation, nothing at release."""


def _with_remedies(
    remedies: frozenset[Remedy], names_first: bool
) -> Mapping[Event, tuple[Effect, ...]]:
    bind = list(MEMSLOT_PINS_FILE[Event.BIND])
    unbind = list(MEMSLOT_PINS_FILE[Event.UNBIND])
    fails = list(MEMSLOT_PINS_FILE[Event.BIND_FAILS])
    forgets = unbind.index(Effect.LAST_UNBINDING_FORGETS_VM)
    if names_first:
        fails.insert(fails.index(Effect.SLOT_DROPS_FILE), Effect.LAST_UNBINDING_FORGETS_VM)
    if Remedy.NEVER_REBIND in remedies:
        unbind.pop(forgets)
        fails = [each for each in fails if each is not Effect.LAST_UNBINDING_FORGETS_VM]
    if Remedy.ZERO_AT_UNBINDING in remedies:
        unbind.insert(forgets, Effect.LAST_UNBINDING_ZEROES)
    if Remedy.ZERO_AT_REBINDING in remedies:
        bind.append(Effect.FOREIGN_BINDING_ZEROES)
    if Remedy.OWNER_IN_INODE in remedies:
        bind.append(Effect.FIRST_BINDING_OWNS_INODE)
    if names_first:
        bind.remove(Effect.FILE_NAMES_SLOT)
        bind.append(Effect.FILE_NAMES_SLOT)
    return {
        **MEMSLOT_PINS_FILE,
        Event.BIND: tuple(bind),
        Event.BIND_FAILS: tuple(fails),
        Event.UNBIND: tuple(unbind),
    }


def file_pins_vm(profile: Profile = MAINLINE) -> Design:
    """Linux's design; the sequential rules of v11 and mainline differ in errnos only."""
    return Design("file-pins-vm", FILE_PINS_VM, profile)


def file_pins_vm_with_any_link() -> Design:
    """Linux's design with a link that does not ask whose virtual machine it is for."""
    return Design("file-pins-vm + any-link", FILE_PINS_VM, MAINLINE, links_strangers=True)


def file_pins_vm_moving_files() -> Design:
    """Linux's design, where files go with the virtual machine that another VM takes over.

    Not the kernel's, nor proposed: it is there to see what a move without that lacks.
    """
    effects = (Effect.HELPERS_FOLLOW, Effect.FILES_FOLLOW, Effect.SOURCE_DIES)
    name = "file-pins-vm + moving-files"
    table = {**FILE_PINS_VM.effects, Event.MOVE_CONTEXT: effects}
    return Design(name, Lifecycle(name, table), MAINLINE)


JUDGED_FLAGS = "judged-flags"
NAMED_FIRST = "named-first"


def memslot_pins_file(
    *remedies: Remedy, judges_flags: bool = False, names_first: bool = False
) -> Design:
    """The mail's design, with remedies.

    `judges_flags`: binding judges the file's flags, as Linux does when a file is created for its
    VM. `names_first`: a binding names the VM and the owner, and zeroes, before it stores the slot,
    the last step that can fail; otherwise after it, when there is nothing to take back any more.
    """
    chosen = frozenset(remedies)
    marks = [each.name.lower().replace("_", "-") for each in Remedy if each in chosen]
    marks += [JUDGED_FLAGS] if judges_flags else []
    marks += [NAMED_FIRST] if names_first else []
    name = " + ".join(["memslot-pins-file", *marks])
    return Design(
        name,
        Lifecycle(name, _with_remedies(chosen, names_first)),
        MAINLINE,
        system_creation=True,
        identity=Remedy.OWNER_IN_INODE in chosen,
        remedies=chosen,
        judges_flags=judges_flags,
    )


STANDARD_DESIGNS: tuple[Design, ...] = (
    file_pins_vm(),
    memslot_pins_file(),
    *(memslot_pins_file(remedy) for remedy in Remedy),
)
"""Designs that the write-up's table has a column for."""

V11 = file_pins_vm(UNDER_REVIEW)
"""The patch that the mail answers."""
