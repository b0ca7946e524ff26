# SPDX-License-Identifier: MIT
"""Round trips of ``query-status``, of pyvmm and of QEMU: the same client, taking turns."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Sample, at_least
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from benchmarks.pmemsave import Monitor, running
from pyvmm import bundled_guests

NAME = "query_status"
TITLE = "query-status round trips over QMP"
RUNS = 15

_ROUND_TRIPS = 1000
_QEMU = (
    "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display", "none",
    "-serial", "stdio", "-m", "64", "-accel", "tcg",
)  # fmt: skip


def run(effort: Effort, step: Step) -> Result:
    """Measure two guests that are stopped, so that they do not keep the processors busy."""
    guest = bundled_guests.find("hang")
    if guest is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    if shutil.which(_QEMU[0]) is None:
        raise CannotRunError(f"{_QEMU[0]} is not installed")
    image = str(guest.path)
    pyvmm = str(Path(sys.executable).parent / "pyvmm")
    commands = {
        "pyvmm": (pyvmm, "run", image, "-m", "64M", "--qmp", "unix:{}"),
        "QEMU": (*_QEMU, "-kernel", image, "-qmp", "unix:{},server=on,wait=off"),
    }
    round_trips = effort.scaled(_ROUND_TRIPS)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvmm-query-status-"))
        subjects = []
        for name, command in commands.items():
            monitor = stack.enter_context(running(command, Path(folder) / name))
            what = f"{round_trips} round trips, one after the other"
            subjects.append(Subject(name, what, partial(_sample, monitor, round_trips)))
        samples = take_turns(subjects, effort, step)
    comparison = Comparison("round_trips_per_s", "pyvmm", "QEMU", at_least(0.8))
    return Result(NAME, TITLE, subjects, samples, [comparison])


def _sample(monitor: Monitor, round_trips: int) -> Sample:
    ask = monitor.client.cmd
    started = time.perf_counter()
    for _ in range(round_trips):
        status: Any = ask("query-status")
    took = time.perf_counter() - started
    if status["status"] != "paused":
        raise CannotRunError(f"the guest should be paused, it is {status['status']}")
    return {"round_trips_per_s": round_trips / took}
