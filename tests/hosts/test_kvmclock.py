# SPDX-License-Identifier: MIT
"""A guest with a kvmclock is told that it was paused."""

from __future__ import annotations

import errno

import pytest

from pyvmm.boot.tables import protected_mode
from pyvmm.hosts import exits
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.registers import Regs
from tests.hosts.test_recording import Taken

CODE, CLOCK, SIZE = 0x1000, 0x4000, 1 << 16
MSR_KVM_SYSTEM_TIME_NEW, ENABLED = 0x4B564D01, 1
FLAGS, GUEST_STOPPED = 29, 1 << 1
"""In ``struct pvclock_vcpu_time_info`` (arch/x86/include/asm/pvclock-abi.h)."""


@pytest.mark.kvm
def test_the_flag_is_set_before_the_next_run_and_without_a_clock_nothing_happens() -> None:
    with System() as system, system.create_vm() as vm, system.map_anonymous(SIZE) as ram:
        vm.set_memslot(Memslot(0, 0, SIZE, ram.hva))
        with ram.view() as view:
            view[CODE : CODE + 3] = bytes.fromhex("f4f4f4")
            with vm.create_vcpu(0) as vcpu:
                vcpu.set_entry(Regs(rip=CODE), protected_mode())
                vcpu.has_stood_still()
                vcpu.use_host_cpuid()
                try:
                    vcpu.set_msrs({MSR_KVM_SYSTEM_TIME_NEW: CLOCK | ENABLED})
                except KvmError:
                    pytest.skip("this host's KVM offers no kvmclock")
                assert vcpu.run() == exits.Hlt()
                assert view[CLOCK + FLAGS - 4], "KVM keeps the clock there"
                assert not view[CLOCK + FLAGS] & GUEST_STOPPED
                vcpu.has_stood_still()
                assert vcpu.run() == exits.Hlt()
                assert view[CLOCK + FLAGS] & GUEST_STOPPED


@pytest.mark.kvm
def test_a_recorder_is_told_of_it_as_of_every_call() -> None:
    taken = Taken()
    with System(recorder=taken) as system, system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vcpu.has_stood_still()
        made = taken.last("KVM_KVMCLOCK_CTRL")
        assert made.target == f"vCPU fd {vcpu.fd}"
        assert made.errno == errno.EINVAL, "the guest has no clock yet"
