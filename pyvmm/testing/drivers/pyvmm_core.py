# SPDX-License-Identifier: MIT
"""Core files of pyvmm's machines, written for a failed test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from pyvmm.errors import SystemCallError
from pyvmm.machine.machine import Machine
from pyvmm.machine.report import VcpuReport
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.core_file import CoreVcpu
from pyvmm.qmp.core_writing import CoreOrder, core_vcpus, write_core


@dataclass
class _Progress:
    total: int = 0
    completed: int = 0


async def core_of_running(machine: Machine, path: str) -> None:
    """Write the core of a machine whose guest stands still meanwhile. Raises `SystemCallError`."""
    async with machine.control.freeze():
        await _write(machine, await core_vcpus(machine), path)


async def core_of_ended(machine: Machine, reports: Sequence[VcpuReport], path: str) -> None:
    """Write the core of a machine whose guest has ended, with the vCPUs that there are reports on.

    Raises `SystemCallError`.
    """
    vcpus = [
        CoreVcpu(one.index, one.regs, one.sregs)
        for one in reports
        if one.regs is not None and one.sregs is not None
    ]
    await _write(machine, vcpus, path)


async def _write(machine: Machine, vcpus: Sequence[CoreVcpu], path: str) -> None:
    """Memory is where page tables have it, or, where these map nothing, where it is physically."""
    try:
        try:
            await write_core(
                machine, vcpus, CoreOrder(path, paging=True, for_debuggers=True), _Progress()
            )
        except CommandError:
            if await trio.Path(path).exists():  # That is not what has failed.
                raise
            await write_core(machine, vcpus, CoreOrder(path, for_debuggers=True), _Progress())
    except CommandError as failure:
        raise SystemCallError(f"write the core {path}", 0, str(failure)) from failure
