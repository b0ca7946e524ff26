# SPDX-License-Identifier: MIT
"""Exercises on a machine with private memory, as those in `exercises`."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import NEXT_PAGE, PRIVATE, SECRET
from pyvmm.demo.telling.acts import (
    Actor,
    Attack,
    Boot,
    Change,
    Convert,
    Read,
    Road,
    Touch,
    Until,
    Write,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    EndedWith,
    Exercise,
    Exited,
    Goal,
    NoneOf,
    ReadValue,
    ReportAgrees,
    ResidentAt,
    SameDigest,
    Sees,
    Setup,
    StageKind,
    StateIs,
)
from pyvmm.demo.telling.outcomes import Content
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, WINDOW_GPA
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

_STAGE = Setup(StageKind.PRIVATE)
_READY = Boot(until=Until.READY)
_FOUR = 4 * PAGE_SIZE
_VALUE = 0x5A
_PAGES = tuple(range(SECRET, SECRET + _FOUR, PAGE_SIZE))
_WANTED, _OTHER = WINDOW_GPA + 2 * PAGE_SIZE, WINDOW_GPA + 5 * PAGE_SIZE
_ALL_PRIVATE = Convert(Actor.GUEST, SECRET, _FOUR, Side.PRIVATE)
_SHARED = Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.SHARED)

SAME_DIGEST = Exercise(
    number=3,
    id="same-digest",
    task="End with a machine that has memory at 0x1000000, behind the 16 MiB of the first one. And "
    "have two launches in a row with the same digest, though something was changed in between.",
    hints=(
        "Each boot changes one input of the machine before; `boot none` goes back to the first.",
        "boot memory adds a megabyte, and another digest comes of that.",
        "One of the inputs is not in the digest: the guest reads it when it runs already.",
    ),
    needs=PRIVATE,
    setup=_STAGE,
    begins=(Boot(),),
    goals=(
        Goal("there is no memory at 0x1000000", StateIs(16 * MIB, PageState.PRIVATE)),
        Goal("no launch has had another digest than the one before", SameDigest(same=False)),
        Goal("no launch has had the digest of the one before", SameDigest(same=True)),
    ),
    solution=(Boot(Change.MEMORY), Boot(Change.STDIN)),
    wrong=(
        (Boot(Change.MEMORY), Boot()),
        (Boot(Change.MEMORY), Boot(Change.APPEND)),
        (Boot(Change.STDIN),),
    ),
)
FAULT_AND_END = Exercise(
    number=4,
    id="fault-and-end",
    task="Have the page at 0xc0002000 made shared by a fault, with no hypercall. Then have the "
    "guest end with 82, because it touched the page at 0xc0005000, which stays withheld.",
    hints=(
        "touch takes a GPA and a side, and then whether the monitor honours it.",
        "touch 0xc0002000 shared is a request that is honoured.",
        "touch 0xc0005000 shared no is one that is refused.",
    ),
    needs=PRIVATE,
    setup=_STAGE,
    begins=(_READY,),
    goals=(
        Goal(
            "no fault has made the page at 0xc0002000 shared",
            AllOf(
                (
                    Exited("MemoryFault"),
                    StateIs(_WANTED, PageState.SHARED),
                    NoneOf((EndedWith(82),)),
                )
            ),
        ),
        Goal("the guest has not ended with 82", EndedWith(82)),
        Goal("the page at 0xc0005000 is not withheld", StateIs(_OTHER, PageState.WITHHELD)),
    ),
    solution=(Touch(_WANTED, Side.SHARED), Touch(_OTHER, Side.SHARED, honour=False)),
    wrong=(
        (Touch(_WANTED, Side.SHARED, honour=False),),
        (
            Convert(Actor.HOST, _WANTED, PAGE_SIZE, Side.SHARED),
            Touch(_OTHER, Side.SHARED, honour=False),
        ),
        (
            Touch(_WANTED, Side.SHARED),
            Touch(_OTHER, Side.SHARED),
            Touch(_OTHER + PAGE_SIZE, Side.SHARED, honour=False),
        ),
        (Touch(_WANTED, Side.SHARED),),
    ),
)
NOT_TWICE = Exercise(
    number=5,
    id="not-twice",
    task="Four pages at 0x800000 are shared, and the guest has written 0x5a to the first. Make all "
    "four private, with none of them resident on the shared side, and have the guest read 0x5a at "
    "0x800000 then.",
    hints=(
        "A conversion destroys what was in a page.",
        "Somebody has to write the byte once more, behind the conversion.",
        "convert guest 0x800000 0x4000 private, write guest 0 0x800000 0x5a, read guest 0 "
        "0x800000.",
    ),
    needs=PRIVATE,
    setup=_STAGE,
    begins=(
        _READY,
        Convert(Actor.GUEST, SECRET, _FOUR, Side.SHARED),
        Write(Actor.GUEST, 0, SECRET, _VALUE),
        Write(Actor.GUEST, 0, NEXT_PAGE, _VALUE),
    ),
    goals=(
        Goal("the page at 0x800000 is not private", StateIs(SECRET, PageState.PRIVATE)),
        Goal(
            "the page at 0x803000 is not private",
            StateIs(SECRET + 3 * PAGE_SIZE, PageState.PRIVATE),
        ),
        Goal(
            "one of the four pages is resident on the shared side",
            AllOf(tuple(ResidentAt(Side.SHARED, page, resident=False) for page in _PAGES)),
        ),
        Goal(
            "the guest has not read 0x5a in a private page at 0x800000",
            AllOf((ReadValue(_VALUE), StateIs(SECRET, PageState.PRIVATE))),
        ),
    ),
    solution=(
        _ALL_PRIVATE,
        Write(Actor.GUEST, 0, SECRET, _VALUE),
        Read(Actor.GUEST, 0, SECRET),
    ),
    wrong=(
        (_ALL_PRIVATE, Read(Actor.GUEST, 0, SECRET)),
        (Read(Actor.GUEST, 0, SECRET), _ALL_PRIVATE),
        (
            Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.PRIVATE),
            Write(Actor.GUEST, 0, SECRET, _VALUE),
            Read(Actor.GUEST, 0, SECRET),
        ),
    ),
)
BY_AGREEMENT = Exercise(
    number=6,
    id="by-agreement",
    task="Get a byte that the guest has written at 0x800000 by /proc/self/mem. The guest has to "
    "agree: nothing else opens that road.",
    hints=(
        "Which side of a page does the host's address lead to?",
        "A page that is shared first and written then has the guest's bytes for both.",
        "convert guest 0x800000 0x1000 shared, write guest 0 0x800000 0x5a, attack proc-mem "
        "0x800000.",
    ),
    needs=PRIVATE,
    setup=_STAGE,
    begins=(_READY,),
    goals=(
        Goal("/proc/self/mem has not shown any bytes", Sees(Road.PROC_MEM, Content.OTHER)),
        Goal("the page at 0x800000 is not shared", StateIs(SECRET, PageState.SHARED)),
    ),
    solution=(_SHARED, Write(Actor.GUEST, 0, SECRET, _VALUE), Attack(Road.PROC_MEM, SECRET)),
    wrong=(
        (Write(Actor.GUEST, 0, SECRET, _VALUE), Attack(Road.PROC_MEM, SECRET)),
        (Write(Actor.GUEST, 0, SECRET, _VALUE), _SHARED, Attack(Road.PROC_MEM, SECRET)),
        (_SHARED, Write(Actor.GUEST, 0, SECRET, _VALUE)),
    ),
)
FORGE = Exercise(
    number=10,
    id="forge",
    task="Have a machine whose report has the digest of the launch before, while what was loaded "
    "is something else.",
    hints=(
        "A report is worth what its signer is worth. Who can write this one?",
        "The firmware's report lies in shared memory.",
        "There is a boot for that: its change is called forged-report.",
    ),
    needs=PRIVATE,
    setup=_STAGE,
    begins=(Boot(),),
    goals=(
        Goal("the report agrees with what was loaded", ReportAgrees(agrees=False)),
        Goal("no launch has had the digest of the one before", SameDigest(same=True)),
    ),
    solution=(Boot(Change.FORGED_REPORT),),
    wrong=(
        (Boot(Change.STDIN),),
        (Boot(Change.KERNEL_BYTE),),
        (Boot(Change.FORGED_REPORT), Boot()),
    ),
)
