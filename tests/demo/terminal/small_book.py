# SPDX-License-Identifier: MIT
"""A book of two short chapters, told on a bare stage, for tests of the terminal."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import MakeFile, MakeVm, SetSlot
from pyvmm.demo.telling.chapter import (
    AllOf,
    Book,
    Chapter,
    Choice,
    Holds,
    Question,
    RefusedWith,
    Step,
    Unchanged,
    Worked,
)

_SIZE = 0x4000
SLOTS = Chapter(
    "slots",
    "A VM and its memslots",
    "A VM begins without any memory.",
    frozenset(),
    (
        Step(
            "create",
            "A virtual machine is a file descriptor. KVM_CREATE_VM on /dev/kvm makes one.",
            MakeVm(0),
            Question(
                "How much memory does the new machine have?",
                (
                    Choice("none", "none", AllOf((Worked(), Holds("vm", 1))), "It has no slots."),
                    Choice("some", "as much as KVM gives", RefusedWith(errno.ENOMEM)),
                ),
            ),
            "The map is empty.",
        ),
        Step(
            "slot",
            "A memslot says: these guest-physical addresses are that memory of my process. "
            "Four pages from 0x100000 on become memory.",
            SetSlot(0, 0, 0x100000, _SIZE),
            after="userspace_addr is an ordinary address in this process.",
            tries=(SetSlot(0, 1, 0x200000, 0x1000), MakeVm(7)),
        ),
        Step(
            "overlap",
            "A second slot is to begin in the middle of the first.",
            SetSlot(0, 1, 0x102000, _SIZE),
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
                ),
            ),
        ),
        Step("delete", "A slot is deleted by setting it with size 0.", SetSlot(0, 0, 0x100000, 0)),
    ),
    exercise=3,
)
FILES = Chapter(
    "files",
    "Files",
    "A file belongs to a VM.",
    frozenset(),
    (Step("vm", "A VM.", MakeVm(0)), Step("file", "A file.", MakeFile(0, 0, _SIZE))),
)
BOOK = Book(
    (SLOTS, FILES),
    glossary=(
        ("GPA", "Guest-physical address."),
        ("memslot", "A range of GPAs that has memory."),
    ),
)
