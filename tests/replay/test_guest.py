# SPDX-License-Identifier: MIT
"""A guest that touches memory where it is told, on KVM and on the model alike."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag, MmioRead, MmioWrite
from pyvmm.hosts.interface import GuestMapping, Memslot, MemslotFlag, System
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.replay.guest import REACH, SIZE, Access, Guest, put_program
from pyvmm.rules.abi import PAGE_SIZE

AT = 0x10_0000
HOLE = 0x40_0000


@pytest.fixture(params=["model", pytest.param("kvm", marks=pytest.mark.kvm)])
def host(request: pytest.FixtureRequest) -> Iterator[System]:
    with ModelSystem() if request.param == "model" else KvmSystem() as system:
        yield system


@pytest.fixture
def program(host: System) -> Iterator[GuestMapping]:
    with host.map_anonymous(SIZE) as memory:
        put_program(memory)
        yield memory


def test_it_reads_and_writes_what_the_host_has(host: System, program: GuestMapping) -> None:
    with host.create_vm() as vm, host.map_anonymous(2 * PAGE_SIZE) as ram:
        vm.set_memslot(Memslot(0, AT, PAGE_SIZE, ram.hva))
        last = REACH - PAGE_SIZE
        vm.set_memslot(Memslot(1, last, PAGE_SIZE, ram.hva + PAGE_SIZE))
        with ram.view() as view, Guest(vm, 0, program) as guest:
            view[5] = 0x77
            assert guest.read(AT + 5) == Access(0x77)
            assert guest.write(last + PAGE_SIZE - 1, 0xE1) == Access(0xE1)
            assert view[2 * PAGE_SIZE - 1] == 0xE1
            assert guest.read(AT + 6) == Access(0)


def test_it_does_nothing_beside_the_access(host: System, program: GuestMapping) -> None:
    with host.create_vm() as vm, host.map_anonymous(2 * PAGE_SIZE) as ram:
        # Where registers that are small numbers point to.
        vm.set_memslot(Memslot(0, 0, 2 * PAGE_SIZE, ram.hva))
        with ram.view() as view, Guest(vm, 0, program) as guest:
            for value in (0x11, 0xF0):
                assert guest.write(PAGE_SIZE, value) == Access(value)
                assert guest.read(PAGE_SIZE) == Access(value)
                vm.set_memslot(Memslot(1, AT, PAGE_SIZE, ram.hva))
                vm.set_memslot(Memslot(1, AT, 0, ram.hva))
            assert not any(view[:PAGE_SIZE])
            assert not any(view[PAGE_SIZE + 1 :])


def test_where_there_is_no_memory_the_access_is_an_exit_and_done(
    host: System, program: GuestMapping
) -> None:
    with host.create_vm() as vm, host.map_anonymous(PAGE_SIZE) as ram:
        vm.set_memslot(Memslot(0, AT, PAGE_SIZE, ram.hva, MemslotFlag.READONLY))
        with ram.view() as view, Guest(vm, 0, program) as guest:
            view[0] = 9
            for _ in range(2):  # an access that is done leaves nothing for the next one
                assert guest.read(HOLE) == Access(None, 0, MmioRead(HOLE, 1))
                assert guest.write(HOLE + 1, 0x22) == Access(None, 0, MmioWrite(HOLE + 1, b"\x22"))
                assert guest.read(AT) == Access(9)
            assert guest.write(AT, 1) == Access(None, 0, MmioWrite(AT, b"\x01"))
            assert view[0] == 9


def test_a_slot_without_memory_of_the_host_s_fails(host: System, program: GuestMapping) -> None:
    with host.create_vm() as vm:
        vm.set_memslot(Memslot(0, AT, PAGE_SIZE, 0))
        with Guest(vm, 0, program) as guest:
            access = guest.read(AT)
    assert (access.value, access.errno, access.errno_name) == (None, errno.EFAULT, "EFAULT")


def test_it_runs_while_its_vm_has_no_descriptor(host: System, program: GuestMapping) -> None:
    with host.map_anonymous(PAGE_SIZE) as ram:
        vm = host.create_vm()
        vm.set_memslot(Memslot(0, AT, PAGE_SIZE, ram.hva))
        with Guest(vm, 0, program) as guest:
            vm.close()
            assert guest.write(AT, 3) == Access(3)


def test_accesses_follow_the_attribute(host: System) -> None:
    if VmType.SW_PROTECTED not in host.capabilities().vm_types:
        pytest.skip("this KVM has no VM with private memory")
    with (
        host.map_anonymous(SIZE) as program,
        host.create_vm(VmType.SW_PROTECTED) as vm,
        host.map_anonymous(2 * PAGE_SIZE) as ram,
        vm.create_guest_memfd(PAGE_SIZE, GuestMemfdFlag(0)) as file,
    ):
        put_program(program)
        vm.set_memslot(Memslot(0, AT, PAGE_SIZE, ram.hva, guest_memfd=file))
        vm.set_memslot(Memslot(1, AT + PAGE_SIZE, PAGE_SIZE, ram.hva + PAGE_SIZE))
        with ram.view() as view, Guest(vm, 0, program) as guest:
            assert guest.write(AT, 1) == Access(1)
            vm.set_memory_attributes(AT, 3 * PAGE_SIZE, MemoryAttribute.PRIVATE)
            assert guest.read(AT) == Access(0)
            assert guest.write(AT, 2) == Access(2)
            assert view[0] == 1
            for gpa in (AT + PAGE_SIZE, AT + 2 * PAGE_SIZE):  # no file; no slot
                fault = MemoryFault(gpa, PAGE_SIZE, MemoryFaultFlag.PRIVATE, errno.EFAULT)
                assert guest.read(gpa) == Access(None, errno.EFAULT, fault)
            vm.set_memory_attributes(AT, PAGE_SIZE, MemoryAttribute(0))
            assert guest.read(AT) == Access(1)
