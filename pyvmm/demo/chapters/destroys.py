# SPDX-License-Identifier: MIT
"""Conversions destroy contents and give pages back: on each side, and in the host's memory."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import NEXT_PAGE, PRIVATE, SECRET
from pyvmm.demo.telling.acts import (
    Actor,
    Attack,
    Boot,
    Convert,
    HideSecret,
    Hole,
    Read,
    Road,
    Until,
    Write,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    Chapter,
    Choice,
    NoneOf,
    Question,
    ReadValue,
    ResidentAt,
    Sees,
    Setup,
    StageKind,
    Step,
    Worked,
)
from pyvmm.demo.telling.outcomes import Content
from pyvmm.memory.conversion import Side
from pyvmm.rules.abi import PAGE_SIZE

_VALUE = 0x5A
_BYTE = SECRET + 16
"""GPA behind the secret."""

DESTROYS = Chapter(
    id="destroys",
    title="What a conversion destroys, and what it gives back",
    aim="A page that changes sides arrives empty, for guest and host alike. The other side's page "
    "is given back; where a monitor forgets that, the guest has its RAM twice.",
    needs=PRIVATE,
    setup=Setup(StageKind.PRIVATE),
    exercise=5,
    steps=(
        Step("boot", "A machine with private memory, and its guest.", Boot(until=Until.READY)),
        Step(
            "hide",
            f"The guest writes a secret of 16 bytes to its private page at {SECRET:#x}. The demo "
            f"keeps no copy of it, and can only recognise it where it is found.",
            HideSecret(SECRET),
        ),
        Step(
            "share",
            "The guest makes that page shared, with the secret in it.",
            Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.SHARED),
        ),
        Step(
            "look",
            "The host looks at what is now a shared page.",
            Attack(Road.MAPPING, SECRET),
            Question(
                "What does it find?",
                (
                    Choice("secret", "the secret", Sees(Road.MAPPING, Content.SECRET)),
                    Choice(
                        "zero",
                        "zeroes",
                        Sees(Road.MAPPING, Content.ZERO),
                        "Another page is behind the address now. Nothing is copied, so by sharing "
                        "a page nobody gives a secret away.",
                    ),
                    Choice("cipher", "other bytes", Sees(Road.MAPPING, Content.OTHER)),
                ),
            ),
        ),
        Step(
            "guest-reads",
            "The guest reads the first byte at that address, which was its secret's.",
            Read(Actor.GUEST, 0, SECRET),
            Question(
                "Does the guest have its secret still?",
                (
                    Choice(
                        "zero",
                        "no: it reads 0",
                        ReadValue(0),
                        "The private page was given back, and its contents with it. Guests copy "
                        "first what they want to keep. On hardware it varies what is found there.",
                    ),
                    Choice(
                        "kept",
                        "yes: the guest's view has not changed",
                        AllOf((Worked(), NoneOf((ReadValue(0), ReadValue(None))))),
                    ),
                ),
            ),
        ),
        Step(
            "write",
            f"Now it writes {_VALUE:#x} into the shared page.",
            Write(Actor.GUEST, 0, _BYTE, _VALUE),
        ),
        Step(
            "host-reads",
            "And the host reads.",
            Read(Actor.HOST, 0, _BYTE),
            Question(
                "What does the host get?",
                (
                    Choice("zero", "0", ReadValue(0)),
                    Choice(
                        "value",
                        f"{_VALUE:#x}",
                        ReadValue(_VALUE),
                        "A shared page is the host's. Whatever goes to a disk, a network card or "
                        "the console passes through such pages, encrypted by the guest or not.",
                    ),
                ),
            ),
        ),
        Step(
            "back",
            "The guest makes the page private again, the byte in it. A page is resident if the "
            "kernel holds memory for it, and each side has pages of its own; now this one is on "
            "the shared side.",
            Convert(Actor.GUEST, SECRET, PAGE_SIZE, Side.PRIVATE),
            Question(
                "Is the shared side's page resident afterwards?",
                (
                    Choice(
                        "kept",
                        "yes, for the next time",
                        ResidentAt(Side.SHARED, SECRET, resident=True),
                    ),
                    Choice(
                        "given-back",
                        "no",
                        ResidentAt(Side.SHARED, SECRET, resident=False),
                        "The monitor gives it back. Where one forgets that, a page that was ever "
                        "shared is held twice: guests of 4 GiB were seen to take 7.",
                    ),
                ),
            ),
        ),
        Step(
            "left-behind",
            "Could the host still find the byte in its own memory, at that address?",
            Read(Actor.HOST, 0, _BYTE),
            Question(
                "What is left there?",
                (
                    Choice("value", f"{_VALUE:#x}", ReadValue(_VALUE)),
                    Choice(
                        "zero",
                        "0",
                        ReadValue(0),
                        "It went with the page. Of what the host copied while the page was shared, "
                        "nothing is taken back, of course.",
                    ),
                ),
            ),
        ),
        Step(
            "write-private",
            f"The guest writes {_VALUE:#x} once more. The page is private now.",
            Write(Actor.GUEST, 0, _BYTE, _VALUE),
        ),
        Step(
            "hole",
            "The host cannot read that, but the file is its own. It punches a hole into it: "
            "fallocate(2) frees the page.",
            Hole(0, SECRET, PAGE_SIZE),
        ),
        Step(
            "guest-after",
            "The guest reads its byte. It has noticed nothing.",
            Read(Actor.GUEST, 0, _BYTE),
            Question(
                "What does it get?",
                (
                    Choice(
                        "value", f"{_VALUE:#x}: private memory is the guest's", ReadValue(_VALUE)
                    ),
                    Choice(
                        "zero",
                        "0",
                        ReadValue(0),
                        "The host cannot read private memory, and can take it away. On processors "
                        "made for confidential VMs that stops the guest; the page is lost all the "
                        "same.",
                    ),
                ),
            ),
            after="Change it: write, convert and read in another order. When does a byte survive?",
            tries=(
                Write(Actor.GUEST, 0, NEXT_PAGE, _VALUE),
                Convert(Actor.GUEST, NEXT_PAGE, PAGE_SIZE, Side.PRIVATE),
                Read(Actor.GUEST, 0, NEXT_PAGE),
                Convert(Actor.GUEST, NEXT_PAGE, PAGE_SIZE, Side.SHARED),
                Read(Actor.HOST, 0, NEXT_PAGE),
            ),
        ),
    ),
)
