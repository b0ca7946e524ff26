# SPDX-License-Identifier: MIT
"""A VM and its memslots."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import Actor, MakeVm, Read, SetSlot, Write
from pyvmm.demo.telling.chapter import (
    AllOf,
    Chapter,
    Choice,
    Holds,
    Question,
    ReadValue,
    RefusedWith,
    Step,
    Unchanged,
    Worked,
)
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

_AT = MIB
_SIZE = 4 * PAGE_SIZE
_BYTE = _AT + 16
_SLOT = SetSlot(vm=0, slot=0, gpa=_AT, size=_SIZE)

SLOTS = Chapter(
    id="slots",
    title="A VM and its memslots",
    aim="A VM begins without any memory; the monitor lends it some of its own, slot by slot.",
    needs=frozenset(),
    exercise=1,
    steps=(
        Step(
            "create",
            "A virtual machine is a file descriptor. KVM_CREATE_VM on /dev/kvm makes one.",
            MakeVm(0),
            Question(
                "How much memory does the new machine have?",
                (
                    Choice(
                        "none",
                        "none",
                        AllOf((Worked(), Holds("vm", 1))),
                        "There are no slots, so every address is a hole.",
                    ),
                    Choice("some", "as much as KVM gives by default", RefusedWith(errno.ENOMEM)),
                ),
            ),
            "The map is empty: whatever a guest touched now would be no memory.",
        ),
        Step(
            "slot",
            "A memslot says: these guest-physical addresses are that memory of my process. "
            f"Four pages from {_AT:#x} on become memory.",
            _SLOT,
            after="userspace_addr is an ordinary address in this process.",
        ),
        Step(
            "same-memory",
            "The host writes a byte through its own mapping.",
            Write(Actor.HOST, 0, _BYTE, 0x5A),
            after="No system call was needed: it is the process's own memory.",
        ),
        Step(
            "read-back",
            "The host reads the same byte.",
            Read(Actor.HOST, 0, _BYTE),
            Question(
                "Who else sees this byte?",
                (
                    Choice(
                        "both",
                        f"the guest, at {_BYTE:#x}",
                        ReadValue(0x5A),
                        "One memory, two views: that is what private memory takes away.",
                    ),
                    Choice("host", "nobody: it is the host's alone", ReadValue(0)),
                ),
            ),
        ),
        Step(
            "overlap",
            "A second slot is to begin in the middle of the first.",
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
                    Choice("einval", "EINVAL, and nothing changes", RefusedWith(errno.EINVAL)),
                ),
            ),
        ),
        Step(
            "unaligned",
            "A slot of three and a half pages.",
            SetSlot(vm=0, slot=1, gpa=2 * MIB, size=_SIZE - PAGE_SIZE // 2),
            Question(
                "Which answer does the kernel give?",
                (
                    Choice("rounded", "it works, rounded up to four pages", Worked()),
                    Choice(
                        "einval",
                        "EINVAL",
                        RefusedWith(errno.EINVAL),
                        "Memory is given in pages.",
                    ),
                ),
            ),
        ),
        Step(
            "delete",
            "A slot is deleted by setting it with size 0.",
            SetSlot(vm=0, slot=0, gpa=_AT, size=0),
            after="The machine has no memory again; the process keeps its own.",
        ),
    ),
)
