# SPDX-License-Identifier: MIT
"""Pages change sides: by hypercall, by fault, by the host's own will."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import PRIVATE, SECRET
from pyvmm.demo.telling.acts import Actor, Boot, Convert, Touch, Until
from pyvmm.demo.telling.chapter import (
    AllOf,
    Chapter,
    Choice,
    EndedWith,
    Exited,
    NoneOf,
    Question,
    Setup,
    StageKind,
    StateIs,
    Step,
    Worked,
)
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import WINDOW_GPA
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

_FAULT, _CALL = Exited("MemoryFault"), Exited("Hypercall")
_NO_EXIT = NoneOf((_FAULT, _CALL))
_REFUSED = NoneOf((Worked(),))

CONVERSION = Chapter(
    id="conversion",
    title="How a page changes sides",
    aim="A guest asks with a hypercall, or just touches, and the monitor converts: the attribute "
    "first, then the pages of the side that was left are given back. A fault can be a request.",
    needs=PRIVATE,
    setup=Setup(StageKind.PRIVATE),
    exercise=4,
    steps=(
        Step(
            "boot",
            "A machine with private memory. Its guest does what it is asked for through one page "
            "that it shares with the host, its mailbox.",
            Boot(until=Until.READY),
        ),
        Step(
            "ask",
            f"To convert a page is to change its side. A guest that wants to talk to the world "
            f"has to share something: this one wants the page at {SECRET:#x} to be shared.",
            Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.SHARED),
            Question(
                "How does the monitor hear of that?",
                (
                    Choice(
                        "call",
                        "by a hypercall, where the guest leaves for the monitor",
                        _CALL,
                        "KVM_HC_MAP_GPA_RANGE. The monitor clears the attribute PRIVATE, then "
                        "frees the private page in the guest_memfd.",
                    ),
                    Choice(
                        "fault",
                        "by a fault, when the guest touches the page",
                        AllOf((_FAULT, NoneOf((_CALL,)))),
                    ),
                    Choice("none", "not at all: KVM does it alone", _NO_EXIT),
                ),
            ),
        ),
        Step(
            "back",
            "And it wants the page to be private again.",
            Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.PRIVATE),
            after="The other way round: the attribute is set, then the shared side's page is given "
            "back with madvise(2). Outside of a demo, on KVM, pyvmm answers these hypercalls in C, "
            "with the same calls; here Python does, so that each can be shown.",
        ),
        Step(
            "outside",
            "Now the guest wants memory to be private that the machine has not got, far behind the "
            "end of its RAM.",
            Convert(Actor.GUEST, 1 << 36, PAGE_SIZE, Side.PRIVATE),
            Question(
                "What becomes of the guest?",
                (
                    Choice(
                        "told",
                        "it is told no, and goes on",
                        AllOf((_REFUSED, NoneOf((EndedWith(82),)))),
                        "The answer to the hypercall is an errno. All is checked before anything "
                        "is changed.",
                    ),
                    Choice("works", "nothing: it works", Worked()),
                    Choice("ends", "it is ended", EndedWith(82)),
                ),
            ),
        ),
        Step(
            "host",
            "The host can convert, too, without asking the guest: the attribute is the monitor's "
            "to set.",
            Convert(Actor.HOST, SECRET, PAGE_SIZE, Side.SHARED),
            Question(
                "May it make the guest's private page shared?",
                (
                    Choice(
                        "yes",
                        "yes",
                        AllOf((Worked(), StateIs(SECRET, PageState.SHARED))),
                        "It takes the page away, and what was in it is gone for both: the next "
                        "chapter is about that. Private memory does not keep the host from doing "
                        "harm, only from reading.",
                    ),
                    Choice("no", "no: only the guest can give up its privacy", _REFUSED),
                ),
            ),
        ),
        Step(
            "touch",
            f"Here nobody asks. From {WINDOW_GPA:#x} on lies a window of withheld pages: they are "
            "marked private, and no guest_memfd is behind them. The guest touches the first one.",
            Touch(WINDOW_GPA, Side.SHARED),
            Question(
                "What does KVM do?",
                (
                    Choice("crash", "it ends the guest: EFAULT, bad address", EndedWith(82)),
                    Choice(
                        "fault",
                        "it leaves for the monitor, with EFAULT",
                        AllOf((_FAULT, NoneOf((EndedWith(82),)))),
                        "KVM_RUN fails with EFAULT, and the exit KVM_EXIT_MEMORY_FAULT says which "
                        "page. The monitor took it as a request, converted, and ran the guest "
                        "again: an error that is a message.",
                    ),
                    Choice("none", "it shares the page, and the guest goes on", _NO_EXIT),
                ),
            ),
        ),
        Step(
            "touch-again",
            "The guest touches the same page once more.",
            Touch(WINDOW_GPA, Side.SHARED),
            Question(
                "Does that leave for the monitor, too?",
                (
                    Choice("fault", "yes, each access does", _FAULT),
                    Choice(
                        "none",
                        "no",
                        _NO_EXIT,
                        "The page is shared now, and the access just memory. A conversion costs "
                        "once.",
                    ),
                ),
            ),
        ),
        Step(
            "refuse",
            "The guest touches the next page of the window, and this time the monitor says no: it "
            "does not convert.",
            Touch(WINDOW_GPA + PAGE_SIZE, Side.SHARED, honour=False),
            Question(
                "What becomes of the guest?",
                (
                    Choice(
                        "ends",
                        "it is ended",
                        EndedWith(82),
                        "Its access can never succeed, so the run ends: with 82, which is pyvmm's "
                        "status for that. Whether a fault is a request or the end is the monitor's "
                        "policy.",
                    ),
                    Choice(
                        "value", "its access is dropped, and it goes on", NoneOf((EndedWith(82),))
                    ),
                ),
            ),
            after="Change it: boot again, and convert several pages, half a page, or none.",
            tries=(
                Boot(until=Until.READY),
                Convert(Actor.GUEST, SECRET, 4 * PAGE_SIZE, Side.SHARED),
                Convert(Actor.GUEST, SECRET, PAGE_SIZE // 2, Side.SHARED),
                Touch(WINDOW_GPA + PAGE_SIZE, Side.SHARED),
            ),
        ),
    ),
)
