# SPDX-License-Identifier: MIT
"""Exercises, one for each chapter: solved when the machine is as it should be, by whatever way.

Those about a running machine with private memory are in `private_exercises`.
"""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import (
    Close,
    ConvertInPlace,
    HoldPage,
    MakeFile,
    MakeVm,
    MapFile,
    Operate,
    SetSlot,
    Thing,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    Bound,
    Exercise,
    Goal,
    Holds,
    IsAlive,
    Need,
    NoneOf,
    RefusedWith,
    Setup,
    StageKind,
    StateIs,
    Unchanged,
    Worked,
)
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, PAGE_SIZE

_FOUR = 4 * PAGE_SIZE
_TWO = 2 * PAGE_SIZE
_FILES = frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES})
_LINUX = "file-pins-vm"
_SLOT = SetSlot(0, 0, MIB, _FOUR)
_OVERLAPPING = SetSlot(0, 1, MIB + _TWO, _FOUR)
_HALF_A_PAGE = SetSlot(0, 1, 2 * MIB, PAGE_SIZE // 2)
_EEXIST = AllOf((RefusedWith(errno.EEXIST), Unchanged()))
_EINVAL = AllOf((RefusedWith(errno.EINVAL), Unchanged()))
_REFUSED = AllOf((NoneOf((Worked(),)), Unchanged()))

REFUSALS = Exercise(
    number=1,
    id="two-refusals",
    task="VM 0 has a slot of four pages at 0x100000. Have KVM refuse two more slots, one with "
    "EEXIST and one with EINVAL, and give the VM a second slot of one page at 0x200000 in the end.",
    hints=(
        "EEXIST says that something is there already; EINVAL that a number cannot be.",
        "Slots may not overlap, and are made of whole pages.",
        "set-slot 0 1 0x102000 0x4000 overlaps; a size of 0x800 is half a page.",
    ),
    needs=frozenset(),
    begins=(MakeVm(0), _SLOT),
    goals=(
        Goal("no slot has been refused with EEXIST", _EEXIST),
        Goal("no slot has been refused with EINVAL", _EINVAL),
        Goal("the first slot is not as it was", StateIs(MIB, PageState.SHARED)),
        Goal("there is no memory at 0x200000", StateIs(2 * MIB, PageState.SHARED)),
        Goal("the slot at 0x200000 is larger than a page", StateIs(2 * MIB + PAGE_SIZE, None)),
    ),
    solution=(_OVERLAPPING, _HALF_A_PAGE, SetSlot(0, 1, 2 * MIB, PAGE_SIZE)),
    wrong=(
        (_OVERLAPPING, SetSlot(0, 1, 2 * MIB, PAGE_SIZE)),
        (_OVERLAPPING, _HALF_A_PAGE, SetSlot(0, 1, 2 * MIB, _TWO)),
        (_OVERLAPPING, _HALF_A_PAGE, SetSlot(0, 0, MIB, 0), SetSlot(0, 1, 2 * MIB, PAGE_SIZE)),
    ),
)
BINDINGS = Exercise(
    number=2,
    id="whole-file",
    task="File 0 has four pages. Bind all four to VM 0 with two slots, pages 0 and 1 at 0x200000, "
    "pages 2 and 3 at 0x100000, and have a third binding of the file refused.",
    hints=(
        "The last arguments of set-slot are the file and the offset in it, in bytes.",
        "set-slot 0 0 0x200000 0x2000 0 binds the first two pages.",
        "Pages 2 and 3 begin at offset 0x2000. Any third slot over the file is one too many.",
    ),
    needs=_FILES,
    begins=(MakeVm(0), MakeFile(0, 0, _FOUR)),
    goals=(
        Goal("the file is not bound to two slots", Bound(0, 2)),
        Goal("there is no memory at 0x200000", StateIs(2 * MIB, PageState.SHARED)),
        Goal("there is no memory at 0x100000", StateIs(MIB, PageState.SHARED)),
        Goal("the slot there is not of two pages", StateIs(MIB + PAGE_SIZE, PageState.SHARED)),
        Goal("no binding has been refused", _REFUSED),
    ),
    solution=(
        SetSlot(0, 0, 2 * MIB, _TWO, 0),
        SetSlot(0, 1, MIB, _TWO, 0, _TWO),
        SetSlot(0, 2, 3 * MIB, _TWO, 0),
    ),
    wrong=(
        (SetSlot(0, 0, 2 * MIB, _FOUR, 0), SetSlot(0, 1, MIB, _TWO, 0, _TWO)),
        (SetSlot(0, 0, 2 * MIB, _TWO, 0), SetSlot(0, 1, MIB, _TWO, 0, _TWO)),
        (SetSlot(0, 0, 2 * MIB, _TWO, 0), SetSlot(0, 1, MIB, _TWO)),
    ),
)
KEPT_VM = Exercise(
    number=7,
    id="vm-without-descriptor",
    task="Leave a VM alive that no descriptor of a VM is left for, so that closing one more thing "
    "would free it.",
    hints=(
        "Who pins a VM in Linux, beside its own descriptors?",
        "A guest_memfd takes a reference on its VM when it is made.",
        "operate create-vm, operate create-file, and then one close.",
    ),
    needs=_FILES,
    setup=Setup(StageKind.PINS, designs=(_LINUX,)),
    goals=(
        Goal("VM 0 does not exist", IsAlive("vm0", True, _LINUX)),
        Goal("a VM's descriptor is open", Holds("vm", 0)),
        Goal("more than one file's descriptor is open, or none", Holds("file", 1)),
        Goal("the file is mapped as well", Holds("mapping", 0)),
    ),
    solution=(Operate("create-vm"), Operate("create-file"), Operate("close-vm")),
    wrong=(
        (Operate("create-vm"), Operate("create-file"), Operate("close-file")),
        (Operate("create-vm"), Operate("create-file"), Operate("map"), Operate("close-vm")),
        (Operate("create-vm"), Operate("close-vm")),
    ),
)
AROUND = Exercise(
    number=8,
    id="around-the-held-page",
    task="A file of four pages is bound at 0x100000, all of them shared, and somebody holds the "
    "page at offset 0x2000. Make the other three private, and leave that one as it is, held.",
    hints=(
        "A range with a held page in it is refused as a whole.",
        "Two conversions will do: what lies before the held page, and what lies behind it.",
        "convert-in-place 0 0 0x2000 private is the first; the last page is at offset 0x3000.",
    ),
    needs=frozenset({Need.IN_PLACE}),
    begins=(
        MakeVm(0, private=True),
        MakeFile(0, 0, _FOUR, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
        SetSlot(0, 0, MIB, _FOUR, 0, host_side=False),
        HoldPage(0, _TWO),
    ),
    goals=(
        Goal("the first page is not private", StateIs(MIB, PageState.PRIVATE)),
        Goal("the second page is not private", StateIs(MIB + PAGE_SIZE, PageState.PRIVATE)),
        Goal("the held page is not shared", StateIs(MIB + _TWO, PageState.SHARED)),
        Goal("the last page is not private", StateIs(MIB + 3 * PAGE_SIZE, PageState.PRIVATE)),
        Goal("the page is not held any more", Holds("page", 1)),
    ),
    solution=(
        ConvertInPlace(0, 0, _TWO, Side.PRIVATE),
        ConvertInPlace(0, 3 * PAGE_SIZE, PAGE_SIZE, Side.PRIVATE),
    ),
    wrong=(
        (ConvertInPlace(0, 0, _FOUR, Side.PRIVATE),),
        (HoldPage(0, _TWO, held=False), ConvertInPlace(0, 0, _FOUR, Side.PRIVATE)),
        (ConvertInPlace(0, 0, _TWO, Side.PRIVATE),),
    ),
)
NOTHING_LEFT = Exercise(
    number=9,
    id="leave-nothing",
    task="A VM, two files, a slot and a mapping have been left behind. Free everything, without "
    "ending the process, and close VM 0 before any file.",
    hints=(
        "Each line of the graph that begins with [process] is something that is left.",
        "close vm 0, and then look again: a VM goes, its files do not.",
        "A mapping is a thing of its own: close mapping 1.",
    ),
    needs=_FILES,
    begins=(
        MakeVm(0),
        MakeFile(0, 0, _FOUR),
        MakeFile(0, 1, _FOUR, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
        SetSlot(0, 0, MIB, _FOUR, 0),
        MapFile(1),
    ),
    goals=(
        Goal(
            "VM 0 was not closed before the files",
            AllOf((Worked(), Holds("vm", 0), Holds("file", 2))),
        ),
        Goal("something is left", Holds("", 0)),
    ),
    solution=(
        Close(Thing.VM, 0),
        Close(Thing.FILE, 0),
        Close(Thing.FILE, 1),
        Close(Thing.MAPPING, 1),
    ),
    wrong=(
        (Close(Thing.FILE, 0), Close(Thing.FILE, 1), Close(Thing.MAPPING, 1), Close(Thing.VM, 0)),
        (Close(Thing.VM, 0), Close(Thing.FILE, 0), Close(Thing.FILE, 1)),
        (Close(Thing.VM, 0),),
    ),
)
