# SPDX-License-Identifier: MIT
"""The life of a VM: from opening /dev/kvm to the last close, with one exit in between."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import trio

from benchmarks import baselines, guests, host_api, life_steps, system_calls
from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.hosts.exits import IoOut
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.attach import discard
from pyvmm.machine.running import open_machine

NAME = "vm_life"
TITLE = "a VM from open(/dev/kvm) to the last close, one exit in between"
RUNS = 11

LIVES = 50


def run(effort: Effort, step: Step) -> Result:
    """Measure all subjects, then look where a machine's time goes."""
    lives = effort.scaled(LIVES)
    program = baselines.compiled("vm_life")
    subjects = (
        Subject(
            "C",
            "open, VM, 256 MiB mapped and bound, vCPU, CPUID, registers, one exit, close all",
            lambda: {"life_ms": baselines.called(program, lives)["seconds"] / lives * 1e3},
        ),
        Subject(
            "host API",
            "the same through pyvmm.hosts in one thread",
            lambda: _timed(_host_api, lives),
        ),
        Subject(
            "machine",
            "the same by open_machine: boot plan, memory check, devices, a thread for the vCPU, a "
            "nursery, posted writes, console, the result",
            lambda: _timed(_machines, lives),
        ),
    )
    comparisons = [
        Comparison("life_ms", name, "C", at_most(2.0)) for name in ("host API", "machine")
    ]
    result = Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), comparisons)
    step("where the time goes", 1, 1)
    result.tables.append(
        life_steps.table(effort.scaled(100), result.spread("machine", "life_ms").median)
    )
    step("system calls", 1, 1)
    result.tables.append(
        system_calls.per_life({"C": [str(program)], **{mode: _command(mode) for mode in _MODES}})
    )
    return result


def _timed(live: Callable[[int], None], lives: int) -> Sample:
    live(1)
    started = time.perf_counter()
    live(lives)
    return {"life_ms": (time.perf_counter() - started) / lives * 1e3}


def _host_api(lives: int) -> None:
    plan = host_api.planned(guests.EXIT_42)
    for _ in range(lives):
        with host_api.guest(plan) as vcpu:
            reason = vcpu.run()
        if reason != IoOut(0xF4, 1, 1, b"\x2a"):
            raise CannotRunError(f"the guest stopped for {reason}")


def _machines(lives: int) -> None:
    trio.run(_live, lives)


async def _live(lives: int) -> None:
    for _ in range(lives):
        config = MachineConfig(guests.EXIT_42, memory=guests.MEMORY)
        async with open_machine(config, discard) as machine:
            result = await machine.control.wait()
        if result.ending.status != 42:
            raise CannotRunError(f"the guest ended so: {result.ending}")


_MODES = {"host API": _host_api, "machine": _machines}


def _command(mode: str) -> list[str]:
    return [*baselines.PYTHON, "-m", "benchmarks.vm_life", mode]


def main() -> None:
    """``python -m benchmarks.vm_life MODE LIVES``: nothing but lives, for strace and profilers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vm_life")
    parser.add_argument("mode", choices=list(_MODES))
    parser.add_argument("lives", type=int)
    options = parser.parse_args()
    _MODES[options.mode](options.lives)


if __name__ == "__main__":
    main()
