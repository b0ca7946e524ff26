# SPDX-License-Identifier: MIT
"""A VM and its memslots; and that one address can have two memories."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import (
    Actor,
    MakeFile,
    MakeVm,
    Read,
    SetAttributes,
    SetSlot,
    Write,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    Chapter,
    Choice,
    Need,
    NoneOf,
    Question,
    ReadValue,
    RefusedWith,
    Step,
    Unchanged,
    Worked,
)
from pyvmm.demo.telling.chapter import StateIs as State
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

_AT = MIB
_SIZE = 4 * PAGE_SIZE
_BYTE = _AT + 16
_SLOT = SetSlot(vm=0, slot=0, gpa=_AT, size=_SIZE)
_WRITTEN = 0x5A
_PRIVATE = frozenset({Need.PRIVATE})
_REFUSED = NoneOf((Worked(),))

SLOTS = Chapter(
    id="slots",
    title="A VM and its memslots",
    aim="A VM has the memory that its monitor lends it, slot by slot, and whoever lends it reads "
    "it. With private memory one address has two memories, and the host reads the other one.",
    needs=frozenset(),
    steps=(
        Step(
            "create",
            "A virtual machine (VM) is a file descriptor. KVM, the part of Linux that runs VMs, "
            "makes one for the monitor: the process that runs the VM, as QEMU does, or pyvmm here.",
            MakeVm(0),
            Question(
                "How much memory does the new VM have?",
                (
                    Choice(
                        "none",
                        "none",
                        AllOf((Worked(), State(_AT, None))),
                        "Until the monitor gives it some, nothing is behind any address.",
                    ),
                    Choice(
                        "some",
                        "as much as KVM gives by default",
                        AllOf((Worked(), NoneOf((State(_AT, None),)))),
                    ),
                ),
            ),
        ),
        Step(
            "slot",
            "A memslot lends it memory of the monitor's process, at guest-physical addresses "
            f"(GPAs): those that the guest, which is what runs in the VM, takes for its RAM. This "
            f"one has four pages of 4 KiB from {_AT:#x} on.",
            _SLOT,
            after="userspace_addr is an ordinary address in the monitor's process.",
        ),
        Step(
            "guest-writes",
            f"The guest writes the byte {_WRITTEN:#x} at {_BYTE:#x}. For that it first gets a "
            f"vCPU, the VM's processor, and a program of a few bytes, in a slot of its own far "
            f"away.",
            Write(Actor.GUEST, 0, _BYTE, _WRITTEN),
        ),
        Step(
            "read-back",
            "The host, which is everything outside of the VM, looks at the same place in the "
            "monitor's memory. Nobody asks the guest.",
            Read(Actor.HOST, 0, _BYTE),
            Question(
                "What does the host get?",
                (
                    Choice(
                        "both",
                        f"{_WRITTEN:#x}, as the guest wrote it",
                        ReadValue(_WRITTEN),
                        "One memory with two views, and not even a system call that somebody could "
                        "refuse. Who runs a VM can read it.",
                    ),
                    Choice("zero", "0: a guest's memory begins empty for others", ReadValue(0)),
                    Choice("refused", "nothing: KVM refuses", _REFUSED),
                ),
            ),
        ),
        Step(
            "private-vm",
            "So here is a VM of the type that has private memory: pages for the guest, and not for "
            "the host. Where this machine's kernel has no such type, the next six steps are done "
            "on the model: KVM's rules as a program, with an emulated processor.",
            MakeVm(1, private=True),
            needs=_PRIVATE,
        ),
        Step(
            "private-file",
            "Private pages come out of a guest_memfd: a file for one VM's memory, and the next "
            "chapter's subject.",
            MakeFile(1, 0, _SIZE),
            needs=_PRIVATE,
        ),
        Step(
            "private-slot",
            "A slot with two sides behind the same addresses: memory of the monitor's as before, "
            "which is shared, and the guest_memfd, which is private.",
            SetSlot(vm=1, slot=0, gpa=_AT, size=_SIZE, file=0),
            needs=_PRIVATE,
        ),
        Step(
            "private-side",
            "One bit for each page, the attribute PRIVATE, says which side the guest gets. "
            "It is set for all four pages.",
            SetAttributes(1, _AT, _SIZE, Side.PRIVATE),
            needs=_PRIVATE,
        ),
        Step(
            "secret",
            f"Its guest writes {_WRITTEN:#x} at {_BYTE:#x}, as the first VM's did.",
            Write(Actor.GUEST, 1, _BYTE, _WRITTEN),
            needs=_PRIVATE,
        ),
        Step(
            "two-memories",
            "And the host looks at that address in the monitor's memory, as before.",
            Read(Actor.HOST, 1, _BYTE),
            Question(
                f"What does the host read at {_BYTE:#x} now?",
                (
                    Choice("same", f"{_WRITTEN:#x}", ReadValue(_WRITTEN)),
                    Choice(
                        "cipher",
                        "another byte: the page is encrypted",
                        AllOf((Worked(), NoneOf((ReadValue(0), ReadValue(_WRITTEN))))),
                    ),
                    Choice(
                        "zero",
                        "0",
                        ReadValue(0),
                        "The host reads its own memory, where nobody has written. Private is not "
                        "the same page encrypted: it is another page at the same address.",
                    ),
                    Choice("refused", "nothing: KVM refuses", _REFUSED),
                ),
            ),
            needs=_PRIVATE,
        ),
        Step(
            "overlap",
            "Back to the first VM. A second slot is to begin in the middle of its first one.",
            SetSlot(vm=0, slot=1, gpa=_AT + _SIZE // 2, size=_SIZE),
            Question(
                "Which answer does the kernel give?",
                (
                    Choice("worked", "it works: the newer slot wins", Worked()),
                    Choice(
                        "eexist",
                        "EEXIST, and nothing changes",
                        AllOf((RefusedWith(errno.EEXIST), Unchanged())),
                        "An address belongs to one slot at most.",
                    ),
                    Choice(
                        "einval",
                        "EINVAL, and nothing changes",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                    ),
                ),
            ),
        ),
        Step(
            "delete",
            "A slot is deleted by setting it with size 0. The monitor keeps its memory, and the VM "
            "has none again.",
            SetSlot(vm=0, slot=0, gpa=_AT, size=0),
            after="Change it: give the VM slots of your own, and look for an answer that you did "
            "not expect.",
            tries=(
                SetSlot(vm=0, slot=0, gpa=_AT, size=_SIZE - PAGE_SIZE // 2),
                SetSlot(vm=0, slot=0, gpa=_AT + 1, size=_SIZE),
                _SLOT,
                Read(Actor.GUEST, 0, _BYTE),
            ),
        ),
    ),
    exercise=1,
)
