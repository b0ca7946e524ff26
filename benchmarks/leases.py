# SPDX-License-Identifier: MIT
"""Leases: time of the processor to lease four ranges of guest memory and to give them back."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import baselines
from benchmarks.figures import Sample
from benchmarks.measure import Comparison, Effort, Result, Step, Subject, Table, take_turns
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import SharedMemory
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE

NAME = "leases"
TITLE = "four ranges of guest memory, leased and given back"
RUNS = 15

ROUNDS = 20_000
MOST_US = 3.0
RANGES = tuple((64 + number * PAGE_SIZE, 1500) for number in range(4))
"""GPA and bytes of each, as of a device's buffers; leases.c has the same."""


def run(effort: Effort, step: Step) -> Result:
    """Measure both."""
    rounds = effort.scaled(ROUNDS)
    program = baselines.compiled("leases")
    subjects = (
        Subject("C", "held.c alone", lambda: baselines.called(program, rounds)),
        Subject("pyvmm", "memory.lease(), four views, close()", lambda: _pyvmm(rounds)),
    )
    samples = take_turns(subjects, effort, step)
    result = Result(NAME, TITLE, subjects, samples, [Comparison("lease_us", "pyvmm", "C")])
    median = result.spread("pyvmm", "lease_us").median
    met = "met" if median <= MOST_US else "MISSED"
    row = ("four ranges in pyvmm", f"{median:.2f} us", f"target <= {MOST_US:g} us: {met}")
    result.tables.append(Table("a lease", (row,)))
    return result


def _pyvmm(rounds: int) -> Sample:
    with ExitStack() as stack:
        system = stack.enter_context(System())
        vm = stack.enter_context(system.create_vm())
        memory = GuestMemory(vm)
        region = MemoryRegion(0, GpaRange(0, 64 * MIB), can_be_private=False, what="RAM")
        shared = stack.enter_context(SharedMemory(system, vm, region))
        stack.callback(memory.close)
        memory.regions.add(shared.sides)
        started = time.thread_time()
        for _ in range(rounds):
            with memory.lease(RANGES, writable=True):
                pass
        return {"lease_us": (time.thread_time() - started) / rounds * 1e6}
