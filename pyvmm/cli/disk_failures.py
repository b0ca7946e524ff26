# SPDX-License-Identifier: MIT
"""Failures of disks as ``pyvmm run`` tells of them: on standard error, the first of each disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvmm.cli.standard_error import say_to_user
from pyvmm.machine.events import DiskFailed, MachineEvent
from pyvmm.machine.machine import Machine


@contextmanager
def failures_told(machine: Machine) -> Iterator[None]:
    """Tell of failures inside of the block."""
    disks = machine.host.disks
    if disks is None:
        yield
        return
    told: set[str] = set()
    paths = {disk.name: disk.choice.path for disk in disks.disks}

    def hear(event: MachineEvent) -> None:
        if isinstance(event, DiskFailed) and (event.stops or event.disk not in told):
            told.add(event.disk)
            say_to_user(_line(event, paths[event.disk]))

    with machine.events.listen(hear):
        yield


def _line(event: DiskFailed, path: Path) -> str:
    operation = "read" if event.operation == "read" else "write to"
    what = f"cannot {operation} the disk {path}: {event.reason}"
    if event.stops:
        return f"{what}; the machine is paused, and tries again when it is resumed"
    return f"{what}; the guest gets an I/O error"
