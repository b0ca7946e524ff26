# SPDX-License-Identifier: MIT
"""pre_fault_memory_test: memory that is mapped ahead, while its memslot goes and comes back."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System

from .conftest import MakeScripted
from .scripted_guest import DONE_EXIT, PAGE, Script, ScriptedGuest, ScriptedVcpu

pytestmark = pytest.mark.kvm

MIB = 1 << 20
SIZE = 2 * MIB + PAGE
SLOT = 10
ADDRESS_SIZES = 0x8000_0008
HYPERTRANSPORT = 12 << 30
"""Bytes at the top of what AMD's processors address that some of them reserve."""

RANGES = [
    pytest.param(0, 2 * MIB, 0, id="inside"),
    pytest.param(2 * MIB, 2 * PAGE, PAGE, id="half-outside"),
    pytest.param(SIZE, PAGE, PAGE, id="outside"),
]
"""Offset and size, and the bytes at its end that no memslot covers."""

SIDES = [
    pytest.param((VmType.DEFAULT, False), id="default"),
    pytest.param((VmType.SW_PROTECTED, False), id="sw_protected-shared"),
    pytest.param((VmType.SW_PROTECTED, True), id="sw_protected-private"),
]
"""The VM's type, and whether the slot's memory is private."""


@dataclass
class Target:
    """A guest with a memslot at the very top of its address space."""

    guest: ScriptedGuest
    gpa: int
    shared: Mapping
    file: GuestMemfd | None

    @property
    def linear(self) -> int:
        """Where the guest sees it: an address in the lower, canonical half."""
        return self.gpa & (1 << 47) - 1

    def mapped(self) -> int:
        """How many bytes KVM's page tables map to the guest, in all."""
        with self.guest.vm.statistics() as statistics:
            pages = {one.descriptor.name: one.values[0] for one in statistics.read()}
        sizes = {"pages_4k": PAGE, "pages_2m": 2 * MIB, "pages_1g": 1 << 30}
        return sum(pages[name] * size for name, size in sizes.items())

    def reading(self) -> Script:
        script = Script()
        script.touch(self.linear, SIZE)
        return script

    def create_slot(self) -> None:
        slot = Memslot(SLOT, self.gpa, SIZE, self.shared.hva, guest_memfd=self.file)
        self.guest.vm.set_memslot(slot)

    def delete_slot(self) -> None:
        self.guest.vm.set_memslot(Memslot(SLOT, self.gpa, 0, 0))


def highest_gpa(system: System) -> int:
    """Where `SIZE` bytes at the top of the guest's address space begin, aligned to 2 MiB."""
    eax = next(e.eax for e in system.supported_cpuid() if e.function == ADDRESS_SIZES)
    bits = (eax >> 16 & 0xFF) or (eax & 0xFF)
    end = (1 << bits) - (HYPERTRANSPORT if bits >= 40 else 0)
    return (end - SIZE) // (2 * MIB) * (2 * MIB)


def pre_fault(vcpu: ScriptedVcpu, gpa: int, size: int) -> tuple[int, int]:
    """The errno (0: none), and how many bytes were left to do when it came."""
    try:
        vcpu.vcpu.pre_fault(gpa, size)
    except KvmError as error:
        left = dict(part.split("=") for part in error.arguments.split())
        assert int(left["gpa"], 16) + int(left["size"], 16) == gpa + size
        return error.errno, int(left["size"], 16)
    return 0, 0


def expected(outside: int) -> tuple[int, int]:
    return (errno.ENOENT, outside) if outside else (0, 0)


@pytest.fixture
def pre_faulting(system: System) -> System:
    if not system.capabilities().pre_fault:
        pytest.skip("this host's KVM does not fault memory in ahead (KVM_CAP_PRE_FAULT_MEMORY)")
    return system


@pytest.fixture
def target(
    pre_faulting: System, scripted: MakeScripted, request: pytest.FixtureRequest
) -> Iterator[Target]:
    """A guest of each kind, given by `SIDES` as an indirect parameter."""
    vm_type, private = request.param
    if vm_type is VmType.SW_PROTECTED:
        request.getfixturevalue("private_host")
    guest = scripted(vm_type)
    gpa = highest_gpa(pre_faulting)
    with ExitStack() as owned:
        shared = owned.enter_context(pre_faulting.map_anonymous(SIZE))
        file = owned.enter_context(guest.vm.create_guest_memfd(SIZE)) if private else None
        target = Target(guest, gpa, shared, file)
        guest.tables.map(target.linear, gpa, SIZE)
        target.create_slot()
        if private:
            guest.vm.set_memory_attributes(gpa, SIZE, MemoryAttribute.PRIVATE)
        yield target


@pytest.mark.parametrize(("offset", "size", "outside"), RANGES)
@pytest.mark.parametrize("target", SIDES, indirect=True)
def test_a_range(target: Target, offset: int, size: int, outside: int) -> None:
    with target.guest.vcpu() as vcpu:
        before = target.mapped()
        assert pre_fault(vcpu, target.gpa + offset, size) == expected(outside)
        assert target.mapped() - before == size - outside
        assert vcpu.run(target.reading()) == DONE_EXIT


@pytest.mark.parametrize(("offset", "size", "outside"), RANGES)
@pytest.mark.parametrize("target", SIDES, indirect=True)
def test_a_range_whose_memslot_is_being_deleted(
    system: System, target: Target, offset: int, size: int, outside: int
) -> None:
    """What comes of it is open, but it ends; and once the slot is there again, it is as usual."""
    if not system.capabilities().guest_memfd_flags:
        # Not this capability, but what came before it: in 6.12 KVM waits in the ioctl for what only
        # KVM_RUN does, once a slot has been deleted.
        pytest.skip("this host's KVM is too old (KVM_CAP_GUEST_MEMFD_FLAGS): it would never end")
    ready = threading.Barrier(2, timeout=240)

    def delete() -> None:
        ready.wait()
        target.delete_slot()

    gpa = target.gpa + offset
    with target.guest.vcpu() as vcpu, ThreadPoolExecutor(1) as thread:
        deleting = thread.submit(delete)
        ready.wait()
        number, left = pre_fault(vcpu, gpa, size)
        deleting.result()
        # kvm_handle_noslot_fault: a private access where there is no slot is EFAULT.
        gone = {errno.ENOENT, errno.EFAULT} if target.file is not None else {errno.ENOENT}
        assert number in {0, errno.EAGAIN, *gone}
        assert (left == 0) == (number == 0)
        target.create_slot()
        assert pre_fault(vcpu, gpa, size) == expected(outside)
        assert vcpu.run(target.reading()) == DONE_EXIT
