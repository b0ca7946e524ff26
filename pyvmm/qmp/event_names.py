# SPDX-License-Identifier: MIT
"""Events of a machine as events of QMP (qapi/run-state.json)."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pyvmm.machine.ending import Ending, EndingKind, Requester
from pyvmm.machine.events import (
    AccessRefused,
    CaptureFailed,
    DiskFailed,
    Ended,
    LinkChanged,
    MachineEvent,
    NetworkEnded,
    Paused,
    PowerdownAsked,
    ReceiveFilterChanged,
    Resumed,
    WasReset,
)


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """An event's name, and its data where it has any."""

    name: str
    data: Mapping[str, object] | None = None


STOP: Final = QmpEvent("STOP")
RESUME: Final = QmpEvent("RESUME")
MEMORY_REFUSED: Final = "X_PYVMM_MEMORY_REFUSED"
"""Ours: MEMORY_FAILURE tells of broken hardware, and not which page it is."""
LINK_CHANGED: Final = "X_PYVMM_LINK_CHANGED"
CAPTURE_FAILED: Final = "X_PYVMM_CAPTURE_FAILED"
"""Ours: QEMU tells of neither."""

_BY_REQUESTER: Final[Mapping[Requester | None, str]] = {
    Requester.SIGNAL: "host-signal",
    Requester.TERMINAL: "host-ui",
    Requester.QMP: "host-qmp-quit",
    Requester.OWNER: "host-ui",
    None: "host-signal",
}
_CAUSES: Final[Mapping[EndingKind, str]] = {
    EndingKind.EXITED: "guest-shutdown",
    EndingKind.BAD_STATUS: "guest-shutdown",
    EndingKind.HALTED: "guest-shutdown",
    EndingKind.RESET: "guest-reset",
    EndingKind.TRIPLE_FAULT: "guest-reset",
    EndingKind.PANICKED: "guest-panic",
    EndingKind.KVM_INTERNAL_ERROR: "host-error",
    EndingKind.FAILED_ENTRY: "host-error",
    EndingKind.MEMORY_REFUSED: "host-error",
    EndingKind.UNHANDLED_EXIT: "host-error",
    EndingKind.TIME_LIMIT: "host-signal",
    EndingKind.CLOSED: "host-ui",
}
"""ShutdownCause by kind, but for `INTERRUPTED`."""


def shutdown(ending: Ending | None) -> QmpEvent:
    """SHUTDOWN; None: the run ended because pyvmm or the host failed."""
    if ending is None:
        cause = "host-error"
    elif ending.kind is EndingKind.INTERRUPTED:
        cause = _BY_REQUESTER[ending.requester]
    else:
        cause = _CAUSES[ending.kind]
    return QmpEvent("SHUTDOWN", {"guest": cause.startswith("guest-"), "reason": cause})


def dump_completed(total: int, completed: int, error: str | None) -> QmpEvent:
    """DUMP_COMPLETED: `completed` of `total` bytes are written; `error` says why no more."""
    status = "completed" if error is None else "failed"
    result = {"total": total, "status": status, "completed": completed}
    why = {} if error is None else {"error": error}
    return QmpEvent("DUMP_COMPLETED", {"result": result, **why})


def _disk_failed(event: DiskFailed) -> QmpEvent:
    """BLOCK_IO_ERROR (qapi/block-core.json)."""
    return QmpEvent(
        "BLOCK_IO_ERROR",
        {
            "device": event.disk,
            "operation": event.operation,
            "action": "stop" if event.stops else "report",
            "nospace": event.errno == errno.ENOSPC,
            "reason": event.reason,
        },
    )


def qmp_events(event: MachineEvent) -> Iterator[QmpEvent]:
    """The events for one of the machine's, in their order."""
    match event:
        case Paused():
            yield STOP
        case Resumed():
            yield RESUME
        case WasReset(by_guest):
            cause = "guest-reset" if by_guest else "host-qmp-system-reset"
            yield QmpEvent("RESET", {"guest": by_guest, "reason": cause})
        case PowerdownAsked():
            yield QmpEvent("POWERDOWN")
        case DiskFailed():
            yield _disk_failed(event)
        case LinkChanged(card, is_up):
            yield QmpEvent(LINK_CHANGED, {"name": card, "up": is_up})
        case ReceiveFilterChanged(card):
            yield QmpEvent("NIC_RX_FILTER_CHANGED", {"name": card, "path": card})
        case NetworkEnded(card, reason):
            # qapi/net.json has no reason; a client that knows of none does not look at it.
            yield QmpEvent("NETDEV_STREAM_DISCONNECTED", {"netdev-id": card, "reason": reason})
        case CaptureFailed(card, path, reason):
            data = {"name": card, "filename": str(path), "reason": reason}
            yield QmpEvent(CAPTURE_FAILED, data)
        case AccessRefused(vcpu, fault):
            told = {name.replace("_", "-"): value for name, value in fault.to_json().items()}
            yield QmpEvent(MEMORY_REFUSED, {"cpu-index": vcpu, **told})
        case Ended(ending):
            if ending.kind is EndingKind.PANICKED:
                yield QmpEvent("GUEST_PANICKED", {"action": "poweroff"})
            yield shutdown(ending)
