# SPDX-License-Identifier: MIT
"""One access of a guest on a bare stage, and the rule that decides it."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.demo.stage.things import FileOnStage, Things, VmOnStage
from pyvmm.demo.telling.acts import ATTEMPT
from pyvmm.demo.telling.outcomes import Explained
from pyvmm.errors import UsageError
from pyvmm.memory.page_states import PageState
from pyvmm.replay.guest import REACH, Access
from pyvmm.rules.abi import KVM_MEM_GUEST_MEMFD, PAGE_SIZE
from pyvmm.rules.access import (
    FAULTS,
    AccessOutcome,
    Bound,
    BusError,
    GuestAccess,
    HostAccess,
    MemoryFault,
    PlainFault,
    guest_access,
    host_access,
)
from pyvmm.rules.memslots import Slot
from pyvmm.rules.profile import PrivateBy

MOST_VCPUS = 32
"""Most vCPUs that a VM of a stage may have in its life: KVM uses no index of one again."""


@dataclass(frozen=True, slots=True)
class Accessed:
    """Outcome of a guest's access: the byte, what KVM_RUN failed with, and the rule behind that.

    `tells_no_exit`: the kernel tells of none, where the model does.
    """

    value: int | None
    errno: int
    explained: Explained | None
    tells_no_exit: bool = False


def require_reach(gpa: int) -> None:
    """Raise `UsageError` for an address that a stage's guest cannot touch."""
    if gpa >= REACH:
        raise UsageError(ATTEMPT, f"the guest of this stage touches addresses below {REACH:#x}")


def accessed(things: Things, on_stage: VmOnStage, gpa: int, value: int | None) -> Accessed:
    """Let the VM's guest, which there is, read the byte at `gpa`, or write `value` there."""
    assert on_stage.guest is not None
    judged = judge(things, on_stage, gpa, write=value is not None)
    guest = on_stage.guest
    access = guest.read(gpa) if value is None else guest.write(gpa, value & 0xFF)
    return Accessed(
        access.value, access.errno, _explained(access, judged), isinstance(judged, PlainFault)
    )


def judge(things: Things, on_stage: VmOnStage, gpa: int, *, write: bool) -> AccessOutcome:
    """The outcome of a guest's access by the rules."""
    slot = on_stage.slot_at(gpa)
    file = None if slot is None else slot.file
    known = bound = None
    if slot is not None:
        act, side = slot.act, slot.side
        flags = act.flags | (KVM_MEM_GUEST_MEMFD if file is not None else 0)
        known = Slot(act.slot, act.gpa, act.size, 0 if side is None else side.hva, flags)
        if file is not None:
            bound = Bound(act.file_offset, file.flags, things.lives(file))
    return guest_access(
        GuestAccess(
            gpa // PAGE_SIZE * PAGE_SIZE,
            write,
            PrivateBy.ATTRIBUTES if on_stage.private else PrivateBy.NOBODY,
            on_stage.state_at(gpa) is PageState.PRIVATE,
            known,
            bound,
            host_mapped=slot is not None and slot.side is not None,
        )
    )


def _explained(access: Access, judged: AccessOutcome) -> Explained | None:
    """The rule behind a fault; a sentence where rules and host do not agree."""
    if not isinstance(judged, MemoryFault | PlainFault):
        if not access.errno:
            return None
        return Explained("", "by the rules the access should have worked", "")
    cause, source = FAULTS[judged.rule]
    if not access.errno:
        return Explained("", f"by the rules it should have failed: {cause}", "")
    if access.errno != judged.errno:
        return Explained("", f"the rules say otherwise: {cause}", "")
    return Explained(judged.rule, cause, source)


def host_fault(file: FileOnStage, offset: int, number: int) -> Accessed:
    """Outcome of the host's access to a mapping of a file that failed with errno `number`."""
    judged = host_access(
        HostAccess(offset, file.file.size, file.flags, private=file.is_private(offset))
    )
    if not isinstance(judged, BusError):
        return Accessed(None, number, Explained("", "by the rules it should have worked", ""))
    cause = f"{judged.value}; who touches it gets SIGBUS, where a system call gets EFAULT"
    return Accessed(None, number, Explained("host-access", cause, "kvm_gmem_fault_user_mapping"))
