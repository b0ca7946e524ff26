# SPDX-License-Identifier: MIT
"""guest_memfd: made, bound, and each way to be refused."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import Close, MakeFile, MakeVm, MapFile, SetSlot, Thing
from pyvmm.demo.telling.chapter import (
    AllOf,
    Bound,
    Chapter,
    Choice,
    Holds,
    Need,
    Question,
    RefusedWith,
    Step,
    Unchanged,
    Worked,
)
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, PAGE_SIZE

_SIZE = 4 * PAGE_SIZE
_WORKED = Choice("worked", "it works", Worked())
_EINVAL = Choice("einval", "EINVAL", RefusedWith(errno.EINVAL))
_EEXIST = Choice("eexist", "EEXIST", RefusedWith(errno.EEXIST))
_EBADF = Choice("ebadf", "EBADF", RefusedWith(errno.EBADF))

FILES = Chapter(
    id="guest-memfd",
    title="guest_memfd, and each way to be refused",
    aim="A guest_memfd belongs to one VM, and each of its pages to one slot at most; "
    "the host can map it only where it was made for that.",
    needs=frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES}),
    steps=(
        Step(
            "vm",
            "In this chapter the memory comes out of a file that was made for guests: a "
            "guest_memfd. Such a file is always some VM's, so a VM comes first.",
            MakeVm(0),
        ),
        Step(
            "file",
            "KVM_CREATE_GUEST_MEMFD makes a file of four pages that has no name and no path. "
            "It is asked of the VM, whose descriptor is the first argument.",
            MakeFile(0, 0, _SIZE),
            after="Nothing is in it yet: a page comes into being when the guest touches it.",
        ),
        Step(
            "map",
            "Programs look into a file by mapping it: mmap(2) gives its bytes an address. The "
            "monitor tries that.",
            MapFile(0),
            Question(
                "Does the host get a view of the guest's memory?",
                (
                    Choice("worked", "yes, it is the monitor's file", Worked()),
                    Choice(
                        "enodev",
                        "no: ENODEV",
                        RefusedWith(errno.ENODEV),
                        "The whole point: no process has an address for it, so no pointer, no "
                        "debugger and no core file leads there.",
                    ),
                    Choice(
                        "eacces",
                        "no: EACCES, as for somebody else's file",
                        RefusedWith(errno.EACCES),
                    ),
                ),
            ),
        ),
        Step(
            "bind",
            "A memslot binds the file: a GPA, a size, and where in the file. It has memory of the "
            "monitor's as well, for pages that are shared with the host.",
            SetSlot(vm=0, slot=0, gpa=MIB, size=_SIZE, file=0),
            after="Two memories behind one range of addresses, as in the chapter before.",
        ),
        Step(
            "beyond",
            "A second slot asks for four pages of the file, from its third on.",
            SetSlot(vm=0, slot=1, gpa=2 * MIB, size=_SIZE, file=0, file_offset=2 * PAGE_SIZE),
            Question(
                "There are two. Which answer does the kernel give?",
                (
                    Choice("grows", "it works: the file grows", Worked()),
                    Choice(
                        "einval",
                        "EINVAL",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                        "The size of a guest_memfd is fixed when it is made.",
                    ),
                    _EBADF,
                ),
            ),
        ),
        Step(
            "twice",
            "The second slot asks for the same four pages at another address.",
            SetSlot(vm=0, slot=1, gpa=2 * MIB, size=_SIZE, file=0),
            Question(
                "May a page of the file be at two GPAs?",
                (
                    Choice("worked", "yes, as with any memory that is shared", Worked()),
                    Choice(
                        "eexist",
                        "no: EEXIST",
                        RefusedWith(errno.EEXIST),
                        "A page has one GPA, so what is undone for it is undone once.",
                    ),
                    Choice(
                        "einval",
                        "no: EINVAL",
                        RefusedWith(errno.EINVAL),
                        "A page has one GPA. Later kernels say EEXIST.",
                    ),
                ),
            ),
        ),
        Step(
            "move",
            "Ordinary slots can be moved to another GPA. So is this one.",
            SetSlot(vm=0, slot=0, gpa=3 * MIB, size=_SIZE, file=0),
            Question(
                "Can a slot that is bound be changed?",
                (
                    _WORKED,
                    Choice(
                        "einval",
                        "no: EINVAL",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                        "It can only be deleted, and made again elsewhere.",
                    ),
                ),
            ),
        ),
        Step("other-vm", "Another VM, in the same process.", MakeVm(1)),
        Step(
            "steal",
            "The other VM is to get a slot with the first one's file. The process holds both "
            "descriptors, so no permission is lacking.",
            SetSlot(vm=1, slot=0, gpa=MIB, size=_SIZE, file=0),
            Question(
                "Does the second VM get the first one's memory?",
                (
                    Choice("worked", "yes", Worked()),
                    Choice(
                        "einval",
                        "no: EINVAL",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                        "The file remembers its VM. Who has to remember whom, a later chapter "
                        "asks.",
                    ),
                    _EEXIST,
                ),
            ),
        ),
        Step(
            "shared-file",
            "With the flags MMAP and INIT_SHARED the host may map a file. A second one is made so.",
            MakeFile(0, 1, _SIZE, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
            Question(
                "This VM has no private memory. May it have such a file?",
                (
                    Choice(
                        "worked",
                        "yes",
                        AllOf((Worked(), Holds("file", 2))),
                        "Its memory then comes from a guest_memfd, and none of it is private.",
                    ),
                    _EINVAL,
                ),
            ),
        ),
        Step("map-shared", "And the monitor maps it, as it tried with the first one.", MapFile(1)),
        Step(
            "close",
            "The first file's descriptor is closed while the slot is bound to it.",
            Close(Thing.FILE, 0),
            Question(
                "Is the slot still bound?",
                (
                    Choice(
                        "gone",
                        "no: the file went, and took its memory along",
                        AllOf((Worked(), Holds("file", 1), Bound(0, 0))),
                        "A slot does not keep its file. The descriptor was all that did.",
                    ),
                    Choice("bound", "yes: the slot keeps the file", AllOf((Worked(), Bound(0, 1)))),
                    Choice("ebusy", "the kernel refuses: EBUSY", RefusedWith(errno.EBUSY)),
                ),
            ),
            after="Change it: bind what is left in other ways, and see which rule says no.",
            tries=(
                SetSlot(vm=0, slot=1, gpa=2 * MIB, size=_SIZE, file=1),
                SetSlot(vm=0, slot=1, gpa=2 * MIB, size=PAGE_SIZE, file=1, file_offset=1),
                MakeFile(0, 2, _SIZE - 1),
                MakeFile(0, 2, _SIZE, 4),
            ),
        ),
    ),
    exercise=2,
)
