# SPDX-License-Identifier: MIT
"""A book of our own: so that pages are tested on steps that stay as they are."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import (
    Actor,
    Close,
    MakeFile,
    MakeVm,
    MapFile,
    Read,
    SetSlot,
    Thing,
    Write,
)
from pyvmm.demo.telling.chapter import (
    Book,
    Chapter,
    Choice,
    Need,
    Question,
    ReadValue,
    RefusedWith,
    Step,
    Worked,
)
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

_SIZE = 4 * PAGE_SIZE
_WORKED = Choice("worked", "it works: the newer slot wins", Worked())

SLOTS = Chapter(
    id="slots",
    title="Slots",
    aim="Memory is lent.",
    needs=frozenset(),
    steps=(
        Step(
            "create",
            "A VM is made.",
            MakeVm(0),
            Question(
                "How much memory has it?",
                (
                    Choice("none", "none", Worked(), "There are no slots."),
                    Choice("some", "some", RefusedWith(errno.ENOMEM)),
                ),
            ),
        ),
        Step("slot", "Four pages become memory.", SetSlot(0, 0, MIB, _SIZE), after="Behold."),
        Step("same-memory", "The host writes a byte.", Write(Actor.HOST, 0, MIB + 16, 0x5A)),
        Step(
            "read-back",
            "The host reads it.",
            Read(Actor.HOST, 0, MIB + 16),
            Question(
                "Who sees it?",
                (
                    Choice("both", "the guest, too", ReadValue(0x5A), "It is one memory."),
                    Choice("host", "the host alone", ReadValue(0)),
                ),
            ),
        ),
        Step(
            "overlap",
            "A second slot begins in the first.",
            SetSlot(0, 1, MIB + _SIZE // 2, _SIZE),
            Question(
                "What does the kernel say?",
                (
                    _WORKED,
                    Choice("eexist", "EEXIST, and nothing changes", RefusedWith(errno.EEXIST)),
                    Choice("einval", "EINVAL", RefusedWith(errno.EINVAL)),
                ),
            ),
        ),
        Step("delete", "The slot is deleted.", SetSlot(0, 0, MIB, 0)),
    ),
)
FILES = Chapter(
    id="guest-memfd",
    title="Files",
    aim="A file has one VM.",
    needs=frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES}),
    steps=(
        Step("vm", "A VM.", MakeVm(0)),
        Step("file", "Its file.", MakeFile(0, 0, _SIZE)),
        Step(
            "map",
            "The monitor maps it.",
            MapFile(0),
            Question(
                "Is it refused?",
                (
                    Choice("worked", "no", Worked()),
                    Choice("enodev", "yes: ENODEV", RefusedWith(errno.ENODEV)),
                ),
            ),
        ),
        Step("bind", "A slot binds it.", SetSlot(0, 0, MIB, _SIZE, 0)),
        Step("other-vm", "Another VM.", MakeVm(1)),
        Step(
            "steal",
            "The other VM binds it.",
            SetSlot(1, 0, MIB, _SIZE, 0),
            Question(
                "Does it get the memory?",
                (
                    Choice("worked", "yes", Worked()),
                    Choice("einval", "no: EINVAL", RefusedWith(errno.EINVAL)),
                    Choice("eexist", "no: EEXIST", RefusedWith(errno.EEXIST)),
                ),
            ),
        ),
        Step("close", "The file is closed.", Close(Thing.FILE, 0)),
    ),
)
OWN = Book((SLOTS, FILES))
