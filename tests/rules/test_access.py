# SPDX-License-Identifier: MIT
"""Which side serves an access, or which fault it is: every combination, and each reason by name."""

from __future__ import annotations

import errno
import itertools
from dataclasses import replace

from pyvmm.rules.abi import EHWPOISON, KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY
from pyvmm.rules.access import (
    Bound,
    BusError,
    GuestAccess,
    HostAccess,
    MemoryFault,
    Mmio,
    PlainFault,
    ServedByGuestMemfd,
    ServedShared,
    guest_access,
    host_access,
)
from pyvmm.rules.memslots import Slot
from pyvmm.rules.profile import PrivateBy

GPA = 0x5000
TWO_SIDED = Slot(0, 0x4000, 0x4000, 0x7000_0000, KVM_MEM_GUEST_MEMFD)
SHARED = replace(TWO_SIDED, flags=0)
BOUND = Bound(0x10000, 0, True)
ACCESS = GuestAccess(GPA, False, PrivateBy.ATTRIBUTES, False, TWO_SIDED, BOUND)
PRIVATE = replace(ACCESS, attribute_private=True)


def fault(rule: str, private: bool) -> MemoryFault:
    return MemoryFault(GPA, private, errno.EFAULT, rule)


def test_the_attribute_picks_the_side() -> None:
    assert guest_access(ACCESS) == ServedShared(0x7000_1000)
    assert guest_access(PRIVATE) == ServedByGuestMemfd(0x11000)


def test_without_a_slot_shared_is_mmio_and_private_is_a_fault() -> None:
    assert guest_access(replace(ACCESS, slot=None)) is Mmio.NO_SLOT
    assert guest_access(replace(PRIVATE, slot=None)) == fault("access-private-no-slot", True)


def test_a_private_access_needs_a_private_side_whose_file_is_open() -> None:
    assert guest_access(replace(PRIVATE, slot=SHARED)) == fault("access-no-private-side", True)
    closed = replace(BOUND, open=False)
    assert guest_access(replace(PRIVATE, bound=closed)) == fault("access-file-closed", True)
    assert guest_access(replace(ACCESS, bound=closed)) == ServedShared(0x7000_1000)


def test_a_page_with_a_memory_error_is_told_to_whoever_reaches_for_it() -> None:
    poisoned = replace(BOUND, poisoned=True)
    told = replace(fault("access-poisoned", True), errno=EHWPOISON)
    assert guest_access(replace(PRIVATE, bound=poisoned)) == told
    assert guest_access(replace(ACCESS, bound=replace(poisoned, flags=1))) == replace(
        told, private=False
    )
    # Nothing is found where nothing is looked for: a closed file, memory of the host.
    closed = replace(poisoned, open=False)
    assert guest_access(replace(PRIVATE, bound=closed)) == fault("access-file-closed", True)
    assert guest_access(replace(ACCESS, bound=poisoned)) == ServedShared(0x7000_1000)
    assert host_access(HostAccess(0x1000, 0x2000, 3, poisoned=True)) is BusError.POISONED
    assert host_access(HostAccess(0x1000, 0x2000, 1, poisoned=True)) is BusError.PRIVATE


def test_a_file_that_can_be_mapped_serves_shared_accesses_too() -> None:
    mappable = replace(BOUND, flags=1)
    assert guest_access(replace(ACCESS, bound=mappable)) == ServedByGuestMemfd(0x11000)
    unmapped = replace(ACCESS, bound=mappable, host_mapped=False)
    assert guest_access(unmapped) == ServedByGuestMemfd(0x11000)
    gone = replace(ACCESS, bound=replace(mappable, open=False), private_by=PrivateBy.NOBODY)
    assert guest_access(gone) == fault("access-file-closed", False)


def test_who_claims_what_the_attributes_deny_faults() -> None:
    for claims, attribute in itertools.product((False, True), repeat=2):
        access = replace(
            ACCESS,
            private_by=PrivateBy.GUEST,
            claims_private=claims,
            attribute_private=attribute,
        )
        if claims != attribute:
            assert guest_access(access) == fault("access-mismatch", claims)
        else:
            served = guest_access(replace(ACCESS, attribute_private=attribute))
            assert guest_access(access) == served
        # Where attributes are the truth, or there is nothing private, claims mean nothing.
        truth = replace(access, private_by=PrivateBy.ATTRIBUTES)
        assert not isinstance(guest_access(truth), MemoryFault)
        if not attribute:
            assert guest_access(replace(access, private_by=PrivateBy.NOBODY)) == ServedShared(
                0x7000_1000
            )


def test_shared_memory_needs_a_mapping_and_read_only_slots_emulate_writes() -> None:
    unmapped = replace(ACCESS, host_mapped=False)
    assert guest_access(unmapped) == PlainFault(errno.EFAULT, "access-host-unmapped")
    read_only = replace(ACCESS, slot=replace(SHARED, flags=KVM_MEM_READONLY), bound=None)
    assert guest_access(read_only) == ServedShared(0x7000_1000)
    assert guest_access(replace(read_only, write=True)) is Mmio.READ_ONLY
    assert guest_access(replace(ACCESS, write=True)) == ServedShared(0x7000_1000)


def test_the_host_sees_shared_pages_within_the_file() -> None:
    assert host_access(HostAccess(0x1000, 0x2000, 3)) == ServedByGuestMemfd(0x1000)
    assert host_access(HostAccess(0x2000, 0x2000, 3)) is BusError.BEYOND_END
    assert host_access(HostAccess(0x1000, 0x2000, 1)) is BusError.PRIVATE
