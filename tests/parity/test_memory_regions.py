# SPDX-License-Identifier: MIT
"""set_memory_region_test, as far as it is about guest_memfd: which memslots KVM refuses, and how.

Its other cases (moving and deleting ordinary slots, the largest number of them, MMIO while an
interrupt is delivered) have nothing to do with private memory.
"""

from __future__ import annotations

import errno
import os

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm

from .kernel_answers import KernelAnswers

pytestmark = pytest.mark.kvm

PAGE = 4096
SIZE = 2 << 20
GPA = 0xC000_0000
SLOT = 10
NO_FLAGS = MemslotFlag(0)


@pytest.fixture
def binding_vm(vm: Vm) -> Vm:
    """A VM whose memslots can have a guest_memfd."""
    if not vm.check_extension(Cap.GUEST_MEMFD):
        pytest.skip("this host's KVM has no guest_memfd for this type of VM (KVM_CAP_GUEST_MEMFD)")
    return vm


def errno_of(vm: Vm, memslot: Memslot) -> int:
    """What KVM_SET_USER_MEMORY_REGION(2) fails with; 0 where it does not."""
    try:
        vm.set_memslot(memslot)
    except KvmError as error:
        return error.errno
    return 0


def errno_of_form(vm: Vm, form: ioctls.IoctlSpec, flags: int) -> int:
    """The same for one form of the ioctl with any flags: `set_memslot` chooses the form itself."""
    second = form is ioctls.SET_USER_MEMORY_REGION2
    region = new(
        "struct kvm_userspace_memory_region2 *"
        if second
        else "struct kvm_userspace_memory_region *",
        {"flags": flags, "memory_size": SIZE},
    )
    try:
        call(form, vm, region)
    except KvmError as error:
        return error.errno
    return 0


@pytest.mark.parametrize("bit", range(32))
def test_flags_that_are_not_known(vm: Vm, bit: int) -> None:
    first = {MemslotFlag.LOG_DIRTY_PAGES, MemslotFlag.READONLY}
    known = set(first)
    if vm.check_extension(Cap.GUEST_MEMFD):
        known.add(MemslotFlag.GUEST_MEMFD)
    flag = 1 << bit
    if flag not in first:
        assert errno_of_form(vm, ioctls.SET_USER_MEMORY_REGION, flag) == errno.EINVAL
    if flag not in known:
        assert errno_of_form(vm, ioctls.SET_USER_MEMORY_REGION2, flag) == errno.EINVAL


@pytest.mark.parametrize("flag", [MemslotFlag.LOG_DIRTY_PAGES, MemslotFlag.READONLY])
def test_flags_that_no_guest_memfd_slot_can_have(binding_vm: Vm, flag: MemslotFlag) -> None:
    with binding_vm.create_guest_memfd(SIZE) as file:
        with_flag = Memslot(0, 0, SIZE, 0, flag, file)
        assert errno_of(binding_vm, with_flag) == errno.EINVAL
        assert errno_of(binding_vm, Memslot(0, 0, SIZE, 0, NO_FLAGS, file)) == 0


def bind(vm: Vm, file: GuestMemfd, offset: int = 0) -> int:
    return errno_of(vm, Memslot(SLOT, GPA, SIZE, 0, NO_FLAGS, file, offset))


def borrowed(fd: int) -> GuestMemfd:
    """Some fd, said to be a guest_memfd."""
    return GuestMemfd(os.dup(fd), SIZE, GuestMemfdFlag(0))


def test_files_that_are_no_guest_memfd(system: System, binding_vm: Vm) -> None:
    memfd = os.memfd_create("ordinary", os.MFD_CLOEXEC)
    os.ftruncate(memfd, SIZE)
    try:
        for fd in (system.fd, binding_vm.fd, memfd):
            with borrowed(fd) as file:
                assert bind(binding_vm, file) == errno.EINVAL
    finally:
        os.close(memfd)


def test_a_file_belongs_to_its_vm(system: System, vm_type: VmType, binding_vm: Vm) -> None:
    with system.create_vm(vm_type) as owner, owner.create_guest_memfd(SIZE) as file:
        assert bind(binding_vm, file) == errno.EINVAL
        assert bind(owner, file) == 0


def test_offsets_within_a_page(binding_vm: Vm) -> None:
    with binding_vm.create_guest_memfd(SIZE) as file:
        assert {bind(binding_vm, file, offset) for offset in range(1, PAGE)} == {errno.EINVAL}
        assert bind(binding_vm, file) == 0


def test_a_bound_file_can_be_closed(binding_vm: Vm) -> None:
    with binding_vm.create_guest_memfd(SIZE) as file:
        assert bind(binding_vm, file) == 0
    binding_vm.set_memslot(Memslot(SLOT, GPA, 0, 0))


OVERLAPS = [
    pytest.param(GPA, SIZE, id="file-front"),
    pytest.param(GPA, 3 * SIZE, id="file-back"),
    pytest.param(2 * GPA - SIZE, 0, id="guest-front"),
    pytest.param(2 * GPA + SIZE, 0, id="guest-back"),
]
"""GPA and file offset of a slot of two sizes, beside one at GPA 2 * GPA and offset 2 * SIZE."""


@pytest.mark.parametrize(("gpa", "offset"), OVERLAPS)
def test_overlaps(binding_vm: Vm, answers: KernelAnswers, gpa: int, offset: int) -> None:
    with binding_vm.create_guest_memfd(5 * SIZE) as file:
        first = Memslot(SLOT, GPA, 2 * SIZE, 0, NO_FLAGS, file, 0)
        assert errno_of(binding_vm, first) == 0
        beside = Memslot(SLOT + 1, 2 * GPA, 2 * SIZE, 0, NO_FLAGS, file, 2 * SIZE)
        assert errno_of(binding_vm, beside) == 0
        binding_vm.set_memslot(Memslot(SLOT, GPA, 0, 0))
        again = Memslot(SLOT, gpa, 2 * SIZE, 0, NO_FLAGS, file, offset)
        refused = errno_of(binding_vm, again)
        assert refused
        assert errno_of(binding_vm, first) == 0
        in_file = gpa == GPA
        assert refused == (answers.bound_twice if in_file else errno.EEXIST)
