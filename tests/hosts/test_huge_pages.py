# SPDX-License-Identifier: MIT
"""Huge pages in a memfd: made where the system lets it, and otherwise refused with the errno."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts import exits, huge_pages
from pyvmm.hosts.huge_pages import HUGE, AlignedMemory
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.system import System
from pyvmm.rules.abi import PAGE_SIZE


def can_collapse() -> bool:
    try:
        huge_pages.try_collapse()
    except SystemCallError as error:
        assert error.errno == errno.EINVAL
        return False
    return True


def test_a_huge_page_is_made_with_its_contents() -> None:
    with AlignedMemory(2 * HUGE) as memory:
        assert memory.hva % HUGE == 0
        memory.write(HUGE + 5, b"there")
        assert huge_pages.huge_bytes(memory.hva, memory.size) == 0
        if can_collapse():
            huge_pages.advise(memory.hva, HUGE)
            huge_pages.collapse(memory.hva + HUGE, HUGE)
            assert huge_pages.huge_bytes(memory.hva, memory.size) == HUGE
        else:
            with pytest.raises(SystemCallError, match="MADV_COLLAPSE"):
                huge_pages.collapse(memory.hva + HUGE, HUGE)
        assert memory.read(HUGE + 4, 7) == b"\0there\0"


def test_what_else_is_mapped_is_not_reached() -> None:
    with AlignedMemory(HUGE) as memory, AlignedMemory(2 * HUGE) as other:
        away = other.hva - memory.hva
        for offset, size in ((away, 1), (HUGE - 1, 2), (-1, 1), (HUGE, 1), (5, -1)):
            with pytest.raises(UsageError, match="it has 2097152 bytes"):
                memory.read(offset, size)
        with pytest.raises(UsageError):
            memory.write(away, b"there")
        assert other.read(0, 5) == bytes(5)
        assert memory.read(HUGE, 0) == b""
        memory.close()
        with pytest.raises(InternalError, match="has been closed"):
            memory.write(0, b"there")


@pytest.mark.kvm
def test_a_guest_runs_on_it() -> None:
    with System() as system, system.create_vm() as vm, AlignedMemory(HUGE) as memory:
        vm.set_memslot(Memslot(0, 0, HUGE, memory.hva))
        memory.write(PAGE_SIZE, b"\xe6\xf4")  # out 0xf4, al
        if can_collapse():
            huge_pages.collapse(memory.hva, HUGE)
        with vm.create_vcpu(0) as vcpu:
            sregs = vcpu.get_sregs()
            vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
            vcpu.set_regs(replace(vcpu.get_regs(), rip=PAGE_SIZE, rflags=2))
            assert isinstance(vcpu.run(), exits.IoOut)
        vm.set_memslot(Memslot(0, 0, 0, memory.hva))


def test_huge_pages_of_other_mappings_do_not_count() -> None:
    def block(start: int, end: int, count: int) -> list[bytes]:
        head = f"{start:x}-{end:x} rw-s 00000000 00:01 2 /memfd:x\n".encode()
        return [head, b"Rss: 4 kB\n", f"ShmemPmdMapped: {count} kB\n".encode()]

    lines = [*block(0x1000, 0x5000, 8), *block(0x5000, 0x7000, 16), *block(0x6000, 0x9000, 32)]
    assert sum(huge_pages._counted(iter(lines), 0x1000, 0x7000)) == 24 << 10


@pytest.mark.parametrize(("hva", "size"), [(4096, HUGE), (HUGE, 4096), (HUGE, 0)])
def test_ranges_that_cannot_be_huge_pages(hva: int, size: int) -> None:
    with pytest.raises(UsageError, match="multiples of 2097152"):
        huge_pages.collapse(hva, size)


@pytest.mark.parametrize("size", [0, -HUGE, 4096, HUGE + 4096])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(UsageError, match="multiples of 2097152"):
        AlignedMemory(size)
