# SPDX-License-Identifier: MIT
"""Saved state: one vCPU and its VM's controllers, beside the same ioctls from C."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import baselines
from benchmarks.figures import Sample
from benchmarks.measure import Comparison, Effort, Result, Step, Subject, Table, take_turns
from pyvmm.hosts.kvm.system import System

NAME = "saved_state"
TITLE = "one vCPU, controllers, timer and clock: saved, and restored"
RUNS = 15

ROUNDS = 300
MOST_US = {"save_us": 2000.0, "restore_us": 4000.0}


def run(effort: Effort, step: Step) -> Result:
    """Measure both."""
    rounds = effort.scaled(ROUNDS)
    program = baselines.compiled("saved_state")
    msrs = _msrs()
    subjects = (
        Subject(
            "C",
            "the ioctls alone, MSRs by one each way",
            lambda: baselines.called(program, rounds, *msrs),
        ),
        Subject(
            "pyvmm", "Vcpu.save() and Vm.save(), then restore() of both", lambda: _pyvmm(rounds)
        ),
    )
    samples = take_turns(subjects, effort, step)
    comparisons = [Comparison(figure, "pyvmm", "C") for figure in MOST_US]
    result = Result(NAME, TITLE, subjects, samples, comparisons)
    rows = []
    for figure, most in MOST_US.items():
        median = result.spread("pyvmm", figure).median
        met = "met" if median <= most else "MISSED"
        name = figure.removesuffix("_us")
        rows.append((name, f"{median:.0f} us", f"target <= {most:g} us: {met}"))
    result.tables.append(Table(f"in pyvmm, {len(msrs)} MSRs", tuple(rows)))
    return result


def _msrs() -> list[int]:
    """The MSRs that the vCPU has, in the order in which pyvmm sets them."""
    with ExitStack() as stack:
        vm = stack.enter_context(stack.enter_context(System()).create_vm())
        vm.create_irqchip()
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.use_host_cpuid()
        return list(vcpu.save().msr_values())


def _pyvmm(rounds: int) -> Sample:
    saving = restoring = 0.0
    with ExitStack() as stack:
        vm = stack.enter_context(stack.enter_context(System()).create_vm())
        vm.create_irqchip()
        vm.create_pit()
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.use_host_cpuid()
        for number in range(rounds + 1):  # The first round is the warm-up.
            started = time.perf_counter()
            saved, controllers = vcpu.save(), vm.save()
            between = time.perf_counter()
            vcpu.restore(saved)
            vm.restore(controllers)
            ended = time.perf_counter()
            if number:
                saving += between - started
                restoring += ended - between
    return {"save_us": saving / rounds * 1e6, "restore_us": restoring / rounds * 1e6}
