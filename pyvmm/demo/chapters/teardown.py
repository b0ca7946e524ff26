# SPDX-License-Identifier: MIT
"""Teardown: everything goes with its last reference, and not before."""

from __future__ import annotations

from pyvmm.demo.telling.acts import End, Operate
from pyvmm.demo.telling.chapter import (
    AllOf,
    Answers,
    Chapter,
    Choice,
    IsAlive,
    Need,
    NoneOf,
    Question,
    Setup,
    StageKind,
    Step,
)

_LINUX = "file-pins-vm"


def _alive(thing: str, alive: bool) -> IsAlive:
    return IsAlive(thing, alive, _LINUX)


def _lives(asks: str, thing: str, yes: str = "", no: str = "") -> Question:
    return Question(
        asks,
        (
            Choice("yes", "yes", _alive(thing, True), yes),
            Choice("no", "no", _alive(thing, False), no),
        ),
    )


TEARDOWN = Chapter(
    id="teardown",
    title="Teardown",
    aim="Memory goes with its file's last reference, a VM with its own; a close that frees nothing "
    "looks like one that frees all, so count what is left.",
    needs=frozenset({Need.GUEST_MEMFD, Need.MAPPED_FILES}),
    setup=Setup(StageKind.PINS, designs=(_LINUX,)),
    exercise=9,
    steps=(
        Step(
            "vm",
            "At the end of a VM memory is given back, or is not, and nobody is told. Here is a VM "
            "once more, as Linux has it, to be taken down piece by piece.",
            Operate("create-vm"),
        ),
        Step(
            "file",
            "Its guest_memfd, of the kind that the host may map. It pins its VM.",
            Operate("create-file"),
        ),
        Step("bind", "A slot is bound to it, and pins nothing.", Operate("bind")),
        Step(
            "write", "The guest writes, so that there is something to lose.", Operate("guest-write")
        ),
        Step(
            "map",
            "And the monitor maps the file, as it does for devices that work on guest memory.",
            Operate("map"),
        ),
        Step(
            "close-file",
            "Now the end. First the file's descriptor is closed, while slot and mapping are there.",
            Operate("close-file"),
            _lives(
                "Does the file live on?",
                "file0",
                yes="A mapping is a reference as well. Only the number is gone that named it.",
            ),
        ),
        Step(
            "close-vm",
            "Then the VM's. No descriptor of either is open any more, and nothing that could "
            "still run the guest.",
            Operate("close-vm"),
            _lives(
                "Is the VM alive?",
                "vm0",
                yes="The mapping pins the file, and the file pins the VM: a whole VM, kept by an "
                "address range that nobody thought of.",
            ),
        ),
        Step(
            "host-read",
            "The monitor reads through its mapping.",
            Operate("host-read"),
            Question(
                "What does it find of a guest that was ended?",
                (
                    Choice(
                        "written",
                        "what the guest wrote",
                        NoneOf((Answers(_LINUX, "zeroes"), Answers(_LINUX, "SIGBUS"))),
                        "Nothing has been given back yet. Where memory is scarce that is a leak; "
                        "where contents are secret it is worse.",
                    ),
                    Choice("zeroes", "zeroes", Answers(_LINUX, "zeroes")),
                    Choice("fault", "nothing: SIGBUS", Answers(_LINUX, "SIGBUS")),
                ),
            ),
        ),
        Step(
            "unmap",
            "It unmaps the file.",
            Operate("unmap"),
            Question(
                "What is freed now?",
                (
                    Choice(
                        "all",
                        "the file with its memory, and the VM",
                        AllOf((_alive("file0", False), _alive("vm0", False))),
                        "One munmap(2), and the chain falls: mapping, file, VM.",
                    ),
                    Choice(
                        "file",
                        "the file alone",
                        AllOf((_alive("file0", False), _alive("vm0", True))),
                    ),
                    Choice("nothing", "nothing", _alive("file0", True)),
                ),
            ),
            after="Change it: build it again, close in another order, and end the process with "
            "something left.",
            tries=(
                Operate("create-vm"),
                Operate("create-file"),
                Operate("bind"),
                Operate("close-file"),
                Operate("guest-read"),
                End(),
            ),
        ),
    ),
)
