# SPDX-License-Identifier: MIT
"""Private from the first instruction: firmware, staging area, digest."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import PRIVATE
from pyvmm.demo.telling.acts import Attack, Boot, Change, Look, NextExit, Road, Until
from pyvmm.demo.telling.chapter import (
    Chapter,
    Choice,
    Exited,
    NoneOf,
    Question,
    SameDigest,
    Sees,
    Setup,
    StageKind,
    StateIs,
    Step,
)
from pyvmm.demo.telling.outcomes import Content
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState

_KERNEL = MIB
"""GPA where the guest's image begins."""
_SAME = SameDigest(same=True)
_OTHER = SameDigest(same=False)


def _changed(asks: str, same: str = "", other: str = "") -> Question:
    return Question(
        asks,
        (
            Choice("other", "another digest", _OTHER, other),
            Choice("same", "the same digest", _SAME, same),
        ),
    )


LAUNCH = Chapter(
    id="launch",
    title="Private from the first instruction",
    aim="The guest is copied into private memory by firmware inside of the VM, which measures what "
    "arrived. The digest says what was loaded, and nothing about what the guest is told later.",
    needs=PRIVATE,
    setup=Setup(StageKind.PRIVATE),
    exercise=3,
    steps=(
        Step(
            "boot",
            "The host cannot write private memory, yet a kernel has to get there. So the VM starts "
            "in firmware, a small loader in shared memory, and the monitor puts the kernel beside "
            "it, into a staging area. Here it stands before its first instruction.",
            Boot(until=Until.RESET),
            Question(
                f"The kernel belongs at {_KERNEL:#x}. What is that page now?",
                (
                    Choice("private", "private", StateIs(_KERNEL, PageState.PRIVATE)),
                    Choice(
                        "shared",
                        "shared",
                        StateIs(_KERNEL, PageState.SHARED),
                        "Private memory begins with somebody who asks for it.",
                    ),
                ),
            ),
        ),
        Step(
            "first-exit",
            "The VM runs until its first exit: until it leaves for the monitor.",
            NextExit(),
            Question(
                "Who puts the kernel into private memory?",
                (
                    Choice(
                        "guest",
                        "the firmware, from inside of the VM",
                        Exited("Hypercall"),
                        "The exit is a hypercall, a call from the guest to KVM: make these pages "
                        "private. Then the firmware copies into them what lies in the staging "
                        "area.",
                    ),
                    Choice(
                        "monitor",
                        "the monitor, by a system call",
                        NoneOf((Exited("Hypercall"),)),
                    ),
                ),
            ),
        ),
        Step(
            "where",
            "On through the firmware, until it writes to an I/O port: it is done. The monitor "
            "takes firmware and staging area away.",
            NextExit("IoOut"),
            Question(
                "What is the kernel's first page now?",
                (
                    Choice(
                        "private",
                        "private",
                        StateIs(_KERNEL, PageState.PRIVATE),
                        "All of RAM is. From its first instruction on the kernel runs in private "
                        "memory: code, stack and page tables.",
                    ),
                    Choice(
                        "shared",
                        "shared, until the kernel makes itself private",
                        StateIs(_KERNEL, PageState.SHARED),
                    ),
                ),
            ),
        ),
        Step(
            "own-kernel",
            "The monitor itself has delivered the kernel. Now it looks at its own memory at that "
            "address.",
            Attack(Road.MAPPING, _KERNEL),
            Question(
                "What does it find there?",
                (
                    Choice("kernel", "the kernel", Sees(Road.MAPPING, Content.OTHER)),
                    Choice(
                        "zero",
                        "zeroes",
                        Sees(Road.MAPPING, Content.ZERO),
                        "The kernel went to the private page. The monitor's page at the same "
                        "address has never been written.",
                    ),
                    Choice("refused", "nothing, an error", Sees(Road.MAPPING, Content.REFUSED)),
                ),
            ),
        ),
        Step(
            "digest",
            "Is it the right kernel? The firmware hashes each page after it has copied it, with "
            "its address and the hash so far. The last hash is the launch digest, which anybody "
            "can compute beforehand.",
            Look(),
            after="It is the same by the firmware's reckoning and by the monitor's.",
        ),
        Step(
            "stdin",
            "The machine is made anew, and then a line is typed at the guest's console, which is "
            "its standard input.",
            Boot(Change.STDIN),
            _changed(
                "Does that change the digest?",
                "What is read after the launch is not in it, nor is a disk or the network. A right "
                "digest says how the guest began.",
            ),
        ),
        Step(
            "kernel-byte",
            "Once more, with one bit of one byte of the kernel turned over.",
            Boot(Change.KERNEL_BYTE),
            _changed(
                "And now?",
                other="About half of its bits differ. A digest tells that something is different, "
                "never what.",
            ),
        ),
        Step(
            "append",
            "Next to that, another command line.",
            Boot(Change.APPEND),
            _changed(
                "And now?",
                other="The firmware copies and measures the command line as well. A digest of the "
                "image alone would let the monitor say init=/bin/sh.",
            ),
        ),
        Step(
            "memory",
            "And a megabyte more of memory.",
            Boot(Change.MEMORY),
            _changed(
                "And now?",
                other="The memory map is handed to the kernel in a page, and each page that is "
                "loaded is measured.",
            ),
            after="Change it: boot with other changes, and guess each digest before you see it. "
            "`none` goes back to the first machine.",
            tries=(
                Boot(Change.INITRD),
                Boot(Change.STDIN),
                Boot(),
                Boot(Change.KERNEL_BYTE),
                Boot(),
            ),
        ),
    ),
)
