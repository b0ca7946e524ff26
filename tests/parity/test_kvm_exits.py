# SPDX-License-Identifier: MIT
"""private_mem_kvm_exits_test: a private access that nothing can serve is a memory fault exit."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.exits import MemoryFaultFlag
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System

from .conftest import MakeScripted
from .scripted_guest import PAGE, Script

pytestmark = pytest.mark.kvm

GPA = 0xC000_0000
SLOT = 10
PRIVATE_FAULT = exits.MemoryFault(GPA, PAGE, MemoryFaultFlag.PRIVATE, errno.EFAULT)


def test_memslot_deleted_under_a_reader(private_host: System, scripted: MakeScripted) -> None:
    guest = scripted(VmType.SW_PROTECTED)
    guest.tables.map(GPA, GPA, PAGE)
    reading = threading.Event()
    script = Script()
    script.touch(GPA, PAGE)
    script.host(reading.set)
    script.read_for_ever(GPA)

    def read() -> exits.Exit:
        with guest.vcpu() as vcpu:
            return vcpu.run(script)

    with (
        private_host.map_anonymous(PAGE) as shared,
        guest.vm.create_guest_memfd(PAGE) as file,
        ThreadPoolExecutor(1) as thread,
    ):
        guest.vm.set_memslot(Memslot(SLOT, GPA, PAGE, shared.hva, guest_memfd=file))
        guest.vm.set_memory_attributes(GPA, PAGE, MemoryAttribute.PRIVATE)
        running = thread.submit(read)
        assert reading.wait(30) or running.result()
        guest.vm.set_memslot(Memslot(SLOT, GPA, 0, 0))
        assert running.result() == PRIVATE_FAULT


def test_memslot_without_a_private_side(private_host: System, scripted: MakeScripted) -> None:
    guest = scripted(VmType.SW_PROTECTED)
    guest.tables.map(GPA, GPA, PAGE)
    script = Script()
    script.read_for_ever(GPA)
    with private_host.map_anonymous(PAGE) as shared, guest.vcpu() as vcpu:
        guest.vm.set_memslot(Memslot(SLOT, GPA, PAGE, shared.hva))
        guest.vm.set_memory_attributes(GPA, PAGE, MemoryAttribute.PRIVATE)
        assert vcpu.run(script) == PRIVATE_FAULT
