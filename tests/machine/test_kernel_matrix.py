# SPDX-License-Identifier: MIT
"""Matrix of guest_memfds: every cell is what the host does, and what KVM's rules say it does."""

from __future__ import annotations

import errno

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import NO_GUEST_MEMFD_FLAGS, System
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.machine.kernel_matrix import Attempt, KernelMatrix, answer, flag_names, try_matrix
from pyvmm.rules.creation import supported_flags
from pyvmm.rules.profile import FIRST_MERGED, IN_PLACE, MAINLINE, PROFILES, Profile

MAPPED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


def cells(matrix: KernelMatrix, vm_type: VmType, flags: int) -> dict[str, str]:
    row = matrix.row(vm_type, flags)
    assert row is not None
    return {attempt.value: answer(cell) for attempt, cell in row.cells.items()}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_matrix_of_each_kernel_that_the_rules_know(profile: Profile) -> None:
    with ModelSystem(profile) as system:
        has = system.capabilities()
        matrix = try_matrix(system)
    assert {kind for kind, cell in matrix.vm_types.items() if cell == 0} == has.vm_types
    assert {cell for kind, cell in matrix.vm_types.items() if kind not in has.vm_types} == {
        errno.EINVAL
    }
    assert len(matrix.rows) == 4 * len(has.vm_types)
    for row in matrix.rows:
        private_vm = row.vm_type is not VmType.DEFAULT
        made = not row.flags & ~supported_flags(private_vm, profile)
        assert row.cells[Attempt.CREATE] == (0 if made else errno.EINVAL)
        if not made:
            assert {row.cells[one] for one in Attempt if one is not Attempt.CREATE} == {None}
            continue
        mapped = GuestMemfdFlag.MMAP in row.flags
        assert row.cells[Attempt.MAP] == (0 if mapped else errno.ENODEV)
        shared = 0 if GuestMemfdFlag.INIT_SHARED in row.flags else errno.EFAULT
        assert row.cells[Attempt.TOUCH] == (shared if mapped else None)
        binds = private_vm or profile.default_vm_binds
        assert row.cells[Attempt.BIND] == (0 if binds else errno.EINVAL)
        assert row.cells[Attempt.BIND_READONLY] == errno.EINVAL
        assert row.cells[Attempt.BIND_DIRTY_LOG] == errno.EINVAL


def test_each_kind_of_attributes_is_found_where_it_is() -> None:
    found = {}
    for profile in (MAINLINE, IN_PLACE, FIRST_MERGED):
        with ModelSystem(profile) as system:
            found[profile] = try_matrix(system)
    files = {profile: cells(matrix, VmType.SW_PROTECTED, 0) for profile, matrix in found.items()}
    by_vm = {profile: row["private by VM"] for profile, row in files.items()}
    assert by_vm == {MAINLINE: "yes", IN_PLACE: "EINVAL", FIRST_MERGED: "yes"}
    by_file = {profile: row["private by file"] for profile, row in files.items()}
    assert by_file == {MAINLINE: "ENOTTY", IN_PLACE: "yes", FIRST_MERGED: "ENOTTY"}
    assert cells(found[IN_PLACE], VmType.SW_PROTECTED, MAPPED)["touch"] == "yes"
    assert cells(found[MAINLINE], VmType.SW_PROTECTED, MAPPED)["create"] == "EINVAL"


def check_against_what_it_says(system: System) -> None:
    """Compare the matrix of a real KVM with its answers to KVM_CHECK_EXTENSION."""
    has = system.capabilities()
    matrix = try_matrix(system)
    assert {kind for kind, cell in matrix.vm_types.items() if cell == 0} == has.vm_types
    row = cells(matrix, VmType.DEFAULT, has.guest_memfd_flags)
    if MAPPED in has.guest_memfd_flags:
        assert [row[one] for one in ("create", "mmap", "touch", "bind")] == ["yes"] * 4
    if VmType.SW_PROTECTED in has.vm_types:
        private = cells(matrix, VmType.SW_PROTECTED, 0)
        offered = MemoryAttribute.PRIVATE in has.memory_attributes
        assert (private["private by VM"] == "yes") == offered
        offered = MemoryAttribute.PRIVATE in has.file_attributes
        assert (private["private by file"] == "yes") == offered


@pytest.mark.kvm
def test_the_matrix_of_this_kvm_agrees_with_what_it_says_of_itself() -> None:
    with KvmSystem() as system:
        check_against_what_it_says(system)


NEW_FLAG = 0x20


class NewFlagVm(ModelVm):
    """A VM of a kernel with a flag that nobody has told us of, and which changes nothing."""

    def create_guest_memfd(
        self, size: int, flags: GuestMemfdFlag = NO_GUEST_MEMFD_FLAGS
    ) -> ModelGuestMemfd:
        return super().create_guest_memfd(size, GuestMemfdFlag(int(flags) & ~NEW_FLAG))


class NewFlagSystem(ModelSystem):
    def create_vm(self, vm_type: VmType = VmType.DEFAULT) -> NewFlagVm:
        self.require_type(vm_type)
        return NewFlagVm(vm_type, self._profile, self._mapped)


def test_a_flag_without_a_name_that_a_kernel_takes_has_rows() -> None:
    with NewFlagSystem() as system:
        matrix = try_matrix(system)
    rows = [flag_names(row.flags) for row in matrix.rows if row.vm_type is VmType.DEFAULT]
    assert rows == [
        "none", "MMAP", "INIT_SHARED", "MMAP INIT_SHARED", "0x20", "MMAP INIT_SHARED 0x20",
    ]  # fmt: skip
    assert cells(matrix, VmType.DEFAULT, NEW_FLAG | MAPPED)["touch"] == "yes"
    assert cells(matrix, VmType.DEFAULT, NEW_FLAG)["mmap"] == "ENODEV"


def test_errnos_without_a_name_are_told_by_number() -> None:
    assert [answer(one) for one in (0, errno.EEXIST, 524, None)] == [
        "yes", "EEXIST", "errno 524", "-",
    ]  # fmt: skip
