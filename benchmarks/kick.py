# SPDX-License-Identifier: MIT
"""Kick: how long it takes to stop a guest that never exits by itself. For information."""

from __future__ import annotations

import threading
import time

import trio

from benchmarks import guests, host_api
from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError, Effort, Result, Step, Subject, take_turns
from pyvmm.hosts.exits import Interrupted
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.attach import discard
from pyvmm.machine.running import open_machine

NAME = "kick"
TITLE = "stopping a guest in a tight loop: from the request to the thread joined"
RUNS = 50

SETTLE = 0.01
"""Seconds that the guest spins before it is stopped."""


def run(effort: Effort, step: Step) -> Result:
    """Measure both ways."""
    subjects = (
        Subject("host API", "Vcpu.kick() from another thread, then join", _host_api),
        Subject(
            "machine",
            "Control.interrupt(), then wait(): the thread joined, its registers reported",
            lambda: trio.run(_machine),
        ),
    )
    return Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), ())


def _host_api() -> Sample:
    plan = host_api.planned(guests.SPIN)
    ready = threading.Event()
    found: list[object] = []
    kicks = []

    def run_vcpu() -> None:
        # A vCPU belongs to the thread that makes it.
        with host_api.guest(plan) as vcpu:
            kicks.append(vcpu.kick)
            ready.set()
            found.append(vcpu.run())
            found.append(time.perf_counter())

    thread = threading.Thread(target=run_vcpu)
    thread.start()
    if not ready.wait(10):
        raise CannotRunError("the vCPU's thread did not start")
    time.sleep(SETTLE)
    started = time.perf_counter()
    kicks[0]()
    thread.join()
    joined = time.perf_counter()
    stopped, returned = found
    if not isinstance(stopped, Interrupted) or not isinstance(returned, float):
        raise CannotRunError(f"the guest stopped for {stopped}")
    return {
        "run_returned_ms": (returned - started) * 1e3,
        "closed_and_joined_ms": (joined - started) * 1e3,
    }


async def _machine() -> Sample:
    config = MachineConfig(guests.SPIN, memory=guests.MEMORY)
    async with open_machine(config, discard) as machine:
        await trio.sleep(SETTLE)
        started = time.perf_counter()
        machine.control.interrupt("measured")
        await machine.control.wait()
        return {"joined_ms": (time.perf_counter() - started) * 1e3}
