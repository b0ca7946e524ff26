# SPDX-License-Identifier: MIT
"""Ioctls declared at run time next to the same ones as they are built in, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks.figures import Sample, Spread, column
from benchmarks.measure import Effort, Result, Step, Subject, Table, take_turns
from pyvmm.experiment import Declarations, declare
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vcpu_values import MpState
from pyvmm.hosts.kvm.vm import Vm

NAME = "experiment"
TITLE = "Ioctls declared at run time"
RUNS = 15

MOST_US = 3.0
"""Most microseconds that a declared ioctl may take more than a built-in one."""
_CALLS = 3000
_DECLARED = """
struct kvm_mp_state { __u32 mp_state; };
struct kvm_clock_data {
        __u64 clock; __u32 flags; __u32 pad0; __u64 realtime; __u64 host_tsc; __u32 pad[4];
};
#define KVM_CHECK_EXTENSION _IO(KVMIO, 0x03)
#define KVM_SET_MP_STATE _IOW(KVMIO, 0x99, struct kvm_mp_state)
#define KVM_GET_CLOCK _IOR(KVMIO, 0x7c, struct kvm_clock_data)
"""
Call = Callable[[], object]


def run(effort: Effort, step: Step) -> Result:
    """Measure a number as the argument, a structure that is given, and one that is read."""
    calls = effort.scaled(_CALLS)
    with ExitStack() as stack:
        system = stack.enter_context(System())
        vm = stack.enter_context(system.create_vm())
        vcpu = stack.enter_context(vm.create_vcpu(0))
        pairs = _pairs(declare(_DECLARED), vm, vcpu)
        subjects = [
            Subject(f"{name}, {how}", f"{calls} calls", partial(_sample, call, calls))
            for name, (built_in, declared) in pairs.items()
            for how, call in (("built in", built_in), ("declared", declared))
        ]
        samples = take_turns(subjects, effort, step)
    rows = tuple(_row(name, samples) for name in pairs)
    title = f"Microseconds more by being declared (at most {MOST_US:g})"
    return Result(NAME, TITLE, subjects, samples, [], [Table(title, rows)])


def _pairs(abi: Declarations, vm: Vm, vcpu: Vcpu) -> dict[str, tuple[Call, Call]]:
    """By what an ioctl takes: the method that is built in, and the same ioctl declared."""
    check, put, get = abi.KVM_CHECK_EXTENSION, abi.KVM_SET_MP_STATE, abi.KVM_GET_CLOCK
    cap, state = int(Cap.USER_MEMORY2), MpState.RUNNABLE
    return {
        "a number": (partial(vm.check_extension, cap), partial(check, vm, cap)),
        "a structure given": (
            partial(vcpu.set_mp_state, state),
            partial(put, vcpu, mp_state=int(state)),
        ),
        "a structure read": (lambda: vm.get_clock().clock, lambda: get(vm).argument.clock),
    }


def _sample(call: Call, calls: int) -> Sample:
    started = time.thread_time()
    for _ in range(calls):
        call()
    return {"call_us": (time.thread_time() - started) / calls * 1e6}


def _row(name: str, samples: dict[str, list[Sample]]) -> tuple[str, str, str]:
    built_in = column(samples[f"{name}, built in"], "call_us")
    declared = column(samples[f"{name}, declared"], "call_us")
    more = Spread.of([two - one for one, two in zip(built_in, declared, strict=True)])
    verdict = "met" if more.median <= MOST_US else "MISSED"
    return name, f"{more.median:.2f}", f"{more.least:.2f} to {more.most:.2f}: {verdict}"
