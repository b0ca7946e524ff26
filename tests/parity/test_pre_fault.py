# SPDX-License-Identifier: MIT
"""pre_fault_memory_test: memory that is mapped ahead, while its memslot goes and comes back.

The kernel's test races the two; here the deletion is held in the middle.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System

from .conftest import MakeScripted
from .raw_memory import Held, held, why_not_held
from .scripted_guest import DONE_EXIT, PAGE, Script, ScriptedGuest, ScriptedVcpu

pytestmark = pytest.mark.kvm

MIB = 1 << 20
SIZE = 2 * MIB + PAGE
SLOT = 10
ANOTHER = 1 << 32
"""GPA of the page by which a deletion is held up."""
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


@contextmanager
def pre_faulting_held(system: System, target: Target) -> Iterator[Held]:
    """Another vCPU is in the middle of KVM_PRE_FAULT_MEMORY, of another memslot's page.

    So it is in a read-side section of the VM's SRCU, which whoever deletes a memslot waits for.
    """

    def pre_fault_another() -> None:
        with target.guest.vcpu(1) as vcpu:
            vcpu.vcpu.pre_fault(ANOTHER, PAGE)

    with system.map_anonymous(PAGE) as page, ThreadPoolExecutor(1) as thread:
        target.guest.vm.set_memslot(Memslot(SLOT + 1, ANOTHER, PAGE, page.hva))
        with held(page.hva, PAGE) as holding:
            running = thread.submit(pre_fault_another)
            holding.wait_for(running)
            yield holding
        running.result()


def wait_for_sleep(thread: int) -> None:
    """Until a thread sleeps uninterruptibly, as one does that waits for a grace period."""
    status = Path(f"/proc/self/task/{thread}/stat")
    while status.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "D":
        time.sleep(0.001)


@pytest.mark.parametrize(("offset", "size", "outside"), RANGES)
@pytest.mark.parametrize("target", SIDES, indirect=True)
def test_a_range_whose_memslot_is_being_deleted(
    system: System, target: Target, offset: int, size: int, outside: int
) -> None:
    """Held in the middle of the deletion: EAGAIN; and what it is afterwards, and with it again."""
    if not system.capabilities().guest_memfd_flags:
        # Not this capability, but what came before it: in 6.12 KVM waits in the ioctl for what only
        # KVM_RUN does, once a slot has been deleted.
        pytest.skip("this host's KVM is too old (KVM_CAP_GUEST_MEMFD_FLAGS): it would never end")
    reason = why_not_held()
    if reason is not None:
        pytest.skip(reason)
    deleter = queue.SimpleQueue[int]()

    def delete() -> None:
        deleter.put(threading.get_native_id())
        target.delete_slot()

    gpa = target.gpa + offset
    covered = size > outside
    # kvm_handle_noslot_fault: a private access where there is no slot is EFAULT.
    gone = errno.EFAULT if covered and target.file is not None else errno.ENOENT
    with target.guest.vcpu() as vcpu, ThreadPoolExecutor(1) as thread:
        with pre_faulting_held(system, target) as holding:
            deleting = thread.submit(delete)
            wait_for_sleep(deleter.get())
            assert pre_fault(vcpu, gpa, size) == (errno.EAGAIN if covered else errno.ENOENT, size)
            assert not deleting.done()
            holding.let_go()
        deleting.result()
        assert pre_fault(vcpu, gpa, size) == (gone, size)
        target.create_slot()
        assert pre_fault(vcpu, gpa, size) == expected(outside)
        assert vcpu.run(target.reading()) == DONE_EXIT
