# SPDX-License-Identifier: MIT
"""The part of a confidential VM that takes hardware: signer, keys; and what that leaves open."""

from __future__ import annotations

from pyvmm.demo.chapters.guest_pages import PRIVATE, SECRET
from pyvmm.demo.telling.acts import (
    Actor,
    Attack,
    Boot,
    Change,
    Convert,
    HideSecret,
    Look,
    Road,
    Until,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    Chapter,
    Choice,
    NoneOf,
    Question,
    ReportAgrees,
    SameDigest,
    Setup,
    StageKind,
    StateIs,
    Step,
    Worked,
)
from pyvmm.memory.conversion import Side
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

HARDWARE = Chapter(
    id="hardware",
    title="What real hardware adds",
    aim="Without hardware all this protects nothing from a monitor that lies, or from root. "
    "SEV-SNP and TDX add a signer and keys; denial, and much of what leaks, they leave open.",
    needs=PRIVATE,
    setup=Setup(StageKind.PRIVATE),
    exercise=10,
    steps=(
        Step(
            "boot",
            "All that you saw runs on any processor, in a type of VM that KVM has for development: "
            "SW_PROTECTED_VM. Here is such a machine once more, with its digest.",
            Boot(),
        ),
        Step(
            "forge",
            "Now the monitor lies. It loads a kernel with one bit changed, and when the firmware "
            "has written its report, it writes the right kernel's digest over it.",
            Boot(Change.FORGED_REPORT),
            Question(
                "Which digest does somebody see who asks for the report?",
                (
                    Choice(
                        "right",
                        "the right kernel's",
                        AllOf((SameDigest(same=True), ReportAgrees(agrees=False))),
                        "Right digest, wrong guest. The report lies in memory that the monitor can "
                        "write, so it is worth as much as the monitor's word.",
                    ),
                    Choice(
                        "wrong",
                        "the one of what was loaded",
                        AllOf((SameDigest(same=False), ReportAgrees(agrees=True))),
                    ),
                ),
            ),
        ),
        Step(
            "signer",
            "What stops it is a signer that the monitor is not. On SEV-SNP, AMD's confidential "
            "VMs, a secure processor measures and signs; on TDX, Intel's, a module that the "
            "processor guards. Who asks gives a number that is signed too, so no old report will "
            "do.",
            Look(),
            after="That is attestation. A digest alone is none.",
        ),
        Step(
            "hide",
            f"The guest runs all the same. It writes a secret to its page at {SECRET:#x}.",
            HideSecret(SECRET),
        ),
        Step(
            "registers",
            "The host stops the vCPU and reads its registers.",
            Attack(Road.REGISTERS, SECRET),
            after="Open here. SEV-ES, SEV-SNP and TDX keep the guest's registers encrypted or in "
            "the module while the host runs.",
        ),
        Step(
            "root",
            "Root on this host could read the kernel's own pages, and so the secret: nothing is "
            "encrypted here. On hardware each VM's memory has a key that the processor alone has, "
            "so root reads ciphertext.",
            Look(),
        ),
        Step(
            "deny",
            "And the host takes the page away, in the middle of the guest's life.",
            Convert(Actor.HOST, SECRET, PAGE_SIZE, Side.SHARED),
            Question(
                "Would hardware keep the guest from losing it?",
                (
                    Choice(
                        "lost",
                        "no: here it is gone, and there too",
                        AllOf((Worked(), StateIs(SECRET, PageState.SHARED))),
                        "Hardware tells the guest, which stops rather than go on with another "
                        "page. That the host can stop a guest is outside of what they promise.",
                    ),
                    Choice("kept", "yes: here it is refused already", NoneOf((Worked(),))),
                ),
            ),
        ),
        Step(
            "card-denial",
            "Not shown here: denial of service. The host owns time and memory: it need not run the "
            "guest, not answer it, and can end it. No such hardware protects from that.",
            Look(),
        ),
        Step(
            "card-replay",
            "Not shown here: replay. Who can write to the memory chips could put old ciphertext "
            "back, or alias addresses, as BadRAM and Battering RAM did. A disk's old contents are "
            "another matter still: no digest tells how fresh it is.",
            Look(),
        ),
        Step(
            "card-side-channels",
            "Not shown here: side channels. Page faults, caches, exits and the pattern of "
            "ciphertext tell something of what a guest does; CipherLeaks read keys that way. The "
            "makers leave most of that to the guest's programs.",
            Look(),
            after="Change it: forge a report yourself, and look what the two digests say.",
            tries=(
                Boot(Change.KERNEL_BYTE),
                Boot(),
                Boot(Change.FORGED_REPORT),
                Boot(until=Until.READY),
                Attack(Road.EXITS, SECRET),
            ),
        ),
    ),
)
