# SPDX-License-Identifier: MIT
"""A finished run's result, gathered from what is left of its machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.ending import Ending, RunResult
from pyvmm.machine.vcpu_thread import VcpuThread

if TYPE_CHECKING:
    from pyvmm.machine.memory_report import MemoryReport


def make_result(
    config: MachineConfig,
    assembly: Assembly,
    console: ConsolePort,
    threads: Sequence[VcpuThread],
    *,
    ending: Ending,
    seconds: float,
    resets: int,
) -> RunResult:
    """The result of a run whose vCPU threads have ended and whose console is passed on."""
    exits: Counter[str] = Counter()
    for thread in threads:
        exits.update(thread.exit_counts)
    ram = assembly.ram
    return RunResult(
        ending=ending,
        reports=tuple(thread.report for thread in threads if thread.report is not None),
        exits=dict(exits),
        seconds=seconds,
        memory_bytes=ram.address_map.memory,
        memory_backing=ram.choice.reason,
        console_bytes=console.total,
        console_bytes_unread=console.unread,
        unclaimed_ports=dict(assembly.board.ports.unclaimed),
        resets=resets,
        memory=_memory_report(config, assembly, threads, exits["CONVERTED"]),
    )


def _memory_report(
    config: MachineConfig, assembly: Assembly, threads: Sequence[VcpuThread], in_run_loop: int
) -> MemoryReport | None:
    launch, private = assembly.launch, config.private
    if launch is None or private is None:
        return None
    from pyvmm.machine.memory_report import collect

    refused = [thread.refused for thread in threads if thread.refused is not None]
    return collect(
        assembly.memory,
        in_run_loop,
        launch.report,
        private.expected_digest,
        next(iter(refused), None),
    )
