# SPDX-License-Identifier: MIT
"""References among VMs, files, slots: what creating, binding, closing and freeing do, as data.

A design is a table: for each `Event` the `Effect`s that it has, in order. `FILE_PINS_VM` is what
Linux does. The interpreter of such a table decides nothing by itself, so that leaving one effect
out is a fault that shows (`pyvmm.lifetime` looks for it), and a software host and the explorer
follow the same table.

An object is freed when its last reference is dropped: that is `RELEASE_FILE` for a file, `FREE_VM`
for a VM. Descriptors and mappings hold one reference each: a descriptor its file or VM, a mapping
its file. An inode goes with its last file (`EVICT_INODE`).

A binding that fails has had the effects of `BIND` up to `FILE_NAMES_SLOT`, where the memory runs
out; those of `BIND_FAILS` take them back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Event(enum.Enum):
    """Event in the life of an object."""

    CREATE_FILE = "a guest_memfd is created"
    LINK_FILE = "a second file is made for the inode of a first"
    BIND = "a memslot is bound to a file"
    BIND_FAILS = "a binding runs out of memory where its slot is stored"
    UNBIND = "a memslot is deleted"
    RELEASE_FILE = "a file's last reference is dropped"
    FREE_VM = "a VM's last reference is dropped"
    EVICT_INODE = "an inode's last file is gone"
    PUNCH_HOLE = "pages of a file are punched out"
    PAGE_ERROR = "a page has a memory error"
    JOIN_VM = "a VM is made a helper, of another's virtual machine"
    MOVE_CONTEXT = "a new VM takes another's virtual machine over"
    PRESERVE_VM = "a VM is added to a session that outlives the kernel"
    PRESERVE_FILE = "a file is added to that session"
    HAND_ON_VM = "the kernel is replaced, and a preserved VM is left as a record"


class Effect(enum.Enum):
    """One thing that an event does."""

    FILE_NAMES_VM = "the file's VM pointer is set to the VM that creates it"
    FILE_TAKES_VM = "the file takes a reference on its VM"
    SLOT_NAMES_FILE = "the slot's file pointer is set"
    SLOT_TAKES_FILE = "the slot takes a reference on the file"
    FILE_NAMES_SLOT = "the slot is stored in the file's bindings"
    FIRST_BINDING_NAMES_VM = "where the file has no VM, its VM pointer is set to the slot's VM"
    FIRST_BINDING_OWNS_INODE = "where the inode has no owner, the slot's VM becomes it, by identity"
    FOREIGN_BINDING_ZEROES = "where another VM's contents are in the file, all its pages are zeroed"
    ZAP_SLOT = "the guest's mappings of the slot are removed"
    FILE_FORGETS_SLOT = "the slot is removed from the file's bindings"
    LAST_UNBINDING_FORGETS_VM = "where no binding is left, the file's VM pointer is cleared"
    LAST_UNBINDING_ZEROES = "where no binding is left, all pages of the file are zeroed"
    SLOT_DROPS_FILE = "the slot drops its reference on the file"
    SLOT_GOES = "the slot is freed"
    SLOTS_FORGET_FILE = "the file pointer of every bound slot is cleared"
    ZAP_BOUND_SLOTS = "the guest's mappings of every bound slot are removed"
    FORGET_BINDINGS = "the file's bindings are destroyed"
    FILE_DROPS_VM = "the file drops its reference on its VM"
    DELETE_SLOTS = "every slot of the VM is deleted, as in an unbinding"
    FREE_PAGES = "the inode's pages are given back"
    ZAP_PAGES = "the guests' mappings of the pages are removed"
    FREE_PUNCHED_PAGES = "the pages are given back"
    HELPER_NAMES_VM = "the helper points to the VM whose virtual machine it uses"
    HELPER_TAKES_VM = "the helper takes a reference on that VM"
    HELPER_DROPS_VM = "a helper drops its reference on that VM"
    HELPERS_FOLLOW = "the source's helpers are the new VM's, and what the source helps it does, too"
    FILES_FOLLOW = "the source's files lose their slots and become the new VM's"
    SOURCE_DIES = "the source can only be closed"
    SESSION_TAKES_VM = "the session takes a reference on the VM"
    SESSION_TAKES_FILE = "the session takes a reference on the file"
    RECORD_KEEPS_MACHINE = "the record keeps the VM's virtual machine"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A design: its effects by event. `without` seeds a fault."""

    name: str
    effects: Mapping[Event, tuple[Effect, ...]]

    def of(self, event: Event) -> tuple[Effect, ...]:
        """Return the effects of `event`, in order."""
        return self.effects.get(event, ())

    def without(self, event: Event, effect: Effect) -> Lifecycle:
        """The same design with one effect of one event forgotten."""
        left = tuple(each for each in self.of(event) if each is not effect)
        return Lifecycle(
            f"{self.name} without {effect.name} at {event.name}", {**self.effects, event: left}
        )

    def rules(self) -> tuple[tuple[Event, Effect], ...]:
        """Every (event, effect): what the design consists of."""
        return tuple((event, effect) for event in Event for effect in self.of(event))


SHARED_EFFECTS: Mapping[Event, tuple[Effect, ...]] = {
    Event.EVICT_INODE: (Effect.FREE_PAGES,),
    Event.PUNCH_HOLE: (Effect.ZAP_PAGES, Effect.FREE_PUNCHED_PAGES),
    # kvm_gmem_error_folio: the page stays where it is, and is found to be poisoned when faulted in
    Event.PAGE_ERROR: (Effect.ZAP_PAGES,),
    # sev_vm_destroy, then kvm_free_memslots
    Event.FREE_VM: (Effect.HELPER_DROPS_VM, Effect.DELETE_SLOTS),
    # sev_vm_copy_enc_context_from: kvm_get_kvm(source_kvm), so that its ASID stays
    Event.JOIN_VM: (Effect.HELPER_NAMES_VM, Effect.HELPER_TAKES_VM),
    # sev_vm_move_enc_context_from: sev_migrate_from, kvm_vm_dead(source_kvm)
    Event.MOVE_CONTEXT: (Effect.HELPERS_FOLLOW, Effect.SOURCE_DIES),
    # luo_preserve_file keeps the struct file; kvm_luo_preserve, kvm_gmem_luo_preserve
    Event.PRESERVE_VM: (Effect.SESSION_TAKES_VM,),
    Event.PRESERVE_FILE: (Effect.SESSION_TAKES_FILE,),
    Event.HAND_ON_VM: (Effect.RECORD_KEEPS_MACHINE,),
}
"""Effects that do not depend on who pins whom."""

MACHINE_EFFECTS = frozenset(
    {
        Effect.HELPER_NAMES_VM,
        Effect.HELPER_TAKES_VM,
        Effect.HELPER_DROPS_VM,
        Effect.HELPERS_FOLLOW,
        Effect.FILES_FOLLOW,
        Effect.SOURCE_DIES,
        Effect.SESSION_TAKES_VM,
        Effect.SESSION_TAKES_FILE,
        Effect.RECORD_KEEPS_MACHINE,
    }
)
"""Effects on virtual machines that several VMs have, at a time or one after the other: the same in
every design."""

FILE_PINS_VM = Lifecycle(
    "file-pins-vm",
    {
        **SHARED_EFFECTS,
        # __kvm_gmem_create: kvm_get_kvm(kvm); f->kvm = kvm
        Event.CREATE_FILE: (Effect.FILE_NAMES_VM, Effect.FILE_TAKES_VM),
        Event.LINK_FILE: (Effect.FILE_NAMES_VM, Effect.FILE_TAKES_VM),
        # kvm_gmem_prepare_memory_region, kvm_gmem_commit_memory_region; the reference that fget
        # took is dropped in kvm_set_memory_region: "The file pins KVM, not the other way 'round"
        Event.BIND: (Effect.SLOT_NAMES_FILE, Effect.FILE_NAMES_SLOT),
        # kvm_gmem_commit_memory_region stores NULL over what it has stored, kvm_set_memory_region
        # frees the slot; up to 7.0: out_unbind
        Event.BIND_FAILS: (Effect.FILE_FORGETS_SLOT, Effect.SLOT_GOES),
        # kvm_arch_flush_shadow_memslot, kvm_gmem_unbind, kvm_free_memslot
        Event.UNBIND: (Effect.ZAP_SLOT, Effect.FILE_FORGETS_SLOT, Effect.SLOT_GOES),
        # kvm_gmem_release
        Event.RELEASE_FILE: (
            Effect.SLOTS_FORGET_FILE,
            Effect.ZAP_BOUND_SLOTS,
            Effect.FORGET_BINDINGS,
            Effect.FILE_DROPS_VM,
        ),
    },
)
"""Linux: the file takes a reference on its VM at creation and drops it at release."""
