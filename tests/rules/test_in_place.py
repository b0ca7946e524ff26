# SPDX-License-Identifier: MIT
"""Conversion in place as posted: pages that somebody holds, and what a file starts as."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.rules.abi import KVM_MEMORY_ATTRIBUTE_PRIVATE, PAGE_SIZE
from pyvmm.rules.access import BusError, HostAccess, ServedByGuestMemfd, host_access
from pyvmm.rules.in_place import Held, SetFileAttributes, set_file_attributes, starts_private
from pyvmm.rules.profile import IN_PLACE, MAINLINE

TO_PRIVATE = SetFileAttributes(
    PAGE_SIZE, 2 * PAGE_SIZE, KVM_MEMORY_ATTRIBUTE_PRIVATE, 4 * PAGE_SIZE
)
HELD = replace(TO_PRIVATE, held=(2 * PAGE_SIZE + 8, PAGE_SIZE, 0))


def test_a_page_that_somebody_holds_keeps_the_whole_range_from_becoming_private() -> None:
    assert set_file_attributes(TO_PRIVATE, IN_PLACE) is None
    assert set_file_attributes(HELD, IN_PLACE) == Held(PAGE_SIZE)
    last = replace(HELD, held=(2 * PAGE_SIZE,))
    assert set_file_attributes(last, IN_PLACE) == Held(2 * PAGE_SIZE)


@pytest.mark.parametrize("outside", [0, PAGE_SIZE - 1, 3 * PAGE_SIZE])
def test_pages_outside_of_the_range_do_not_matter(outside: int) -> None:
    assert set_file_attributes(replace(HELD, held=(outside,)), IN_PLACE) is None


def test_what_becomes_shared_or_is_private_already_may_be_held() -> None:
    assert set_file_attributes(replace(HELD, attributes=0), IN_PLACE) is None
    assert set_file_attributes(HELD, IN_PLACE, changes=False) is None


def test_a_file_starts_private_unless_it_is_made_to_start_shared() -> None:
    assert starts_private(1, True, IN_PLACE)
    assert not starts_private(3, True, IN_PLACE)
    assert not starts_private(0, False, IN_PLACE)
    assert not starts_private(0, True, MAINLINE)


def test_the_attribute_decides_of_the_host_s_touch_whatever_the_flags() -> None:
    access = HostAccess(0, PAGE_SIZE, 1)
    assert host_access(replace(access, private=False)) == ServedByGuestMemfd(0)
    assert host_access(replace(access, private=True, flags=3)) is BusError.CONVERTED
    assert host_access(access) is BusError.PRIVATE
