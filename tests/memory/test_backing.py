# SPDX-License-Identifier: MIT
"""What backs RAM, decided on features; and the limits of size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import RamBacking, check_size, choose_backing
from pyvmm.memory.layout import GIB, HOLE_END, HOLE_START, MIB
from pyvmm.rules.abi import KVM_MEM_MAX_NR_PAGES, PAGE_SIZE

BOTH = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
TIB = 1 << 40
PLENTY = 1 << 50

EVERYTHING = Capabilities(
    api_version=12,
    max_vcpus=1024,
    nr_memslots=32764,
    user_memory2=True,
    memory_fault_info=True,
    memory_attributes=MemoryAttribute.PRIVATE,
    guest_memfd=True,
    guest_memfd_flags=BOTH,
    vm_types=frozenset(),
    pre_fault=True,
    hypercalls=0,
    irqchip=True,
    pit2=True,
    irqfd=True,
    ioeventfd=True,
    immediate_exit=True,
    sync_regs=0,
    coalesced_pio=True,
    binary_stats=True,
    dirty_log_ring=0,
    disable_exits=0,
    user_space_msr=0,
    physical_address_bits=46,
)


def test_guest_memfd_where_everything_is_offered() -> None:
    choice = choose_backing(EVERYTHING)
    assert choice.kind is RamBacking.GUEST_MEMFD
    assert choice.flags == BOTH
    assert "\n" not in choice.reason


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"user_memory2": False}, {"KVM_CAP_USER_MEMORY2"}),
        ({"guest_memfd": False}, {"KVM_CAP_GUEST_MEMFD"}),
        ({"guest_memfd": False, "guest_memfd_flags": 0}, {"KVM_CAP_GUEST_MEMFD"}),
        (
            {"guest_memfd_flags": GuestMemfdFlag(0)},
            {"GUEST_MEMFD_FLAG_MMAP", "GUEST_MEMFD_FLAG_INIT_SHARED"},
        ),
        ({"guest_memfd_flags": GuestMemfdFlag.MMAP}, {"GUEST_MEMFD_FLAG_INIT_SHARED"}),
        ({"guest_memfd_flags": GuestMemfdFlag.INIT_SHARED}, {"GUEST_MEMFD_FLAG_MMAP"}),
        (
            {"user_memory2": False, "guest_memfd": False},
            {"KVM_CAP_USER_MEMORY2", "KVM_CAP_GUEST_MEMFD"},
        ),
        (
            {"user_memory2": False, "guest_memfd_flags": GuestMemfdFlag.MMAP},
            {"KVM_CAP_USER_MEMORY2", "GUEST_MEMFD_FLAG_INIT_SHARED"},
        ),
    ],
)
def test_memfd_otherwise_with_exactly_what_is_missing(
    change: dict[str, object], named: set[str]
) -> None:
    choice = choose_backing(EVERYTHING._replace(**change))  # type: ignore[arg-type]
    assert choice.kind is RamBacking.MEMFD
    assert choice.flags == GuestMemfdFlag(0)
    words = set(choice.reason.replace(",", " ").split())
    assert {word for word in words if word.startswith(("KVM_CAP_", "GUEST_MEMFD_"))} == named
    assert "\n" not in choice.reason


def test_more_flags_than_we_know_change_nothing() -> None:
    choice = choose_backing(EVERYTHING._replace(guest_memfd_flags=GuestMemfdFlag(0xFF)))
    assert choice.kind is RamBacking.GUEST_MEMFD
    assert choice.flags == BOTH


@pytest.mark.parametrize(
    ("memory", "available", "bits"),
    [
        (256 * MIB, 256 * MIB, 46),
        (3 * GIB, PLENTY, 32),
        (63 * GIB, PLENTY, 36),
        (63 * GIB, PLENTY, 0),
        (KVM_MEM_MAX_NR_PAGES * PAGE_SIZE + HOLE_START, PLENTY, 52),
    ],
)
def test_sizes_that_fit(memory: int, available: int, bits: int) -> None:
    check_size(AddressMap.of(memory), available, bits)


@pytest.mark.parametrize(
    ("memory", "available", "bits", "words"),
    [
        (256 * MIB, 256 * MIB - 1, 46, r"at most 255 MiB now; give --memory 255M"),
        (63 * GIB + PAGE_SIZE, PLENTY, 36, r"36 physical address bits; give --memory 64512M"),
        (63 * GIB + PAGE_SIZE, PLENTY, 0, r"36 physical address bits"),
        (3 * GIB + PAGE_SIZE, PLENTY, 32, r"32 physical address bits; give --memory 3072M"),
        (2 * GIB + PAGE_SIZE, PLENTY, 31, r"31 physical address bits; give --memory 2048M"),
        (
            KVM_MEM_MAX_NR_PAGES * PAGE_SIZE + HOLE_START + PAGE_SIZE,
            PLENTY,
            52,
            r"slot 1 would have 2147483648 pages, KVM takes 2147483647; give --memory 8391679M",
        ),
        (16 * TIB, PLENTY, 52, r"slot 1 would have"),
    ],
)
def test_sizes_that_do_not(memory: int, available: int, bits: int, words: str) -> None:
    with pytest.raises(HostLacksError, match=words) as caught:
        check_size(AddressMap.of(memory), available, bits)
    assert "\n" not in str(caught.value)


@given(pages=st.integers(512, 1 << 33), available=st.integers(0, 1 << 46), bits=st.integers(32, 52))
def test_what_a_refusal_advises_fits(pages: int, available: int, bits: int) -> None:
    memory = pages * PAGE_SIZE
    layout = AddressMap.of(memory)
    try:
        check_size(layout, available, bits)
    except HostLacksError as error:
        advised = int(error.remedy.removeprefix("give --memory ").split("M")[0]) * MIB
        assert advised < memory
        # One limit may hide another, but following the advice must get past this one.
        if advised >= 2 * MIB:
            try:
                check_size(AddressMap.of(advised), available, bits)
            except HostLacksError as other:
                assert other.cause != error.cause
                assert other.remedy != error.remedy
    else:
        assert memory <= available
        assert layout.end <= 1 << bits
        high = layout.end - HOLE_END
        assert high <= KVM_MEM_MAX_NR_PAGES * PAGE_SIZE
