# SPDX-License-Identifier: MIT
"""Interfaces that no release has yet: told where a kernel does them, and what is answered else."""

from __future__ import annotations

import errno
import os

import pytest

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.kvm import memslot_trial
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping, map_anonymous
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.userfaultfd import Userfaultfd
from pyvmm.machine import newer_interfaces
from pyvmm.machine.findings import Finding, Verdict
from pyvmm.machine.kernel_matrix import try_matrix
from pyvmm.rules.abi import PAGE_SIZE

pytestmark = pytest.mark.kvm


def found() -> dict[str, Finding]:
    with System() as system:
        matrix = try_matrix(system)
        return {one.what: one for one in newer_interfaces.examine_newer(system, matrix)}


def has_mapped_file() -> bool:
    with System() as system:
        return system.capabilities().guest_memfd_flags == 3


def test_this_kernel_is_told_as_it_answers() -> None:
    told = found()
    assert list(told) == [
        "write() population", "no direct map", "huge guest_memfds", "KVM userfault", "userfaultfd",
        "huge pages of memfds", "newer extensions",
    ]  # fmt: skip
    with System() as system, system.create_vm() as vm, map_anonymous(2 * PAGE_SIZE) as memory:
        with pytest.raises(KvmError) as refused:
            memslot_trial.try_memslot_flags(vm, memory.hva, 1 << 30, 0)
        # What is known is taken by the same road, so that it is the flag that is refused.
        memslot_trial.try_memslot_flags(vm, memory.hva, 1, memory.hva + PAGE_SIZE)
        memslot_trial.try_memslot_flags(vm, memory.hva, 0, 0)
    assert refused.value.errno == errno.EINVAL
    if told["KVM userfault"].verdict is Verdict.LACKS:
        assert told["KVM userfault"].answer == "EINVAL for each flag without a name"
    try:
        with Userfaultfd():
            pass
    except HostLacksError:
        assert told["userfaultfd"].verdict is Verdict.LACKS
    else:
        assert "missing" in told["userfaultfd"].answer


def test_a_kernel_that_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_mapped_file():
        pytest.skip("this kernel's guest_memfds cannot be mapped")
    try:
        Userfaultfd().close()
    except HostLacksError as error:
        pytest.skip(str(error))
    asked = System.check_extension

    def register(_self: Userfaultfd, _hva: int, _size: int, modes: int) -> None:
        if modes == 2:
            raise SystemCallError("register", errno.EINVAL, "EINVAL")

    def peek(_self: Mapping, _offset: int, _size: int) -> bytes:
        raise SystemCallError("read", errno.EFAULT, "EFAULT")

    with System() as system:
        matrix = try_matrix(system)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", lambda *_: PAGE_SIZE)
            patched.setattr(Mapping, "peek", peek)
            patched.setattr(GuestMemfd, "resident", lambda *_: 2 << 20)
            patched.setattr(newer_interfaces, "try_memslot_flags", lambda *_: None)
            patched.setattr(Userfaultfd, "register", register)
            patched.setattr(Userfaultfd, "unregister", lambda *_: None)
            patched.setattr(
                System, "check_extension", lambda self, cap: 8 if cap == 251 else asked(self, cap)
            )
            told = {one.what: one for one in newer_interfaces.examine_newer(system, matrix)}
    told.pop("huge pages of memfds")
    assert {one.verdict for one in told.values()} == {Verdict.HAS}
    assert "DEFAULT MMAP INIT_SHARED" in told["write() population"].answer
    assert told["no direct map"].answer == "DEFAULT MMAP INIT_SHARED"
    assert "DEFAULT none: 2048 KiB" in told["huge guest_memfds"].answer
    assert told["KVM userfault"].answer.startswith("KVM_MEM_USERFAULT, 0x10, ")
    assert told["userfaultfd"].answer == "memfd: missing, minor; guest_memfd: missing, minor"
    assert "251 = 0x8" in told["newer extensions"].answer
