# SPDX-License-Identifier: MIT
"""The host under test, and guests on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Regs

from . import private_guest as private
from .flat_guest import ENTRY, RAM_SIZE, FlatGuest, MakeGuest, enter_at

RUNAWAY_SECONDS = 20
AT_ENTRY = Regs(rip=ENTRY)


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        yield system


@pytest.fixture
def watched() -> Iterator[list[Vcpu]]:
    """vCPUs that are kicked in the end, so that a runaway guest's test fails and does not hang."""
    vcpus: list[Vcpu] = []

    def kick_all() -> None:
        for vcpu in vcpus:
            vcpu.kick()

    watchdog = threading.Timer(RUNAWAY_SECONDS, kick_all)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield vcpus
    finally:
        watchdog.cancel()
        watchdog.join()


def end(vcpu: Vcpu) -> None:
    """Close a vCPU even where a test failed and left a thread running it."""
    deadline = time.monotonic() + RUNAWAY_SECONDS
    while True:
        try:
            vcpu.close()
            return
        except InternalError:
            if time.monotonic() > deadline:
                raise
            vcpu.kick()
            time.sleep(0.01)


@pytest.fixture
def guest(system: System, watched: list[Vcpu]) -> Iterator[MakeGuest]:
    """Makes a guest that will run `code`; `prepare` sees the VM before its first vCPU."""
    with ExitStack() as owned:

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
            watched.append(vcpu)
            owned.callback(end, vcpu)
            return guest

        yield make


@pytest.fixture
def private_guest(system: System, watched: list[Vcpu]) -> Iterator[private.MakePrivateGuest]:
    """Makes a guest with private memory that will run `code`; skips where the host has none."""
    if not private.has_private_memory(system):
        pytest.skip("this host has no private memory")
    with ExitStack() as owned:

        def make(code: bytes = b"") -> private.PrivateGuest:
            vm = owned.enter_context(system.create_vm(VmType.SW_PROTECTED))
            ram = owned.enter_context(system.map_anonymous(private.RAM_SIZE))
            size = private.FILE_OFFSET + private.RAM_SIZE
            file = owned.enter_context(vm.create_guest_memfd(size))
            vm.set_memslot(private.two_sided_slot(ram, file))
            vm.enable_hypercall_exits(1 << private.MAP_GPA_RANGE)
            vcpu = owned.enter_context(vm.create_vcpu(0))
            vcpu.use_host_cpuid()
            guest = private.PrivateGuest(vm, vcpu, ram, file)
            private.load(guest, code)
            watched.append(vcpu)
            owned.callback(end, vcpu)
            return guest

        yield make
