# SPDX-License-Identifier: MIT
"""An attack on the guest's secret, road by road; and what is open all the same."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import PRIVATE, SECRET
from pyvmm.demo.telling.acts import Actor, Attack, Boot, Convert, HideSecret, Read, Road, Until
from pyvmm.demo.telling.chapter import (
    Chapter,
    Choice,
    Question,
    Sees,
    Setup,
    StageKind,
    Step,
)
from pyvmm.demo.telling.outcomes import Content
from pyvmm.memory.conversion import Side
from pyvmm.rules.abi import PAGE_SIZE


def _what(
    asks: str, road: Road, words: dict[Content, str], because: dict[Content, str]
) -> Question:
    return Question(
        asks,
        tuple(
            Choice(
                content.name.lower(), words[content], Sees(road, content), because.get(content, "")
            )
            for content in words
        ),
    )


_ANSWERS = {
    Content.SECRET: "the secret",
    Content.ZERO: "zeroes",
    Content.OTHER: "other bytes",
    Content.REFUSED: "nothing: it is refused",
}

ATTACK = Chapter(
    id="attack",
    title="An attack on the secret, road by road",
    aim="No system call of the host's reads a private page. What the guest shares, its registers "
    "and its exits are open, and without encryption the kernel itself reads all.",
    needs=PRIVATE,
    setup=Setup(StageKind.PRIVATE),
    exercise=6,
    steps=(
        Step("boot", "A machine with private memory, and its guest.", Boot(until=Until.READY)),
        Step(
            "hide",
            f"The guest writes a secret to its private page at {SECRET:#x}. You are the host now: "
            "root, with the monitor's process in your hands.",
            HideSecret(SECRET),
        ),
        Step(
            "mapping",
            "First the monitor's memory behind the slot, as in the first chapter.",
            Attack(Road.MAPPING, SECRET),
            _what(
                "What does it have?",
                Road.MAPPING,
                {
                    Content.SECRET: "the secret",
                    Content.OTHER: "the secret, encrypted",
                    Content.ZERO: "zeroes",
                },
                {Content.ZERO: "The shared side, in which nobody has written."},
            ),
            after="To look there has made a page on the shared side, so now both are resident.",
        ),
        Step(
            "proc-mem",
            "/proc/self/mem goes around page protections: debuggers write to read-only code by it. "
            "Read the same address there.",
            Attack(Road.PROC_MEM, SECRET),
            _what(
                "And now?",
                Road.PROC_MEM,
                {
                    Content.SECRET: "the secret",
                    Content.ZERO: "zeroes",
                    Content.REFUSED: "nothing: it is refused",
                },
                {
                    Content.ZERO: "It goes around protections, not to other pages. On a kernel "
                    "the private page is at no address of any process.",
                },
            ),
        ),
        Step(
            "pread",
            "The guest_memfd is a file, and you hold its descriptor: read it with pread(2).",
            Attack(Road.FILE_READ, SECRET),
            _what(
                "What does the file say?",
                Road.FILE_READ,
                _ANSWERS,
                {
                    Content.REFUSED: "A guest_memfd has no read operation. There is nothing that a "
                    "permission could allow.",
                },
            ),
        ),
        Step(
            "mmap",
            "Map it, then.",
            Attack(Road.FILE_MMAP, SECRET),
            _what(
                "Is there an address for it?",
                Road.FILE_MMAP,
                {
                    Content.SECRET: "yes, and the secret is there",
                    Content.ZERO: "yes, and zeroes are there",
                    Content.REFUSED: "no: it is refused",
                },
                {Content.REFUSED: "ENODEV, as in the chapter on guest_memfd."},
            ),
        ),
        Step(
            "other-vm",
            "A second VM of your own, whose guest does as you like, gets a slot with the file.",
            Attack(Road.OTHER_VM, SECRET),
            _what(
                "Does your guest read it for you?",
                Road.OTHER_VM,
                {
                    Content.SECRET: "yes",
                    Content.ZERO: "no, it reads zeroes",
                    Content.REFUSED: "no: the slot is refused",
                },
                {Content.REFUSED: "The file is its VM's from the beginning."},
            ),
        ),
        Step(
            "qmp-dump",
            "Monitors write dumps of guest memory. Over QMP, QEMU's control protocol, you ask for "
            "one: dump-guest-memory.",
            Attack(Road.QMP_DUMP, SECRET),
            _what(
                "What is at the secret's address in the dump?",
                Road.QMP_DUMP,
                {**_ANSWERS, Content.REFUSED: "nothing: the page is left out"},
                {
                    Content.ZERO: "The monitor can dump only what it can read.",
                    Content.REFUSED: "The monitor can dump only what it can read.",
                },
            ),
        ),
        Step(
            "search",
            "Last, you search every page that is mapped in the monitor's process for bytes that "
            "look like the secret. Look first who answers here: a kernel, or the model.",
            Attack(Road.SEARCH, SECRET),
            _what(
                "Is the secret anywhere?",
                Road.SEARCH,
                {
                    Content.SECRET: "yes",
                    Content.REFUSED: "no",
                },
                {
                    Content.SECRET: "You are on the model. Its emulated processor needs guest "
                    "memory in this very process, so it hides nothing from a search. In the lab, "
                    "whose kernel has private memory, the secret is nowhere.",
                    Content.REFUSED: "It is in the kernel's pages alone. Root's next rung is the "
                    "kernel: /proc/kcore, a crash dump. Against that, hardware encrypts.",
                },
            ),
        ),
        Step(
            "registers",
            "You stop the vCPU and read its registers.",
            Attack(Road.REGISTERS, SECRET),
            after="They are all there. What a guest computes on passes through them. Processors "
            "made for confidential VMs encrypt them; this type of VM does not.",
        ),
        Step(
            "exits",
            "And you keep a log of when the guest leaves for the monitor, and why.",
            Attack(Road.EXITS, SECRET),
            after="Nobody can hide that. A guest whose exits depend on a secret tells it, on any "
            "hardware. Change it: let the guest share the page, and attack again.",
            tries=(
                Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.SHARED),
                HideSecret(SECRET),
                Attack(Road.MAPPING, SECRET),
                Attack(Road.CORE, SECRET),
                Attack(Road.VM_READV, SECRET),
                Read(Actor.GUEST, 0, SECRET),
            ),
        ),
    ),
)
