# SPDX-License-Identifier: MIT
"""Objects that keep others alive: in today's design, and in the mail's, side by side."""

from __future__ import annotations

from pyvmm.demo.telling.acts import Operate
from pyvmm.demo.telling.chapter import (
    AllOf,
    Answers,
    Chapter,
    Choice,
    IsAlive,
    Need,
    Question,
    Setup,
    StageKind,
    Step,
)

_LINUX = "file-pins-vm"
_MAIL = "memslot-pins-file"


def _lives(thing: str, linux: bool, mail: bool) -> AllOf:
    return AllOf((IsAlive(thing, linux, _LINUX), IsAlive(thing, mail, _MAIL)))


def _where(asks: str, thing: str, linux: str = "", mail: str = "", none: str = "") -> Question:
    return Question(
        asks,
        (
            Choice("both", "in both designs", _lives(thing, True, True)),
            Choice("linux", "in Linux's alone", _lives(thing, True, False), linux),
            Choice("mail", "in the mail's alone", _lives(thing, False, True), mail),
            Choice("none", "in neither", _lives(thing, False, False), none),
        ),
    )


PINS = Chapter(
    id="pins",
    title="Who pins whom",
    aim="A file keeps its VM alive, and a slot keeps nothing: so memory dies with its VM, and who "
    "closes the file takes it away. The other way round, memory outlives its VM.",
    needs=frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES}),
    setup=Setup(StageKind.PINS, designs=(_LINUX, _MAIL)),
    exercise=7,
    steps=(
        Step(
            "vm",
            "An object of the kernel lives as long as somebody holds a reference on it: it is "
            "pinned. A descriptor is a reference; so a VM lives while its descriptor is open, at "
            "least.",
            Operate("create-vm"),
            after="Two designs are shown: file-pins-vm, which is Linux's; and memslot-pins-file, "
            "which a mail proposed while guest_memfd was under review. The one that the kernel "
            "has, if there is a kernel, is carried out; of the other the rules are followed.",
        ),
        Step(
            "file",
            "A guest_memfd. In Linux's design it is made for a VM, and takes a reference on it; in "
            "the mail's it belongs to nobody yet.",
            Operate("create-file"),
        ),
        Step(
            "bind",
            "A memslot is bound to it. In Linux's design the slot only points to the file; in the "
            "mail's it takes a reference, and tells the file whose it is.",
            Operate("bind"),
        ),
        Step("write", "The guest writes to its memory.", Operate("guest-write")),
        Step(
            "other",
            "Somebody else has a VM, too. Think of an attacker.",
            Operate("create-vm:vm=1"),
        ),
        Step(
            "unbind",
            "The slot is deleted, as monitors do to change the layout of memory. The file stays "
            "open, with what the guest wrote.",
            Operate("unbind"),
        ),
        Step(
            "rebind",
            "And the other VM binds a slot to that file.",
            Operate("bind:vm=1"),
            Question(
                "Who says no?",
                (
                    Choice(
                        "both",
                        "both designs",
                        AllOf((Answers(_LINUX, "EINVAL"), Answers(_MAIL, "EINVAL"))),
                    ),
                    Choice(
                        "linux",
                        "Linux's alone",
                        AllOf((Answers(_LINUX, "EINVAL"), Answers(_MAIL, "ok"))),
                        "There the file's VM is alive, and is another one. In the mail's design "
                        "the file forgot its VM with the last slot.",
                    ),
                    Choice("none", "neither", AllOf((Answers(_LINUX, "ok"), Answers(_MAIL, "ok")))),
                ),
            ),
        ),
        Step(
            "read",
            "The other VM's guest reads.",
            Operate("guest-read"),
            Question(
                "What does it get, in the mail's design?",
                (
                    Choice("zeroes", "zeroes", Answers(_MAIL, "zeroes")),
                    Choice(
                        "contents",
                        "what the first VM's guest wrote",
                        Answers(_MAIL, "vm0's page"),
                        "That is the attack, and why the mail's design was not taken as it was. "
                        "Remedies exist, and each has a price.",
                    ),
                    Choice("refused", "nothing: it is refused", Answers(_MAIL, "EFAULT")),
                ),
            ),
        ),
        Step(
            "close-vm",
            "Now the first VM's descriptor is closed. The file's stays open.",
            Operate("close-vm"),
            _where(
                "Where does the VM live on, without a descriptor?",
                "vm0",
                linux="The file pins it. Whoever inherits or is sent that descriptor keeps a whole "
                "VM alive, perhaps without knowing.",
            ),
            after="In the mail's design the VM is freed, and what its guest wrote outlives it in "
            "the file.",
        ),
        Step(
            "close-file",
            "The file's descriptor is closed, too.",
            Operate("close-file"),
            _where(
                "Where does the file live on?",
                "file0",
                mail="The other VM's slot pins it there. In Linux's design nothing did any more, "
                "and the first VM, which it had kept alive, went along.",
            ),
        ),
        Step(
            "close-other",
            "And the other VM's descriptor, the last that is open.",
            Operate("close-vm:vm=1"),
            _where(
                "Where is the file's memory left?",
                "file0",
                none="Nothing that no descriptor leads to stays: both designs free all in the end. "
                "They differ in what happens before.",
            ),
            after="Change it: restart, and close in an order of your own. docs/lifetime.md asks "
            "both designs in every state that there is.",
            tries=(
                Operate("create-vm"),
                Operate("create-file"),
                Operate("bind"),
                Operate("guest-write"),
                Operate("close-file"),
                Operate("guest-read"),
            ),
        ),
    ),
)
