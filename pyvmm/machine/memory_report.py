# SPDX-License-Identifier: MIT
"""Report on a private machine's memory: its launch, conversions, pages at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyvmm.boot.launch import LaunchReport
from pyvmm.boot.launch_format import LaunchStatus
from pyvmm.errors import HostLacksError
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.implicit import FaultRefused
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.residency import Residency
from pyvmm.rules.abi import PAGE_SIZE

_REFUSALS: Mapping[LaunchStatus, str] = {
    LaunchStatus.MISMATCH: "its digest is not the expected one",
    LaunchStatus.BROKEN: "the boot block is broken",
    LaunchStatus.REFUSED: "its memory could not be made private",
}


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The end state of `GuestMemory`.

    `launch` is None when the firmware never got so far; `expected_digest` is what it was to insist
    on; `counts` and `converted_bytes` have conversions under names like "guest to shared", but not
    the `in_run_loop` ones that vCPUs made in the host's fast path, whose ranges are not kept;
    `failures` are conversions that the kernel failed in the middle.
    """

    launch: LaunchReport | None
    expected_digest: bytes | None
    counts: Mapping[str, int]
    converted_bytes: Mapping[str, int]
    in_run_loop: int
    failures: tuple[str, ...]
    runs: tuple[PageRun, ...]
    residency: tuple[Residency, ...]
    refused: FaultRefused | None

    def lines(self) -> Iterator[str]:
        """Yield the lines that explain a failed run."""
        if self.launch is not None and self.launch.status:
            why = _REFUSALS[self.launch.status]
            yield f"the firmware refused to start the guest: {why}"
            if self.expected_digest is not None and self.launch.status is LaunchStatus.MISMATCH:
                yield f"  measured: {self.launch.digest.hex()}"
                yield f"  expected: {self.expected_digest.hex()}"
        for failure in self.failures:
            yield f"a conversion failed: {failure}"
        if self.refused is not None:
            yield from self.refused.lines()

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        launch = self.launch
        return {
            "launch_status": None if launch is None else launch.status,
            "launch_digest": None if launch is None else launch.digest.hex(),
            "expected_digest": self.expected_digest.hex() if self.expected_digest else None,
            "conversions": dict(self.counts),
            "converted": [
                {
                    "origin": origin,
                    "to": to,
                    "conversions": count,
                    **_amount(self.converted_bytes[kind]),
                }
                for kind, count in self.counts.items()
                for origin, _, to in [kind.partition(" to ")]
            ],
            "converted_in_run_loop": self.in_run_loop,
            "failures": list(self.failures),
            "page_totals": {
                state.value: _amount(sum(run.range.size for run in self.runs if run.state is state))
                for state in PageState
            },
            "pages": [
                {"start": run.range.start, "end": run.range.end, "state": run.state.value}
                for run in self.runs
            ],
            "residency": [one.to_json() for one in self.residency],
            "refused": None if self.refused is None else self.refused.to_json(),
        }


def _amount(size: int) -> dict[str, int]:
    return {"pages": size // PAGE_SIZE, "bytes": size}


def collect(
    memory: GuestMemory,
    in_run_loop: int,
    launch: LaunchReport | None,
    expected_digest: bytes | None,
    refused: FaultRefused | None,
) -> MemoryReport:
    """The report as of now; residency is left out where the kernel cannot tell it.

    `in_run_loop`: how many conversions the vCPUs made in the host's fast path.
    """
    try:
        residency = memory.states.residency()
    except HostLacksError:
        residency = ()
    return MemoryReport(
        launch,
        expected_digest,
        dict(memory.conversion.counts),
        dict(memory.conversion.converted_bytes),
        in_run_loop,
        tuple(memory.conversion.failures),
        memory.states.runs(),
        residency,
        refused,
    )
