# SPDX-License-Identifier: MIT
"""guest_memfd: made, bound, and each way to be refused."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import Close, MakeFile, MakeVm, MapFile, SetSlot, Thing
from pyvmm.demo.telling.chapter import (
    AllOf,
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
    title="guest_memfd",
    aim="A guest_memfd belongs to one VM, and each of its pages to one slot at most; "
    "the host has it only where it was made for that.",
    needs=frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES}),
    steps=(
        Step("vm", "First a VM: a guest_memfd is always some VM's.", MakeVm(0)),
        Step(
            "file",
            "KVM_CREATE_GUEST_MEMFD makes a file of four pages that has no name and no path. "
            "It is asked of the VM, not of /dev/kvm.",
            MakeFile(0, 0, _SIZE),
            after="A file, and nothing in it: a page comes into being when the guest touches it.",
        ),
        Step(
            "map",
            "The monitor tries to map the file, as it would any other.",
            MapFile(0),
            Question(
                "Does the host get a view of the guest's memory?",
                (
                    Choice("worked", "yes, and it reads zeroes", Worked()),
                    Choice(
                        "enodev",
                        "no: ENODEV",
                        RefusedWith(errno.ENODEV),
                        "This is the whole point: no address lets the host look.",
                    ),
                    Choice("eacces", "no: EACCES, as for a file of somebody else", RefusedWith(13)),
                ),
            ),
        ),
        Step(
            "bind",
            "A memslot binds it: GPA, size, the file and an offset in it. "
            "The slot has an address of the host's as well, for pages that are shared.",
            SetSlot(vm=0, slot=0, gpa=MIB, size=_SIZE, file=0),
            after="Two memories behind one range of addresses: "
            "which of them the guest gets is another chapter.",
        ),
        Step(
            "beyond",
            "A second slot asks for pages of the file from the third on, four of them.",
            SetSlot(vm=0, slot=1, gpa=2 * MIB, size=_SIZE, file=0, file_offset=2 * PAGE_SIZE),
            Question(
                "The file has four pages. Which answer does the kernel give?",
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
                "May a page of the file be at two guest-physical addresses?",
                (
                    Choice("worked", "yes, as with any memory that is shared", Worked()),
                    Choice(
                        "eexist",
                        "no: EEXIST",
                        RefusedWith(errno.EEXIST),
                        "A page has one address, so that what is undone for it is undone once.",
                    ),
                    Choice(
                        "einval",
                        "no: EINVAL",
                        RefusedWith(errno.EINVAL),
                        "A page has one address. Later kernels say EEXIST.",
                    ),
                ),
            ),
        ),
        Step(
            "move",
            "The slot that is bound is to move to another address, as ordinary slots can.",
            SetSlot(vm=0, slot=0, gpa=3 * MIB, size=_SIZE, file=0),
            Question(
                "Can a slot that is bound be changed?",
                (
                    _WORKED,
                    Choice(
                        "einval",
                        "no: EINVAL",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                        "It can be deleted and made again, and nothing else.",
                    ),
                ),
            ),
        ),
        Step("other-vm", "Another VM, in the same process.", MakeVm(1)),
        Step(
            "steal",
            "The other VM is given a slot with the first one's file. "
            "The process holds both descriptors, so nothing of the process stands in the way.",
            SetSlot(vm=1, slot=0, gpa=MIB, size=_SIZE, file=0),
            Question(
                "Does the second VM get the first one's memory?",
                (
                    Choice("worked", "yes", Worked()),
                    Choice(
                        "einval",
                        "no: EINVAL",
                        AllOf((RefusedWith(errno.EINVAL), Unchanged())),
                        "The file remembers its VM. Who is to remember whom is what "
                        "the chapter on references is about.",
                    ),
                    _EEXIST,
                ),
            ),
        ),
        Step(
            "shared-file",
            "With the flags MMAP and INIT_SHARED a file is memory that the host may map.",
            MakeFile(0, 1, _SIZE, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
            Question(
                "Is that allowed for a VM without private memory?",
                (
                    Choice(
                        "worked",
                        "yes",
                        AllOf((Worked(), Holds("file", 2))),
                        "Such a VM gets all of its memory from a guest_memfd, and none is private.",
                    ),
                    _EINVAL,
                ),
            ),
        ),
        Step("map-shared", "And the host maps it.", MapFile(1)),
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
                        AllOf((Worked(), Holds("file", 1))),
                        "A slot holds no reference on its file. The descriptor was the last one.",
                    ),
                    Choice("ebusy", "the kernel refuses: EBUSY", RefusedWith(errno.EBUSY)),
                ),
            ),
        ),
    ),
)
