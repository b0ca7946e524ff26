# SPDX-License-Identifier: MIT
"""The designs: a table of effects each, a kernel's behaviours, and the remedies discussed later."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

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
    """

    name: str
    lifecycle: Lifecycle
    profile: Profile
    system_creation: bool = False
    identity: bool = False
    remedies: frozenset[Remedy] = frozenset()
    links_strangers: bool = False

    def without(self, event: Event, effect: Effect) -> Design:
        """The same with one effect forgotten: a seeded fault."""
        broken = self.lifecycle.without(event, effect)
        return Design(
            broken.name,
            broken,
            self.profile,
            self.system_creation,
            self.identity,
            self.remedies,
            self.links_strangers,
        )


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


def _with_remedies(remedies: frozenset[Remedy]) -> Mapping[Event, tuple[Effect, ...]]:
    bind = list(MEMSLOT_PINS_FILE[Event.BIND])
    unbind = list(MEMSLOT_PINS_FILE[Event.UNBIND])
    forgets = unbind.index(Effect.LAST_UNBINDING_FORGETS_VM)
    if Remedy.NEVER_REBIND in remedies:
        unbind.pop(forgets)
    if Remedy.ZERO_AT_UNBINDING in remedies:
        unbind.insert(forgets, Effect.LAST_UNBINDING_ZEROES)
    if Remedy.ZERO_AT_REBINDING in remedies:
        bind.append(Effect.FOREIGN_BINDING_ZEROES)
    if Remedy.OWNER_IN_INODE in remedies:
        bind.append(Effect.FIRST_BINDING_OWNS_INODE)
    return {**MEMSLOT_PINS_FILE, Event.BIND: tuple(bind), Event.UNBIND: tuple(unbind)}


def file_pins_vm(profile: Profile = MAINLINE) -> Design:
    """Linux's design; the sequential rules of v11 and mainline differ in errnos only."""
    return Design("file-pins-vm", FILE_PINS_VM, profile)


def file_pins_vm_with_any_link() -> Design:
    """Linux's design with a link that does not ask whose virtual machine it is for."""
    return Design("file-pins-vm + any-link", FILE_PINS_VM, MAINLINE, links_strangers=True)


def memslot_pins_file(*remedies: Remedy) -> Design:
    """The mail's design, with remedies."""
    chosen = frozenset(remedies)
    marks = "".join(
        f" + {each.name.lower().replace('_', '-')}" for each in Remedy if each in chosen
    )
    name = f"memslot-pins-file{marks}"
    return Design(
        name,
        Lifecycle(name, _with_remedies(chosen)),
        MAINLINE,
        system_creation=True,
        identity=Remedy.OWNER_IN_INODE in chosen,
        remedies=chosen,
    )


STANDARD_DESIGNS: tuple[Design, ...] = (
    file_pins_vm(),
    memslot_pins_file(),
    *(memslot_pins_file(remedy) for remedy in Remedy),
)
"""Designs that the write-up's table has a column for."""

V11 = file_pins_vm(UNDER_REVIEW)
"""The patch that the mail answers."""
