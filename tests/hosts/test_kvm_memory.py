# SPDX-License-Identifier: MIT
"""Memslots, guest_memfd and mappings: what works, and each refusal with its errno."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.errors import HostLacksError, InternalError, SystemCallError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.binding import lib
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.resident_pages import resident_runs
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from tests.readable import wait_readable

from .flat_guest import MakeGuest

pytestmark = pytest.mark.kvm

PAGE = 4096
MAPPED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


@pytest.fixture
def vm(system: System) -> Iterator[Vm]:
    with system.create_vm() as vm:
        yield vm


@pytest.fixture
def backing(system: System) -> Iterator[Mapping]:
    with system.map_anonymous(16 * PAGE) as mapping:
        yield mapping


@pytest.fixture
def file(system: System, vm: Vm) -> Iterator[GuestMemfd]:
    capabilities = system.capabilities()
    assert capabilities.guest_memfd, "this host's KVM is older than what the project supports"
    with vm.create_guest_memfd(4 * PAGE) as file:
        yield file


def errno_of(action: object, *args: object, **kwargs: object) -> int:
    with pytest.raises(SystemCallError) as caught:
        action(*args, **kwargs)  # type: ignore[operator]
    return caught.value.errno


def test_memslots(vm: Vm, backing: Mapping) -> None:
    slot = Memslot(0, 0, 4 * PAGE, backing.hva)
    vm.set_memslot(slot)
    assert errno_of(vm.set_memslot, Memslot(1, PAGE, PAGE, backing.hva)) == errno.EEXIST
    assert errno_of(vm.set_memslot, Memslot(1, 1 << 20, 100, backing.hva)) == errno.EINVAL
    assert errno_of(vm.set_memslot, Memslot(1, 1, PAGE, backing.hva)) == errno.EINVAL
    assert errno_of(vm.set_memslot, Memslot(1, 1 << 20, PAGE, backing.hva + 1)) == errno.EINVAL
    assert errno_of(vm.set_memslot, Memslot(1 << 15, 1 << 20, PAGE, backing.hva)) == errno.EINVAL
    assert errno_of(vm.set_memslot, Memslot(0, 0, 2 * PAGE, backing.hva)) == errno.EINVAL
    vm.set_memslot(Memslot(0, 1 << 20, 4 * PAGE, backing.hva))  # moved
    vm.set_memslot(Memslot(0, 1 << 20, 0, 0))
    assert errno_of(vm.set_memslot, Memslot(0, 1 << 20, 0, 0)) == errno.EINVAL


def test_second_form_without_guest_memfd(vm: Vm, backing: Mapping, file: GuestMemfd) -> None:
    flags = MemslotFlag.GUEST_MEMFD
    bad = Memslot(0, 0, PAGE, backing.hva, flags)  # the flag, but no file
    assert errno_of(vm.set_memslot, bad) == errno.EBADF
    vm.set_memslot(Memslot(0, 0, PAGE, backing.hva, flags, file))


def test_errors_name_the_slot(vm: Vm, backing: Mapping) -> None:
    with pytest.raises(KvmError) as caught:
        vm.set_memslot(Memslot(3, 1, PAGE, backing.hva))
    error = caught.value
    assert error.ioctl == "KVM_SET_USER_MEMORY_REGION"
    assert error.target == f"VM fd {vm.fd}"
    assert "slot=3" in error.arguments
    assert "EINVAL" in str(error)


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, 2**63 - 1])
def test_guest_memfd_sizes_refused(vm: Vm, size: int) -> None:
    assert errno_of(vm.create_guest_memfd, size) == errno.EINVAL


def test_guest_memfd_flags(system: System, vm: Vm) -> None:
    offered = system.capabilities().guest_memfd_flags
    for value in range(8):
        flags = GuestMemfdFlag(value)
        if value & ~int(offered):
            assert errno_of(vm.create_guest_memfd, PAGE, flags) == errno.EINVAL
        else:
            vm.create_guest_memfd(PAGE, flags).close()


def bind(vm: Vm, file: GuestMemfd, hva: int, **change: int) -> None:
    fields = {"slot": 0, "gpa": 0, "size": PAGE, "hva": hva} | change
    vm.set_memslot(Memslot(**fields, guest_memfd=file))  # type: ignore[arg-type]


def test_bindings_refused(system: System, vm: Vm, backing: Mapping, file: GuestMemfd) -> None:
    hva = backing.hva
    for offset in (1, PAGE - 1, 4 * PAGE, 5 * PAGE, 2**64 - PAGE):
        assert errno_of(bind, vm, file, hva, guest_memfd_offset=offset) == errno.EINVAL
    assert errno_of(bind, vm, file, hva, size=5 * PAGE) == errno.EINVAL
    with system.create_vm() as other, other.create_guest_memfd(PAGE) as foreign:
        assert errno_of(bind, vm, foreign, hva) == errno.EINVAL
    no_guest_memfd = GuestMemfd(os.memfd_create("other"), PAGE, GuestMemfdFlag(0))
    with no_guest_memfd:
        assert errno_of(bind, vm, no_guest_memfd, hva) == errno.EINVAL
    assert errno_of(bind, vm, no_guest_memfd, hva) == errno.EBADF  # closed by now


def test_bound_ranges(vm: Vm, backing: Mapping, file: GuestMemfd) -> None:
    hva = backing.hva
    bind(vm, file, hva)
    # EINVAL up to Linux 6.18, EEXIST later (7.3).
    assert errno_of(bind, vm, file, hva, slot=1, gpa=1 << 20) in {errno.EINVAL, errno.EEXIST}
    bind(vm, file, hva, slot=1, gpa=1 << 20, guest_memfd_offset=PAGE)
    assert errno_of(bind, vm, file, hva, gpa=1 << 21) == errno.EINVAL  # moving
    dirty = Memslot(0, 0, PAGE, hva, MemslotFlag.LOG_DIRTY_PAGES, file)
    assert errno_of(vm.set_memslot, dirty) == errno.EINVAL  # re-flagging
    bind(vm, file, hva, size=0)
    bind(vm, file, hva)


def test_file_operations(vm: Vm, file: GuestMemfd) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)):
        os.pread(file.fd, 1, 0)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.ftruncate(file.fd, 8 * PAGE)
    assert errno_of(file.map) == errno.ENODEV
    file.allocate(0, 2 * PAGE)
    file.punch_hole(0, PAGE)
    for offset, size in ((1, PAGE), (0, PAGE - 1), (0, 0), (0, 5 * PAGE), (4 * PAGE, PAGE)):
        assert errno_of(file.allocate, offset, size) == errno.EINVAL
    for offset, size in ((1, PAGE), (0, 1)):
        assert errno_of(file.punch_hole, offset, size) == errno.EINVAL
    assert lib.pyvmm_fallocate(file.fd, 0, 0, PAGE) == -errno.EOPNOTSUPP


def test_guest_runs_from_guest_memfd(system: System, guest: MakeGuest) -> None:
    if system.capabilities().guest_memfd_flags & MAPPED != MAPPED:
        with pytest.raises(KvmError):
            guest(b"").vm.create_guest_memfd(PAGE, MAPPED)
        return
    # `mov [0x9010], al; hlt`
    made = guest(bytes.fromhex("b05a a21090 f4"))
    with made.vm.create_guest_memfd(PAGE, MAPPED) as file, file.map() as mapping:
        made.vm.set_memslot(Memslot(1, 0x9000, PAGE, mapping.hva, guest_memfd=file))
        assert made.vcpu.run() == exits.Hlt()
        with mapping.view() as view:
            assert view[0x10] == 0x5A


def test_memory_attributes(system: System, vm: Vm) -> None:
    offered = system.capabilities().memory_attributes
    # A VM answers for its own type, /dev/kvm for the best one.
    assert vm.check_extension(233) in {0, int(offered)}
    if MemoryAttribute.PRIVATE in offered and vm.check_extension(233):
        vm.set_memory_attributes(0, PAGE, MemoryAttribute.PRIVATE)
        vm.set_memory_attributes(0, PAGE, MemoryAttribute(0))
        assert errno_of(vm.set_memory_attributes, 1, PAGE, MemoryAttribute(0)) == errno.EINVAL
    else:
        refused = errno_of(vm.set_memory_attributes, 0, PAGE, MemoryAttribute.PRIVATE)
        assert refused in {errno.ENOTTY, errno.EINVAL}


def test_pre_fault(system: System, guest: MakeGuest) -> None:
    made = guest(b"\xf4")
    if system.capabilities().pre_fault:
        made.vcpu.pre_fault(0, 4 * PAGE)
        assert errno_of(made.vcpu.pre_fault, 1 << 30, PAGE) == errno.ENOENT
    else:
        refused = errno_of(made.vcpu.pre_fault, 0, 4 * PAGE)
        assert refused in {errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP}


def test_vm_types(system: System) -> None:
    for vm_type in VmType:
        if vm_type in system.capabilities().vm_types:
            system.create_vm(vm_type).close()
        else:
            assert errno_of(system.create_vm, vm_type) == errno.EINVAL


def test_mapping_sizes() -> None:
    with System() as system:
        for size in (0, -PAGE, 1, PAGE + 1):
            with pytest.raises(UsageError):
                system.map_anonymous(size)
        with pytest.raises(SystemCallError):
            system.map_anonymous(1 << 62)


def test_discarded_pages_are_given_back(system: System) -> None:
    with system.map_anonymous(8 * PAGE) as mapping:
        assert mapping.resident(0, 8 * PAGE) == 0
        with mapping.view() as view:
            for page in (1, 2, 3, 6):
                view[page * PAGE + 7] = page
            assert mapping.resident(0, 8 * PAGE) == 4 * PAGE
            assert mapping.resident(2 * PAGE, 3 * PAGE) == 2 * PAGE
            mapping.discard(2 * PAGE, 3 * PAGE)
            assert mapping.resident(0, 8 * PAGE) == 2 * PAGE
            assert [view[page * PAGE + 7] for page in range(8)] == [0, 1, 0, 0, 0, 0, 6, 0]
        mapping.discard(0, 0)
        assert mapping.resident(8 * PAGE, 0) == 0


@pytest.mark.parametrize(
    ("offset", "size"), [(-PAGE, PAGE), (0, 9 * PAGE), (8 * PAGE, PAGE), (1, PAGE), (0, 1)]
)
def test_no_range_of_a_mapping(system: System, offset: int, size: int) -> None:
    with system.map_anonymous(8 * PAGE) as mapping:
        with pytest.raises(UsageError):
            mapping.discard(offset, size)
        with pytest.raises(UsageError):
            mapping.resident(offset, size)


def test_a_closed_mapping_has_no_pages(system: System) -> None:
    mapping = system.map_anonymous(PAGE)
    mapping.close()
    with pytest.raises(InternalError):
        mapping.discard(0, PAGE)
    with pytest.raises(InternalError):
        mapping.resident(0, PAGE)


def test_residency_beyond_one_count(system: System) -> None:
    # mincore is asked for 16 MiB at a time.
    size = 40 << 20
    with system.map_anonymous(size) as mapping, mapping.view() as view:
        for offset in (0, (16 << 20) - 1, 16 << 20, (32 << 20) + PAGE, size - 1):
            view[offset] = 1
        assert mapping.resident(0, size) == 5 * PAGE
        assert mapping.resident(16 << 20, 16 << 20) == PAGE


def test_residency_of_guest_memfd(file: GuestMemfd) -> None:
    try:
        assert file.resident(0, 4 * PAGE) == 0
    except HostLacksError as error:
        assert "CONFIG_CACHESTAT_SYSCALL" in error.remedy
        pytest.skip(str(error))
    file.allocate(PAGE, 3 * PAGE)
    assert file.resident(0, 4 * PAGE) == 3 * PAGE
    file.punch_hole(2 * PAGE, PAGE)
    assert file.resident(0, 4 * PAGE) == 2 * PAGE
    assert file.resident(0, 2 * PAGE) == PAGE
    assert file.resident(2 * PAGE, 0) == 0
    file.close()
    assert errno_of(file.resident, 0, PAGE) == errno.EBADF


def test_residency_of_a_mapped_guest_memfd(system: System, vm: Vm) -> None:
    if system.capabilities().guest_memfd_flags & MAPPED != MAPPED:
        pytest.skip("this host's guest_memfd cannot be mapped")
    with vm.create_guest_memfd(4 * PAGE, MAPPED) as file, file.map() as mapping:
        with mapping.view() as view:
            view[PAGE : 3 * PAGE] = bytes(2 * PAGE)
        assert mapping.resident(0, 4 * PAGE) == 2 * PAGE
        file.punch_hole(0, 2 * PAGE)
        assert mapping.resident(0, 4 * PAGE) == PAGE
        # Only the file can tell of a page that nobody has touched yet.
        file.allocate(0, PAGE)
        assert mapping.resident(0, 4 * PAGE) == PAGE


def test_a_memslot_goes_while_its_vcpu_runs(guest: MakeGuest, backing: Mapping) -> None:
    # `l: out 0x61, al; jmp l`
    made = guest(bytes.fromhex("e661 ebfc"))
    made.vm.posted.post_port(0x61, write=True, read_value=None)
    made.vm.set_memslot(Memslot(1, 0x10000, PAGE, backing.hva))
    seen: list[exits.Exit] = []
    thread = threading.Thread(target=lambda: seen.append(made.vcpu.run()), daemon=True)
    thread.start()
    wait_readable(made.vm.posted)  # the thread has arrived in the guest
    made.vm.set_memslot(Memslot(1, 0x10000, 0, 0))
    made.vm.set_memslot(Memslot(1, 0x20000, PAGE, backing.hva))
    made.vcpu.kick()
    thread.join()
    assert seen in ([exits.Interrupted()], [exits.PostedFull()])


def test_a_view_outlives_its_mapping_safely(system: System) -> None:
    mapping = system.map_anonymous(2 * PAGE)
    view = mapping.view()
    part = mapping.view()[100:200]
    view[150] = 7
    assert part[50] == 7
    before = _mapped(mapping.hva)
    assert before
    hva = mapping.hva
    mapping.close()
    mapping.close()
    assert mapping.hva == 0
    assert part[50] == 0
    part[50] = 9
    assert view[150] == 9
    with pytest.raises(InternalError):
        mapping.view()
    view.release()
    assert _mapped(hva)
    part.release()
    del view, part
    gc.collect()
    assert not _mapped(hva)


def _mapped(hva: int) -> bool:
    with open("/proc/self/maps", encoding="ascii") as maps:
        ranges = [line.split(" ", 1)[0].split("-") for line in maps]
    return any(int(low, 16) <= hva < int(high, 16) for low, high in ranges)


def test_every_fd_is_close_on_exec(system: System, guest: MakeGuest) -> None:
    made = guest(b"\xf4")
    with (
        made.vm.create_guest_memfd(PAGE) as file,
        made.vm.statistics() as vm_stats,
        made.vcpu.statistics() as vcpu_stats,
    ):
        owners = (system, made.vm, made.vcpu, file, vm_stats, vcpu_stats, made.vm.posted)
        for owner in owners:
            assert fcntl.fcntl(owner.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert [owner.fd for owner in (file, vm_stats, vcpu_stats)] == [-1, -1, -1]


def test_a_mapping_tells_where_its_data_is(system: System) -> None:
    with system.map_anonymous(16 * PAGE) as mapping:
        assert list(mapping.data(0, 16 * PAGE)) == []
        with mapping.view() as view:
            view[3 * PAGE] = 1
            view[4 * PAGE] = 0  # Touched: a page of zeroes.
            view[15 * PAGE + 1] = 1
        assert list(mapping.data(0, 16 * PAGE)) == [(3 * PAGE, 5 * PAGE), (15 * PAGE, 16 * PAGE)]
        assert list(mapping.data(4 * PAGE, 2 * PAGE)) == [(4 * PAGE, 5 * PAGE)]
        assert list(mapping.data(2 * PAGE, 2 * PAGE)) == [(3 * PAGE, 4 * PAGE)]
        mapping.discard(3 * PAGE, PAGE)
        assert list(mapping.data(0, 8 * PAGE)) == [(4 * PAGE, 5 * PAGE)]
        with pytest.raises(UsageError, match="not in multiples of the page size"):
            list(mapping.data(1, PAGE))
    with pytest.raises(InternalError, match="closed"):
        list(mapping.data(0, PAGE))


def test_a_mapped_guest_memfd_tells_where_its_data_is(system: System, vm: Vm) -> None:
    if MAPPED not in system.capabilities().guest_memfd_flags:
        pytest.skip("this KVM's guest_memfd cannot be mapped")
    size = (4 << 20) + 3 * PAGE
    with vm.create_guest_memfd(size, MAPPED) as file, file.map() as mapping:
        assert list(mapping.data(0, size)) == []
        touched = {0, 3, 511, 512, 1023, 1025}
        with mapping.view() as view:
            for page in touched:
                view[page * PAGE] = 1
        found = list(mapping.data(0, size))
        assert {
            start // PAGE for start, end in found for start in range(start, end, PAGE)
        } == touched
        assert found == sorted(found)
        assert list(mapping.data(PAGE, 3 * PAGE)) == [(3 * PAGE, 4 * PAGE)]


def test_resident_pages_are_told_across_what_is_asked_at_once(system: System) -> None:
    window = 64 << 20
    size = 2 * window + 3 * PAGE
    with system.map_anonymous(size) as mapping:
        touched = [0, window - PAGE, window, 2 * window + PAGE]
        with mapping.view() as view:
            for offset in touched:
                view[offset] = 1
        assert list(resident_runs(mapping.hva, size, "look")) == [
            (0, PAGE),
            (window - PAGE, window),
            (window, window + PAGE),
            (2 * window + PAGE, 2 * window + 2 * PAGE),
        ]
        assert list(resident_runs(mapping.hva + PAGE, PAGE, "look")) == []
    with pytest.raises(SystemCallError, match="look"):
        list(resident_runs(1, PAGE, "look"))
