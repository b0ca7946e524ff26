# SPDX-License-Identifier: MIT
"""Outcome of a guest's run from the way its QEMU ended."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.compare.observations import EndKind, end_of_qemu
from pyvmm.qmp.peer import QemuEvent
from pyvmm.testing.drivers.driver import Outcome, OutcomeKind

_KINDS = {
    EndKind.EXITED: OutcomeKind.EXITED,
    EndKind.PANICKED: OutcomeKind.PANICKED,
    EndKind.RESTARTED: OutcomeKind.RESET,
    EndKind.POWERED_OFF: OutcomeKind.POWERED_OFF,
    EndKind.HALTED: OutcomeKind.CRASHED,
    EndKind.BAD_STATUS: OutcomeKind.CRASHED,
    EndKind.CRASHED: OutcomeKind.CRASHED,
    EndKind.TIME_LIMIT: OutcomeKind.TIME_LIMIT,
}
TRIPLE_FAULT = b"Triple fault"
"""Line that TCG writes to its log (QEMU target/i386/tcg/sysemu/excp_helper.c)."""
_RESET = "the guest reset its machine"
_RESET_OR_FAULT = f"{_RESET}, or died of a triple fault: under KVM QEMU tells no difference"


def outcome_of(
    returncode: int, events: Sequence[QemuEvent], seconds: float, log: bytes | None
) -> Outcome:
    """Outcome by `returncode` (as `subprocess` has it) and all events of a QEMU.

    `log` is what TCG wrote of resets of a CPU, which tells a triple fault from a reset; None under
    KVM.
    """
    reason, panicked = "", False
    for event in events:
        if event.name == "SHUTDOWN":
            reason = str(event.data.get("reason", ""))
        panicked = panicked or event.name == "GUEST_PANICKED"
    end = end_of_qemu(returncode, reason, panicked=panicked)
    kind, detail = _KINDS[end.kind], end.detail
    match end.kind:
        case EndKind.EXITED:
            detail = f"the guest ended with status {end.status}"
        case EndKind.BAD_STATUS:
            detail = f"the guest wrote {end.status} to its exit port, which takes 0..63"
        case EndKind.PANICKED:
            detail = "the guest panicked (QEMU's GUEST_PANICKED)"
        case EndKind.POWERED_OFF:
            detail = "the guest powered its machine off"
        case EndKind.RESTARTED if log is None:
            detail = _RESET_OR_FAULT
        case EndKind.RESTARTED if log is not None and TRIPLE_FAULT in log:
            kind, detail = OutcomeKind.CRASHED, "triple fault"
        case EndKind.RESTARTED:
            detail = _RESET
    status = end.status if end.kind is EndKind.EXITED else None
    return Outcome(kind, detail, status, seconds, {})


def broken(state: str, said: str, seconds: float) -> Outcome:
    """Outcome of a guest that QEMU stopped for good, in its run state `state`; `said`: why."""
    detail = f"QEMU cannot go on with it ({state}){f': {said}' if said else ''}"
    return Outcome(OutcomeKind.CRASHED, detail, None, seconds, {})


def out_of_time(timeout: float, seconds: float) -> Outcome:
    """Outcome of a guest that still ran after `timeout` seconds."""
    detail = f"it was still running after {timeout:g} s"
    return Outcome(OutcomeKind.TIME_LIMIT, detail, None, seconds, {})
