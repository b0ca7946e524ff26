# SPDX-License-Identifier: MIT
"""private_mem_kvm_exits_test: a private access that nothing can serve is a memory fault exit.

And what `GuestMemory` makes of it, on the exit or in the run loop, where it has such memory.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.exits import MemoryFaultFlag
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion

from .conftest import MakeScripted
from .scripted_guest import DONE_EXIT, PAGE, Script, ScriptedGuest, ScriptedVcpu

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


IN_RUN_LOOP = pytest.mark.parametrize("in_run_loop", [False, True], ids=["exit", "run-loop"])


@contextmanager
def guest_memory(
    system: System, guest: ScriptedGuest, file: GuestMemfd | None, *, in_run_loop: bool
) -> Iterator[GuestMemory]:
    """A page at `GPA`, with a private side if there is a `file`."""
    memory = GuestMemory(guest.vm, honours_touches=in_run_loop)
    region = MemoryRegion(SLOT, GpaRange(GPA, GPA + PAGE), file is not None, "the page")
    with system.map_anonymous(PAGE) as shared, shared.view() as view:
        memslot = Memslot(SLOT, GPA, PAGE, shared.hva, guest_memfd=file)
        guest.vm.set_memslot(memslot)
        memory.regions.add(MemorySides(region, memslot, shared, view, 0))
        try:
            yield memory
        finally:
            memory.close()


def finds_zeroes(vcpu: ScriptedVcpu) -> bool:
    script = Script()
    script.check(GPA, PAGE, 0)
    return vcpu.run(script) == DONE_EXIT


@IN_RUN_LOOP
def test_memslot_unplugged_under_a_reader(
    private_host: System, scripted: MakeScripted, in_run_loop: bool
) -> None:
    """The reader goes on, and finds the memslot again, private and empty."""
    guest = scripted(VmType.SW_PROTECTED)
    guest.tables.map(GPA, GPA, PAGE)
    reading = threading.Event()
    script = Script()
    script.fill(GPA, PAGE, 0x5A)
    script.host(reading.set)
    script.read_for_ever(GPA)

    def read(memory: GuestMemory) -> None:
        with guest.vcpu() as vcpu:
            if in_run_loop:
                with pytest.raises(AssertionError, match=r"read for ever .* stopped by the host"):
                    vcpu.run(script)
                assert vcpu.vcpu.exit_counts()["CONVERTED"] == 1
                assert "MEMORY_FAULT" not in vcpu.vcpu.exit_counts()
            else:
                assert vcpu.run(script) == PRIVATE_FAULT
                assert memory.states.at(GPA) is PageState.WITHHELD
                assert memory.exits.resolve_fault(PRIVATE_FAULT, 0, lambda _: True) is None
            assert memory.states.at(GPA) is PageState.PRIVATE
            assert finds_zeroes(vcpu)

    with (
        guest.vm.create_guest_memfd(PAGE) as file,
        guest_memory(private_host, guest, file, in_run_loop=in_run_loop) as memory,
        ThreadPoolExecutor(1) as thread,
    ):
        memory.conversion.convert(GPA, PAGE, Side.PRIVATE)
        running = thread.submit(read, memory)
        assert reading.wait(30) or running.result()
        memory.regions.unplug(SLOT)
        while in_run_loop and memory.states.at(GPA) is not PageState.PRIVATE:
            time.sleep(0.001)
        if in_run_loop:
            guest.kick_all()
        running.result()


@IN_RUN_LOOP
def test_withheld_memory_without_a_private_side(
    private_host: System, scripted: MakeScripted, in_run_loop: bool
) -> None:
    """Touched it is shared, and empty."""
    guest = scripted(VmType.SW_PROTECTED)
    guest.tables.map(GPA, GPA, PAGE)
    script = Script()
    script.touch(GPA, PAGE)
    with (
        guest_memory(private_host, guest, None, in_run_loop=in_run_loop) as memory,
        guest.vcpu() as vcpu,
    ):
        assert memory.write(GPA, b"\x5a")
        memory.conversion.withhold(GPA, PAGE)
        assert memory.states.at(GPA) is PageState.WITHHELD
        if in_run_loop:
            assert vcpu.run(script) == DONE_EXIT
            assert vcpu.vcpu.exit_counts() == {"IO": 1, "CONVERTED": 1}
        else:
            assert vcpu.run(script) == PRIVATE_FAULT
            assert memory.exits.resolve_fault(PRIVATE_FAULT, 0, lambda _: True) is None
        assert memory.states.at(GPA) is PageState.SHARED
        assert finds_zeroes(vcpu)
        assert memory.read(GPA, 1) == b"\0"
