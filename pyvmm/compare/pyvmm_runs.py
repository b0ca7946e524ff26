# SPDX-License-Identifier: MIT
"""Looking at a guest under pyvmm, in a process of its own (`inspected_pyvmm`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import trio

from pyvmm.compare.guest_files import GuestFiles, memory_file, path_of
from pyvmm.compare.observations import Counts, End, EndKind, FirstAccess, Inspection
from pyvmm.compare.processes import Errors, RunFailedError, Transcript, failure_of, listened_to
from pyvmm.compare.subjects import PyvmmHost, PyvmmSubject
from pyvmm.qmp.child import Child

_GRACE = 60.0
"""Seconds that the process gets beside the guest's time limit: to start, and to copy RAM."""
_REPORT_LIMIT = 1 << 20


async def inspect(subject: PyvmmSubject, files: GuestFiles, ram: int) -> Inspection:
    """Run the guest once and look at all of it; its RAM is copied into the file `ram`.

    Raises a `PyvmmError` where pyvmm fails.
    """
    request = files.request
    said, errors = Transcript(), Errors()
    with memory_file("report") as report, files.standard_input() as stdin:
        asked = {
            "image": path_of(files.image),
            "initrd": None if files.initrd is None else path_of(files.initrd),
            "command_line": os.fsdecode(request.command_line),
            "host": subject.host.value,
            "memory": request.memory,
            "cpus": request.cpus,
            "timeout": request.timeout,
            "ram": ram,
            "report": report,
        }
        command = [sys.executable, "-P", "-m", "pyvmm.compare.inspected_pyvmm", json.dumps(asked)]
        child = Child.start(command, (*files.inherited, ram, report), stdin)
        async with listened_to(child, said, errors):
            with trio.move_on_after(request.timeout + _GRACE) as limit:
                await child.wait()
        told = os.pread(report, _REPORT_LIMIT, 0)
    attempt = f"run {request.name} under {subject.name}"
    if limit.cancelled_caught:
        raise RunFailedError(attempt, f"no end {_GRACE:g} s after the time limit")
    if child.returncode or not told:
        raise failure_of(attempt, child.returncode or 0, errors.lines)
    return _inspection(subject, said.text, json.loads(told))


def _inspection(subject: PyvmmSubject, console: bytes, told: Mapping[str, Any]) -> Inspection:
    on_kvm = subject.host is PyvmmHost.KVM
    kernel = told["kernel"]
    return Inspection(
        subject,
        End(EndKind(told["kind"]), told["status"], told["detail"]),
        told["exit_code"],
        console,
        Counts("pyvmm", told["exits"]),
        None if kernel is None else Counts("KVM, by KVM_GET_STATS_FD", kernel),
        kernel_unknown=""
        if on_kvm and kernel is not None
        else "this kernel has no KVM_GET_STATS_FD"
        if on_kvm
        else "there is no KVM",
        accesses=tuple(FirstAccess(*one) for one in told["accesses"]),
    )
