"""The host under test, and guests on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Regs

from .flat_guest import ENTRY, RAM_SIZE, FlatGuest, MakeGuest, enter_at

RUNAWAY_SECONDS = 20
AT_ENTRY = Regs(rip=ENTRY)


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        yield system


@pytest.fixture
def guest(system: System) -> Iterator[MakeGuest]:
    """Makes a guest that will run `code`; `prepare` sees the VM before its first vCPU.

    A guest that runs away is kicked in the end, so that its test fails and does not hang.
    """
    made: list[FlatGuest] = []

    def kick_all() -> None:
        for one in made:
            one.vcpu.kick()

    watchdog = threading.Timer(RUNAWAY_SECONDS, kick_all)
    watchdog.daemon = True
    watchdog.start()
    with ExitStack() as owned:
        owned.callback(watchdog.join)
        owned.callback(watchdog.cancel)

        def make(
            code: bytes,
            regs: Regs = AT_ENTRY,
            prepare: Callable[[Vm], None] = lambda vm: None,
            posted_capacity: int | None = None,
        ) -> FlatGuest:
            vm = owned.enter_context(system.create_vm(posted_capacity=posted_capacity))
            ram = owned.enter_context(system.map_anonymous(RAM_SIZE))
            vm.set_memslot(Memslot(0, 0, RAM_SIZE, ram.hva))
            prepare(vm)
            vcpu = owned.enter_context(vm.create_vcpu(0))
            vcpu.use_host_cpuid()
            enter_at(vcpu, regs)
            guest = FlatGuest(vm, vcpu, ram)
            guest.write(ENTRY, code)
            made.append(guest)
            return guest

        yield make
