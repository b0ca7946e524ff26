# SPDX-License-Identifier: MIT
"""200 lives of a VM leave nothing behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.registers import Regs

from .flat_guest import ENTRY, enter_at

pytestmark = pytest.mark.kvm


def live_once(system: System) -> None:
    with system.create_vm() as vm, system.map_anonymous(0x8000) as ram:
        with ram.view() as view:
            view[ENTRY : ENTRY + 3] = bytes.fromhex("e661f4")
        vm.set_memslot(Memslot(0, 0, 0x8000, ram.hva))
        with vm.create_vcpu(0) as vcpu, vm.create_guest_memfd(4096), vm.statistics():
            enter_at(vcpu, Regs(rip=ENTRY))
            assert vcpu.run() == exits.IoOut(0x61, 1, 1, b"\0")
            with pytest.raises(KvmError):
                vm.create_vcpu(0)


def held() -> tuple[int, int, set[str]]:
    """Numbers of descriptors and of mappings of KVM's, and all threads."""
    gc.collect()
    here = Path("/proc/self")
    maps = (here / "maps").read_text(encoding="ascii").splitlines()
    return (
        len(list((here / "fd").iterdir())),
        sum("kvm" in line or "memfd" in line for line in maps),
        {task.name for task in (here / "task").iterdir()},
    )


@pytest.mark.slow
def test_nothing_is_left_of_200_lives() -> None:
    with System() as system:
        live_once(system)
        before = held()
        for _ in range(200):
            live_once(system)
        after = held()
        assert after[:2] == before[:2]
        # Idle threads of tests before this one may end at any time.
        assert after[2] <= before[2]


def test_a_vm_that_was_never_closed_is_collected() -> None:
    """Not the rule, but a forgotten vCPU must at least not crash when it is collected."""
    with System() as system:
        vm = system.create_vm()
        vcpu = vm.create_vcpu(0)
        vcpu.close()
        vm.close()
        del vm, vcpu
        gc.collect()
