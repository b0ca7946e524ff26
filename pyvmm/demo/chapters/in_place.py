# SPDX-License-Identifier: MIT
"""In-place conversion: one memory that changes hands, as it has been posted for review."""

from __future__ import annotations

import errno

from pyvmm.demo.telling.acts import (
    Actor,
    ConvertInPlace,
    HoldPage,
    MakeFile,
    MakeVm,
    MapFile,
    Read,
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
    StateIs,
    Step,
    Unchanged,
    Worked,
)
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, PAGE_SIZE

_SIZE = 4 * PAGE_SIZE
_BYTE = MIB + 16
_VALUE = 0x5A
_REFUSED = NoneOf((Worked(),))

IN_PLACE = Chapter(
    id="in-place",
    title="In-place conversion",
    aim="With one memory instead of two, contents can stay where they are, and nothing is held "
    "twice. In return the host can be in the way: a page that somebody holds is not converted.",
    needs=frozenset({Need.IN_PLACE}),
    exercise=8,
    steps=(
        Step(
            "vm",
            "Two memories for one address cost twice, and a conversion destroys what was there. So "
            "another way is under review: one memory that changes hands. No released kernel has "
            "it, so this chapter follows the patches as they were posted: on a kernel with "
            "them, or on the model.",
            MakeVm(0, private=True),
        ),
        Step(
            "file",
            "A guest_memfd that the host may map, whose pages begin as shared ones.",
            MakeFile(0, 0, _SIZE, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED),
        ),
        Step(
            "bind",
            "One slot over the file. There is no memory of the monitor's beside it: both sides are "
            "this file's pages.",
            SetSlot(0, 0, MIB, _SIZE, 0, host_side=False),
        ),
        Step("map", "The monitor maps the file.", MapFile(0)),
        Step(
            "guest-writes",
            f"The guest writes {_VALUE:#x} at {_BYTE:#x}, in a page that is shared.",
            Write(Actor.GUEST, 0, _BYTE, _VALUE),
        ),
        Step(
            "to-private",
            "That page is converted. The file keeps the attributes now, not the VM, so the system "
            "call is one on the file: KVM_SET_MEMORY_ATTRIBUTES2.",
            ConvertInPlace(0, 0, PAGE_SIZE, Side.PRIVATE),
        ),
        Step(
            "host-reads",
            "The host reads by its mapping, which is still there.",
            Read(Actor.HOST, 0, _BYTE),
            Question(
                "What does the host get?",
                (
                    Choice(
                        "value",
                        f"{_VALUE:#x}, which it has had mapped all along",
                        ReadValue(_VALUE),
                    ),
                    Choice("zero", "0, as in the chapters before", ReadValue(0)),
                    Choice(
                        "refused",
                        "nothing: the access fails",
                        _REFUSED,
                        "The page has left every process's page tables. A system call gets EFAULT "
                        "for it, a plain access SIGBUS, which ends a monitor that is not ready "
                        "for that. There is no other memory to read zeroes from.",
                    ),
                ),
            ),
        ),
        Step(
            "guest-reads",
            "And the guest reads its byte.",
            Read(Actor.GUEST, 0, _BYTE),
            Question(
                "What does the guest get?",
                (
                    Choice("zero", "0: a conversion destroys", ReadValue(0)),
                    Choice(
                        "kept",
                        f"{_VALUE:#x}",
                        ReadValue(_VALUE),
                        "It is the same page. So a kernel can be put in place while the page is "
                        "shared and made private then, without a copy. Hardware may scramble it "
                        "all the same: guests must not count on it.",
                    ),
                    Choice("refused", "nothing: a fault", _REFUSED),
                ),
            ),
        ),
        Step(
            "hold",
            "A page can be held: a driver does that while its device works on the page, so that "
            "it stays as it is. Here a pipe holds the second page, by vmsplice(2).",
            HoldPage(0, PAGE_SIZE),
        ),
        Step(
            "all",
            "All four pages are to be private.",
            ConvertInPlace(0, 0, _SIZE, Side.PRIVATE),
            Question(
                "One of them is held. What happens?",
                (
                    Choice(
                        "eagain",
                        "EAGAIN, and no page is converted",
                        AllOf((RefusedWith(errno.EAGAIN), Unchanged())),
                        "And error_offset says which page. Else a device would go on writing to "
                        "memory that the guest takes for its own.",
                    ),
                    Choice(
                        "others",
                        "the other three are converted",
                        AllOf((StateIs(MIB + 2 * PAGE_SIZE, PageState.PRIVATE),)),
                    ),
                    Choice(
                        "all",
                        "all are, and the driver loses its page",
                        AllOf((Worked(), StateIs(MIB + PAGE_SIZE, PageState.PRIVATE))),
                    ),
                ),
            ),
        ),
        Step(
            "around",
            "So the monitor converts what lies behind the held page, and will come back for that.",
            ConvertInPlace(0, 2 * PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE),
            after="Change it: drop the reference and convert the rest; or take a page back to "
            "shared, and see what the host reads.",
            tries=(
                HoldPage(0, PAGE_SIZE, held=False),
                ConvertInPlace(0, PAGE_SIZE, PAGE_SIZE, Side.PRIVATE),
                ConvertInPlace(0, 0, PAGE_SIZE, Side.SHARED),
                Read(Actor.HOST, 0, _BYTE),
            ),
        ),
    ),
)
