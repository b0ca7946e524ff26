# SPDX-License-Identifier: MIT
"""Observations of a run: its end, its console, the RAM it left, its cost."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from pyvmm.compare.subjects import Subject

QEMU_STATUS_BITS = 7
"""isa-debug-exit's status is shifted left by one and cut to the 8 bits of an exit code."""
STATUS_MAX = 63
"""The largest status that a guest can end with (inclusive)."""


class EndKind(enum.Enum):
    """Kind of guest end, as far as both pyvmm and QEMU tell it; the values are those of JSON."""

    EXITED = "exited"
    """It wrote a status to its exit port."""
    PANICKED = "panicked"
    """It reported a panic to pvpanic."""
    RESTARTED = "restarted"
    """It asked for a reset, or died of a triple fault, which resets a machine."""
    POWERED_OFF = "powered-off"
    HALTED = "halted"
    """Nothing could wake it any more."""
    BAD_STATUS = "bad-status"
    """It wrote more than 63 to its exit port."""
    CRASHED = "crashed"
    """The monitor could not go on with it."""
    TIME_LIMIT = "time-limit"
    """It was still running when its time was over."""


@dataclass(frozen=True, slots=True)
class End:
    """End of a guest; `status` where it gave one; `detail` is the monitor's own word for it."""

    kind: EndKind
    status: int | None = None
    detail: str = ""

    def is_like(self, other: End) -> bool:
        """Tell whether this end and `other` show the same behaviour: same kind, same status."""
        return (self.kind, self.status) == (other.kind, other.status)

    def __str__(self) -> str:
        return self.kind.value if self.status is None else f"{self.kind.value} {self.status}"


def end_of_status(status: int) -> End:
    """The end of a guest that wrote `status` to its exit port."""
    if status > STATUS_MAX:
        return End(EndKind.BAD_STATUS, status)
    return End(EndKind.EXITED, status)


def end_of_qemu(returncode: int, reason: str, *, panicked: bool) -> End:
    """Derive the guest's end from the way its QEMU ended.

    `returncode` as `subprocess` has it: isa-debug-exit makes (status << 1) | 1 of what the guest
    wrote, everything else that a guest can do ends QEMU with 0. `reason` is that of the SHUTDOWN
    event ("" without one), `panicked` whether there was GUEST_PANICKED.
    """
    if returncode < 0:
        return End(EndKind.CRASHED, None, f"QEMU was killed by signal {-returncode}")
    if panicked:
        return End(EndKind.PANICKED, None, "GUEST_PANICKED")
    if returncode & 1:
        return end_of_status(returncode >> 1)
    if reason == "guest-reset":
        return End(EndKind.RESTARTED, None, "SHUTDOWN, reason guest-reset")
    if reason == "guest-shutdown":
        return End(EndKind.POWERED_OFF, None, "SHUTDOWN, reason guest-shutdown")
    return End(
        EndKind.CRASHED, None, f"QEMU ended with {returncode}, reason {reason or 'not told'}"
    )


KERNEL_COUNTERS = (
    "exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "irq_window_exits",
    "request_irq_exits", "nmi_window_exits", "signal_exits", "hypercalls", "insn_emulation",
    "irq_injections", "pf_taken", "tlb_flush",
)  # fmt: skip
"""KVM's own statistics that are compared: those of api.rst 4.133 that count events of a vCPU."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of events by name; `source` names the counter."""

    source: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """One run that was looked at closely, and not timed.

    `exit_code` is what the process ended with, or would have. `exits` are the monitor's own, by the
    kind that it sees; `kernel` what KVM itself counted
    (KVM_GET_STATS_FD). Each is None where nobody knows, and `exits_unknown`, `kernel_unknown` then
    say why. `ram_sha256` is that of all guest RAM after the end, None where it was not looked at.
    `accesses` are pyvmm's, in their order, those that it saw: none to a controller in the kernel.
    """

    subject: Subject
    end: End
    exit_code: int
    console: bytes
    exits: Counts | None
    kernel: Counts | None
    exits_unknown: str = ""
    kernel_unknown: str = ""
    ram_sha256: str | None = None
    accesses: tuple[FirstAccess, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstAccess:
    """The first read or write of a guest at an address that is not RAM, as pyvmm saw it.

    `address` is a port, or a GPA where `is_port` is not set; `claimed`: a device of pyvmm answered.
    `said` counts the bytes of the console until then.
    """

    address: int
    is_port: bool
    is_read: bool
    claimed: bool
    said: int


class Metric(enum.Enum):
    """Quantity measured of a timed run; the values are those of JSON, with the unit."""

    FIRST_BYTE = "first_console_byte_ms"
    TOTAL = "total_ms"
    USER = "user_cpu_ms"
    SYSTEM = "system_cpu_ms"
    PEAK_RSS = "peak_rss_mib"


METRIC_TITLES: Mapping[Metric, tuple[str, str]] = {
    Metric.FIRST_BYTE: ("time to the first console byte", "ms"),
    Metric.TOTAL: ("time to the end", "ms"),
    Metric.USER: ("user CPU", "ms"),
    Metric.SYSTEM: ("system CPU", "ms"),
    Metric.PEAK_RSS: ("peak RSS", "MiB"),
}
"""Titles for readers: the name, and the unit."""


METRIC_NOTES: Mapping[Metric, str] = {
    Metric.PEAK_RSS: "what only the guest touches of a guest_memfd is in nobody's RSS: pyvmm's on "
    "KVM is without it where RAM is made of one",
}
"""Notes needed to read a metric's figures."""


@dataclass(frozen=True, slots=True)
class TimedRun:
    """One run of a whole process, from fork to its end, that nobody looked into meanwhile.

    `first_byte` in seconds, None where the guest said nothing; times in seconds, `peak_rss` in
    bytes; `console` is what the guest said.
    """

    subject: Subject
    round: int
    first_byte: float | None
    total: float
    user: float
    system: float
    peak_rss: int
    exit_code: int
    console: bytes

    def value(self, metric: Metric) -> float | None:
        """The figure, in the metric's own unit; None where there is none."""
        match metric:
            case Metric.FIRST_BYTE:
                return None if self.first_byte is None else self.first_byte * 1e3
            case Metric.TOTAL:
                return self.total * 1e3
            case Metric.USER:
                return self.user * 1e3
            case Metric.SYSTEM:
                return self.system * 1e3
            case Metric.PEAK_RSS:
                return self.peak_rss / (1 << 20)
