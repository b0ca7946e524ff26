# SPDX-License-Identifier: MIT
"""Who holds a page of a guest_memfd: texts of /proc, and processes that hold one on purpose."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.kvm import page_holders
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.holding_process import HoldingProcess
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.page_holders import (
    HoldKind,
    Mapped,
    PageHolder,
    mappings,
    pinned_bytes,
    registered_buffers,
    told,
)

PAGE = 4096
MAPS = """\
55d0-55e0 r--p 00000000 08:01 77 /usr/bin/fio
7f1a7847a000-7f1a7847c000 rw-s 00001000 00:10 38214777     anon_inode:[kvm-gmem]
7f1a78480000-7f1a78481000 rw-s 00000000 00:11 38214777     anon_inode:[kvm-gmem]
7f1a78490000-7f1a78491000 rw-s 00000000 00:10 38214778     anon_inode:[kvm-gmem]
7f1a784a0000-7f1a784a1000 rw-p 00000000 00:00 0
"""
FDINFO = """\
pos:\t0
UserFiles:\t1
    0: file
UserBufs:\t2
    0: 0x7f1a7847a000/4096
    1: 0x1000/512
PollList:
  op=6, task_works=0
    3: 0x77/88
"""


def test_mappings_of_one_file_are_found_by_device_and_inode() -> None:
    (found,) = mappings(MAPS, (0, 0x10), 38214777)
    assert found == Mapped(0x7F1A_7847_A000, 0x7F1A_7847_C000, PAGE)
    assert [found.address_of(at) for at in (0, PAGE, 2 * PAGE, 3 * PAGE)] == [
        None, found.start, found.start + PAGE, None,
    ]  # fmt: skip
    assert not [*mappings(MAPS, (0, 0x10), 3821477)]
    assert not [*mappings("", (0, 0), 0)]


def test_buffers_of_an_io_uring_and_pinned_memory() -> None:
    assert [*registered_buffers(FDINFO)] == [(0x7F1A_7847_A000, 4096), (0x1000, 512)]
    assert not [*registered_buffers("pos:\t0\n    0: 0x1000/512\n")]
    assert pinned_bytes("VmLck:\t 4 kB\nVmPin:\t      12 kB\n") == 12 << 10
    assert pinned_bytes("Name:\tkthreadd\n") == 0


def test_what_is_certain_leaves_guesses_out() -> None:
    guess = PageHolder(HoldKind.MAPPED, "process 7 (fio)", False, 7)
    sure = PageHolder(HoldKind.IO_URING, "process 8 (fio)", True, 8, "fd 3")
    lease = PageHolder(HoldKind.LEASE, "the disk", True)
    assert told([guess, sure]) == "process 8 (fio) has registered it with io_uring (fd 3)"
    assert told([lease, sure]).startswith("the disk has leased it and process 8 ")
    assert told([guess]) == "process 7 (fio) maps it, and may be doing direct I/O"
    assert told([]) == "no process that can be looked at maps it or has the file open"


@contextmanager
def shared_file() -> Iterator[GuestMemfd]:
    """Two pages that can be mapped."""
    with System() as system:
        flags = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
        if flags not in system.capabilities().guest_memfd_flags:
            pytest.skip("this host's KVM has no guest_memfd that can be mapped and begins shared")
        with system.create_vm() as vm, vm.create_guest_memfd(2 * PAGE, flags) as file:
            yield file


@pytest.mark.kvm
def test_a_reference_of_ours_is_known_for_its_page_and_as_long_as_it_is_held() -> None:
    with shared_file() as file:
        assert file.holders(0) == ()
        with file.hold_page(PAGE + 8):
            (holder,) = file.holders(PAGE)
            assert (holder.kind, holder.is_certain) == (HoldKind.REFERENCE, True)
            assert holder.pid == os.getpid()
            assert str(os.getpid()) in str(holder)
            assert file.holders(0) == ()
        assert file.holders(PAGE) == ()


@pytest.mark.kvm
def test_without_proc_it_is_said_that_it_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_holders, "_PROC", tmp_path / "none")
    with shared_file() as file:
        (unseen,) = file.holders(PAGE)
        assert (unseen.kind, unseen.is_certain, unseen.pid) == (HoldKind.UNSEEN, False, 0)
        assert told([unseen]) == (
            "any process may hold it, which cannot be told: /proc is not mounted"
        )
        with file.hold_page(PAGE):
            own, _ = file.holders(PAGE)
            assert (own.kind, own.pid) == (HoldKind.REFERENCE, os.getpid())
            monkeypatch.setattr(page_holders, "_PROC", tmp_path)
            assert file.holders(PAGE) == (own, unseen)


@pytest.mark.kvm
@pytest.mark.slow
def test_another_process_that_holds_it_in_a_pipe_is_found_and_not_sworn_to() -> None:
    with shared_file() as file:
        with HoldingProcess(file, file.size, PAGE) as holding:
            (holder,) = [one for one in file.holders(PAGE) if one.pid == holding.pid]
            assert (holder.kind, holder.is_certain) == (HoldKind.PIPE, False)
        assert not [one for one in file.holders(PAGE) if one.pid == holding.pid]
        with file.map():
            assert [one.kind for one in file.holders(PAGE)] == [HoldKind.MAPPED]


@pytest.mark.kvm
def test_a_buffer_of_an_io_uring_is_found_with_its_page() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    with shared_file() as file, file.map() as mapping:
        parameters = ctypes.create_string_buffer(120)
        ring = library.syscall(425, 1, parameters)  # io_uring_setup
        if ring < 0:
            pytest.skip(f"no io_uring here: {os.strerror(ctypes.get_errno())}")
        try:
            part = (ctypes.c_uint64 * 2)(mapping.hva + PAGE, PAGE)
            result = library.syscall(427, ring, 0, part, 1)  # IORING_REGISTER_BUFFERS
            assert result == 0, os.strerror(ctypes.get_errno())
            (certain,) = [one for one in file.holders(PAGE) if one.is_certain]
            assert (certain.kind, certain.pid) == (HoldKind.IO_URING, os.getpid())
            assert certain.detail == f"fd {ring}"
            assert not [one for one in file.holders(0) if one.is_certain]
        finally:
            os.close(ring)
