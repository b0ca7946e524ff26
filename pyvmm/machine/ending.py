# SPDX-License-Identifier: MIT
"""Endings of a run: a closed set of kinds, and the result that a finished machine leaves."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import GUEST_STATUS_MAX, ExitCode

if TYPE_CHECKING:
    from pyvmm.machine.memory_report import MemoryReport
    from pyvmm.machine.report import VcpuReport


class EndingKind(enum.Enum):
    """Reason why a run ended; the values are what ``--json`` shows."""

    EXITED = "exited"
    """The guest wrote a status to its exit port."""
    RESET = "reset"
    """The guest reset its machine, and that is to end the run (`RebootPolicy.END`)."""
    PANICKED = "panicked"
    TRIPLE_FAULT = "triple-fault"
    KVM_INTERNAL_ERROR = "kvm-internal-error"
    FAILED_ENTRY = "failed-entry"
    HALTED = "halted"
    """Every vCPU halted and nothing in the machine can wake one."""
    MEMORY_REFUSED = "memory-refused"
    """The guest touched memory that it may not have, or that nothing can give it."""
    UNHANDLED_EXIT = "unhandled-exit"
    BAD_STATUS = "bad-status"
    """The guest wrote more than 63 to its exit port."""
    TIME_LIMIT = "time-limit"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"
    """The machine's owner closed it while the guest ran."""


class Requester(enum.Enum):
    """Requester that ended a run from outside."""

    SIGNAL = "signal"
    TERMINAL = "terminal"
    """The keys Ctrl-A x, or the monitor behind Ctrl-A c."""
    QMP = "qmp"
    OWNER = "owner"
    """The program that has the machine."""


_EXIT_CODES: Mapping[EndingKind, ExitCode] = {
    EndingKind.RESET: ExitCode.GUEST_RESET,
    EndingKind.PANICKED: ExitCode.GUEST_PANICKED,
    EndingKind.TRIPLE_FAULT: ExitCode.GUEST_CRASHED,
    EndingKind.KVM_INTERNAL_ERROR: ExitCode.GUEST_CRASHED,
    EndingKind.FAILED_ENTRY: ExitCode.GUEST_CRASHED,
    EndingKind.HALTED: ExitCode.GUEST_CRASHED,
    EndingKind.MEMORY_REFUSED: ExitCode.MEMORY_REFUSED,
    EndingKind.UNHANDLED_EXIT: ExitCode.UNHANDLED_EXIT,
    EndingKind.BAD_STATUS: ExitCode.UNHANDLED_EXIT,
    EndingKind.TIME_LIMIT: ExitCode.TIME_LIMIT,
    EndingKind.INTERRUPTED: ExitCode.INTERRUPTED,
    EndingKind.CLOSED: ExitCode.INTERRUPTED,
}

_REPORTED = frozenset(
    {
        EndingKind.TRIPLE_FAULT,
        EndingKind.KVM_INTERNAL_ERROR,
        EndingKind.FAILED_ENTRY,
        EndingKind.HALTED,
        EndingKind.MEMORY_REFUSED,
        EndingKind.UNHANDLED_EXIT,
        EndingKind.BAD_STATUS,
        EndingKind.TIME_LIMIT,
    }
)
"""Kinds after which the vCPUs' state is worth keeping."""


class Ending(NamedTuple):
    """Reason why a run ended, in one line (`detail`), and the guest's `status` where it gave one.

    `requester` is who interrupted it, where somebody did.
    """

    kind: EndingKind
    detail: str
    status: int | None = None
    requester: Requester | None = None

    @property
    def exit_code(self) -> int:
        """Exit code of ``pyvmm run``."""
        if self.kind is EndingKind.EXITED and self.status is not None:
            return self.status
        if self.kind is EndingKind.INTERRUPTED and self.requester is Requester.QMP:
            return ExitCode.OK  # As QEMU's: the program that drives it has ended it in order.
        return _EXIT_CODES[self.kind]

    @property
    def is_well(self) -> bool:
        """True if the guest ended with status 0, or its owner had no more use for it."""
        return self.kind is EndingKind.CLOSED or (
            self.kind is EndingKind.EXITED and self.status == 0
        )

    @property
    def wants_report(self) -> bool:
        """True if the vCPUs should be asked for their state before they go."""
        return self.kind in _REPORTED


def ending_of_status(value: int) -> Ending:
    """The ending for a write of `value` to the exit port."""
    if value > GUEST_STATUS_MAX:
        return Ending(
            EndingKind.BAD_STATUS,
            f"the guest wrote {value} to its exit port, which takes 0..{GUEST_STATUS_MAX}: "
            "larger statuses mean something else",
        )
    return Ending(EndingKind.EXITED, f"the guest ended with status {value}", value)


class RunResult(NamedTuple):
    """Result of a finished run: its ending, the vCPUs' reports, and what it took.

    `exits` counts by reason over all vCPUs; `seconds` is wall time from the first instruction to
    the ending; `memory_backing` says what RAM was made from, and why; `memory` is what became of
    private memory, on a machine that has it. `resets`: how often the machine was put back to its
    start, by the guest (`RebootPolicy.AGAIN`) or from outside.
    """

    ending: Ending
    reports: tuple[VcpuReport, ...]
    exits: Mapping[str, int]
    seconds: float
    memory_bytes: int
    memory_backing: str
    console_bytes: int
    console_bytes_unread: int
    unclaimed_ports: Mapping[int, int] = field(default_factory=dict)
    memory: MemoryReport | None = None
    resets: int = 0

    def to_json(self) -> dict[str, object]:
        """The result as plain values for ``--json``."""
        return {
            "ending": self.ending.kind.value,
            "detail": self.ending.detail,
            "status": self.ending.status,
            "exit_code": int(self.ending.exit_code),
            "resets": self.resets,
            "seconds": round(self.seconds, 6),
            "memory_bytes": self.memory_bytes,
            "memory_backing": self.memory_backing,
            "console_bytes": self.console_bytes,
            "console_bytes_unread": self.console_bytes_unread,
            "exits": dict(self.exits),
            "unclaimed_ports": {f"{port:#x}": n for port, n in self.unclaimed_ports.items()},
            "vcpus": [report.to_json() for report in self.reports],
            "memory": None if self.memory is None else self.memory.to_json(),
        }
