# SPDX-License-Identifier: MIT
"""guest_memfd_test: the file as such, for each type of VM and each set of flags that it offers."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm

from .conftest import MakeScripted
from .kernel_answers import KernelAnswers
from .raw_memory import (
    MADV_COLLAPSE,
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_INTERLEAVE,
    signal_of,
    window,
)
from .scripted_guest import DONE_EXIT, Script

pytestmark = pytest.mark.kvm

PAGE = 4096
SIZE = 4 * PAGE
NONE = GuestMemfdFlag(0)
MAPPABLE = GuestMemfdFlag.MMAP
SHARED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
FILE_FLAGS = [
    pytest.param(NONE, id="none"),
    pytest.param(MAPPABLE, id="mmap"),
    pytest.param(SHARED, id="mmap-init_shared"),
]

# The flags that there are depend on the host and the VM's type, and are asked for (`offered`):
#               6.18, default       7.3, default        7.3, protected   6.12, both
# flags         MMAP, INIT_SHARED   MMAP, INIT_SHARED   MMAP             none


def offered(vm: Vm) -> GuestMemfdFlag:
    """The flags that a VM's guest_memfd can have."""
    return GuestMemfdFlag(vm.check_extension(Cap.GUEST_MEMFD_FLAGS))


def errno_of(action: object, *args: object) -> int:
    """What a call of pyvmm's fails with; 0 where it does not."""
    try:
        action(*args)  # type: ignore[operator]
    except SystemCallError as error:
        return error.errno
    return 0


def make(vm: Vm, flags: GuestMemfdFlag, size: int = SIZE) -> GuestMemfd:
    if flags & ~offered(vm):
        pytest.skip(f"this host's KVM has no {flags.name} for this type of VM (GUEST_MEMFD_FLAGS)")
    return vm.create_guest_memfd(size, flags)


@pytest.fixture(params=FILE_FLAGS)
def file(request: pytest.FixtureRequest, vm: Vm) -> Iterator[GuestMemfd]:
    """Four pages, with each set of flags."""
    with make(vm, request.param) as file:
        yield file


@pytest.fixture(params=FILE_FLAGS[1:])
def mappable(request: pytest.FixtureRequest, vm: Vm) -> Iterator[GuestMemfd]:
    with make(vm, request.param) as file:
        yield file


@pytest.fixture
def shared(vm: Vm) -> Iterator[GuestMemfd]:
    """Four pages that the host may map and touch."""
    with make(vm, SHARED) as file:
        yield file


def test_each_flag_is_offered_or_refused(vm: Vm) -> None:
    for bit in range(64):
        flag = GuestMemfdFlag(1 << bit)
        if flag & offered(vm):
            vm.create_guest_memfd(PAGE, flag).close()
        else:
            assert errno_of(vm.create_guest_memfd, PAGE, flag) == errno.EINVAL


def test_two_files_of_one_vm(vm: Vm) -> None:
    with vm.create_guest_memfd(PAGE) as one, vm.create_guest_memfd(2 * PAGE) as other:
        first, second = os.fstat(one.fd), os.fstat(other.fd)
        assert (first.st_size, second.st_size) == (PAGE, 2 * PAGE)
        assert first.st_ino != second.st_ino


@pytest.mark.parametrize("flags", FILE_FLAGS)
def test_sizes_that_are_no_pages(vm: Vm, flags: GuestMemfdFlag) -> None:
    make(vm, flags).close()  # skips
    seen = {errno_of(vm.create_guest_memfd, size, flags) for size in range(1, PAGE)}
    assert seen == {errno.EINVAL}


def test_reading_and_writing_the_file(file: GuestMemfd) -> None:
    for refused in (
        lambda: os.read(file.fd, 64),
        lambda: os.write(file.fd, bytes(64)),
        lambda: os.pread(file.fd, 64, 0),
        lambda: os.pwrite(file.fd, bytes(64), 0),
    ):
        with pytest.raises(OSError, match=r"Errno"):
            refused()


def test_mapped_memory(shared: GuestMemfd) -> None:
    full = b"\xaa" * SIZE
    with shared.map() as mapping, mapping.view() as view:
        view[:] = full
        assert bytes(view) == full
        shared.punch_hole(0, PAGE)
        assert bytes(view) == bytes(PAGE) + full[PAGE:]
        view[:PAGE] = full[:PAGE]
        assert bytes(view) == full


def test_mapping_beyond_the_end(shared: GuestMemfd) -> None:
    with window(shared.fd, 4 * SIZE) as seen:

        def fill_all() -> None:
            # By pages: a copy of everything need not write its first bytes first.
            for offset in range(0, 4 * SIZE, PAGE):
                seen.view[offset : offset + PAGE] = b"\xaa" * PAGE

        assert signal_of(fill_all) == signal.SIGBUS
        assert signal_of(lambda: seen.view[SIZE]) == signal.SIGBUS
        assert bytes(seen.view[:SIZE]) == b"\xaa" * SIZE


def test_mapping_of_private_memory(vm: Vm) -> None:
    with make(vm, MAPPABLE) as file, file.map() as mapping, mapping.view() as view:

        def fill_all() -> None:
            view[:] = b"\xaa" * SIZE

        assert signal_of(fill_all) == signal.SIGBUS
        assert signal_of(lambda: view[0]) == signal.SIGBUS


def test_mapping_copy_on_write(mappable: GuestMemfd) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        with window(mappable.fd, SIZE, mmap.MAP_PRIVATE):
            pass
    mappable.map().close()


def test_mapping_without_the_flag(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE) as file:
        assert errno_of(file.map) == errno.ENODEV
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            with window(file.fd, PAGE):
                pass


def test_memory_policy(mappable: GuestMemfd) -> None:
    node0 = 1
    with window(mappable.fd, SIZE) as seen:
        try:
            seen.policy(0)
        except OSError as error:
            assert error.errno == errno.ENOSYS
            pytest.skip("this host's kernel has no memory policies (CONFIG_NUMA)")
        seen.set_policy(0, 2 * PAGE, MPOL_INTERLEAVE, node0)
        assert seen.policy(0) == (MPOL_INTERLEAVE, node0)
        seen.set_policy(2 * PAGE, 2 * PAGE, MPOL_BIND, node0)
        assert seen.policy(2 * PAGE) == (MPOL_BIND, node0)
        seen.set_policy(0, SIZE, MPOL_DEFAULT, 0)
        assert seen.policy(0) == seen.policy(2 * PAGE) == (MPOL_DEFAULT, 0)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            seen.set_policy(0, PAGE, 999, node0)


def test_no_large_folio_by_collapse(vm: Vm) -> None:
    configured = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not configured.exists():
        pytest.skip("this host's kernel has no transparent huge pages")
    large = int(configured.read_text(encoding="ascii"))
    with make(vm, SHARED, large) as file, window(file.fd, large, align=large) as seen:
        assert not any(seen.view[::PAGE])
        seen.advise(mmap.MADV_HUGEPAGE)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            seen.advise(MADV_COLLAPSE)
        seen.advise(mmap.MADV_DONTNEED)
        assert seen.view[0] == 0


def test_what_fstat_says(file: GuestMemfd) -> None:
    status = os.fstat(file.fd)
    assert (status.st_size, status.st_blksize) == (SIZE, PAGE)
    assert file.size == SIZE


def test_allocating_and_freeing(file: GuestMemfd) -> None:
    file.allocate(0, SIZE)
    assert errno_of(file.punch_hole, PAGE - 1, PAGE) == errno.EINVAL
    assert errno_of(file.allocate, SIZE, PAGE) == errno.EINVAL
    assert errno_of(file.allocate, SIZE + PAGE, PAGE) == errno.EINVAL
    file.punch_hole(SIZE, PAGE)
    file.punch_hole(SIZE + PAGE, PAGE)
    assert errno_of(file.punch_hole, PAGE, PAGE - 1) == errno.EINVAL
    file.punch_hole(PAGE, PAGE)
    file.allocate(PAGE, PAGE)


@pytest.mark.parametrize("offset", [0, 1, PAGE])
def test_freeing_parts_of_pages(file: GuestMemfd, offset: int) -> None:
    whole = {PAGE} if offset % PAGE == 0 else set()
    for size in {1, PAGE - 1, PAGE, PAGE + 1} - whole:
        assert errno_of(file.punch_hole, offset, size) == errno.EINVAL


def test_binding_at_the_largest_offset(vm: Vm, file: GuestMemfd, answers: KernelAnswers) -> None:
    last_page = (2**63 - 1) // PAGE * PAGE

    def bind(offset: int) -> int:
        slot = Memslot(0, 0, SIZE, 0, guest_memfd=file, guest_memfd_offset=offset)
        return errno_of(vm.set_memslot, slot)

    assert bind(last_page - SIZE) == errno.EINVAL
    # A type of VM without guest_memfd slots refuses the flag, whatever the offset.
    binds = vm.check_extension(Cap.GUEST_MEMFD)
    assert bind(last_page) == (answers.offset_overflows if binds else errno.EINVAL)


def test_a_guest_uses_the_file_without_a_host_mapping(
    system: System, scripted: MakeScripted
) -> None:
    """The default type of VM offers both flags where it offers any; the slot's HVA is NULL."""
    if not system.capabilities().guest_memfd_flags:
        pytest.skip("this host's KVM knows no flags of guest_memfd (KVM_CAP_GUEST_MEMFD_FLAGS)")
    gpa = 1 << 32
    guest = scripted(VmType.DEFAULT)
    assert offered(guest.vm) & SHARED == SHARED
    guest.tables.map(gpa, gpa, PAGE)
    script = Script()
    script.check(gpa, PAGE, 0xAA)
    script.fill(gpa, PAGE, 0xFF)
    with guest.vm.create_guest_memfd(PAGE, SHARED) as file:
        guest.vm.set_memslot(Memslot(1, gpa, PAGE, 0, guest_memfd=file))
        with file.map() as mapping, mapping.view() as view:
            view[:] = b"\xaa" * PAGE
        with guest.vcpu() as vcpu:
            # An emulator of ring 0 would look for the memory at the HVA.
            assert vcpu.run(script, ring=3) == DONE_EXIT
        with file.map() as mapping, mapping.view() as view:
            assert bytes(view) == b"\xff" * PAGE
