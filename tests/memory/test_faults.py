# SPDX-License-Identifier: MIT
"""What memory faults mean, in every state of a page, and with other vCPUs converting meanwhile."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.hosts.exits import EHWPOISON, MemoryFault, MemoryFaultFlag
from pyvmm.memory.conversion import ConversionPlan, ConversionRequest, Origin, Side, plan
from pyvmm.memory.faults import Convert, FaultMeaning, Impossible, Retry, meaning_of
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState, PageStates
from pyvmm.memory.regions import RegionTable
from pyvmm.rules.abi import PAGE_SIZE
from tests.memory.test_regions import pages, region

REGIONS = RegionTable((region(0, 0, 8), region(2, 8, 16, can_be_private=False)))
RAM, WINDOW, NOWHERE = 0x2000, 0x9000, 0x40000
RETRY = Retry()


def states_with(gpa: int, state: PageState) -> PageStates:
    states = PageStates()
    states.add(pages(0, 16), PageState.SHARED)
    if states.state_at(gpa) is not None:
        states.set(GpaRange(gpa, gpa + PAGE_SIZE), state)
    return states


def access(
    gpa: int, private: bool, *, size: int = PAGE_SIZE, number: int = errno.EFAULT, more: int = 0
) -> MemoryFault:
    flags = MemoryFaultFlag.PRIVATE if private else MemoryFaultFlag(0)
    return MemoryFault(gpa, size, flags | MemoryFaultFlag(more), number)


def convert(gpa: int, to: Side) -> Convert:
    return Convert(ConversionRequest(gpa, PAGE_SIZE, to, Origin.FAULT))


@pytest.mark.parametrize(
    ("gpa", "state", "private_access", "expected"),
    [
        (WINDOW, PageState.WITHHELD, True, convert(WINDOW, Side.SHARED)),
        (WINDOW, PageState.WITHHELD, False, RETRY),
        (WINDOW, PageState.SHARED, True, RETRY),
        (WINDOW, PageState.SHARED, False, RETRY),
        (RAM, PageState.PRIVATE, True, RETRY),
        (RAM, PageState.PRIVATE, False, RETRY),
        (RAM, PageState.SHARED, True, RETRY),
        (RAM, PageState.SHARED, False, RETRY),
        (RAM, PageState.WITHHELD, True, convert(RAM, Side.PRIVATE)),
        (NOWHERE, PageState.SHARED, True, Impossible("there is no memory")),
        (NOWHERE, PageState.SHARED, False, RETRY),
    ],
)
def test_where_the_attributes_rule(
    gpa: int, state: PageState, private_access: bool, expected: FaultMeaning
) -> None:
    states = states_with(gpa, state)
    assert meaning_of(access(gpa, private_access), states, REGIONS, True) == expected


@pytest.mark.parametrize(
    ("gpa", "state", "private_access", "expected"),
    [
        (RAM, PageState.SHARED, True, convert(RAM, Side.PRIVATE)),
        (RAM, PageState.PRIVATE, False, convert(RAM, Side.SHARED)),
        (RAM, PageState.SHARED, False, RETRY),
        (RAM, PageState.PRIVATE, True, RETRY),
        (WINDOW, PageState.WITHHELD, False, convert(WINDOW, Side.SHARED)),
        (WINDOW, PageState.WITHHELD, True, Impossible("the memory there has no private side")),
        (WINDOW, PageState.SHARED, True, Impossible("the memory there has no private side")),
        (WINDOW, PageState.SHARED, False, RETRY),
        (NOWHERE, PageState.SHARED, True, Impossible("there is no memory")),
        (NOWHERE, PageState.SHARED, False, Impossible("there is no memory")),
    ],
)
def test_where_the_guest_chooses_the_side(
    gpa: int, state: PageState, private_access: bool, expected: FaultMeaning
) -> None:
    states = states_with(gpa, state)
    assert meaning_of(access(gpa, private_access), states, REGIONS, False) == expected


@pytest.mark.parametrize("attributes_rule", [True, False])
def test_a_poisoned_page_is_the_end_and_never_tried_again(attributes_rule: bool) -> None:
    poisoned = access(RAM, False, number=EHWPOISON)
    found = meaning_of(poisoned, states_with(RAM, PageState.SHARED), REGIONS, attributes_rule)
    assert isinstance(found, Impossible)
    assert "hardware error" in found.cause


@pytest.mark.parametrize("attributes_rule", [True, False])
@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("more", [1 << 0, 1 << 4, 1 << 63])
def test_flags_that_nobody_knows_are_told_and_never_tried_again(
    more: int, private: bool, attributes_rule: bool
) -> None:
    for state in PageState:
        states = states_with(WINDOW, state)
        found = meaning_of(access(WINDOW, private, more=more), states, REGIONS, attributes_rule)
        assert isinstance(found, Impossible)
        assert f"{more | (8 if private else 0):#x}, of which {more:#x}" in found.cause


@pytest.mark.parametrize("attributes_rule", [True, False])
def test_a_private_side_that_is_closed_is_told_and_never_tried_again(attributes_rule: bool) -> None:
    for state in PageState:
        states = states_with(RAM, state)
        found = meaning_of(
            access(RAM, True), states, REGIONS, attributes_rule, private_side_closed=True
        )
        assert found == Impossible("the guest_memfd of its private side has been closed")
    shared = states_with(RAM, PageState.SHARED)
    found = meaning_of(
        access(RAM, False), shared, REGIONS, attributes_rule, private_side_closed=True
    )
    assert found == RETRY, "what is shared needs no file"


@pytest.mark.parametrize(
    ("gpa", "size", "start", "length"),
    [
        (0x9001, 1, 0x9000, PAGE_SIZE),
        (0x9FFF, 1, 0x9000, PAGE_SIZE),
        (0x9FFF, 2, 0x9000, 2 * PAGE_SIZE),
        (0x9000, 0, 0x9000, PAGE_SIZE),
        (0x9800, PAGE_SIZE, 0x9000, 2 * PAGE_SIZE),
    ],
)
def test_conversions_are_of_whole_pages(gpa: int, size: int, start: int, length: int) -> None:
    states = PageStates()
    states.add(pages(0, 8), PageState.PRIVATE)
    states.add(pages(8, 16), PageState.WITHHELD)
    found = meaning_of(access(gpa, True, size=size), states, REGIONS, True)
    assert found == Convert(ConversionRequest(start, length, Side.SHARED, Origin.FAULT))


def test_an_access_that_is_only_partly_memory_is_impossible() -> None:
    states = states_with(WINDOW, PageState.WITHHELD)
    found = meaning_of(access(0xF000, True, size=2 * PAGE_SIZE), states, REGIONS, True)
    assert found == Impossible("there is no memory")
    wrapping = access((1 << 64) - PAGE_SIZE, True, size=2 * PAGE_SIZE)
    found = meaning_of(wrapping, states, REGIONS, True)
    assert found == Impossible("there is no memory")


page_states = st.lists(st.sampled_from(PageState), min_size=16, max_size=16)


@settings(deadline=None)
@given(
    given_states=page_states,
    first=st.integers(0, 15),
    count=st.integers(1, 16),
    private_access=st.booleans(),
    attributes_rule=st.booleans(),
)
def test_doing_as_told_ends_in_an_access_that_goes_through(
    given_states: list[PageState],
    first: int,
    count: int,
    private_access: bool,
    attributes_rule: bool,
) -> None:
    count = min(count, 16 - first)
    states = PageStates()
    for page, state in enumerate(given_states):
        # Shared-only memory has no private pages, and what has a private side is not withheld.
        impossible = PageState.PRIVATE if page >= 8 else PageState.WITHHELD
        states.add(pages(page, page + 1), PageState.SHARED if state is impossible else state)
    for _ in range(17):
        touched = access(first * PAGE_SIZE, private_access, size=count * PAGE_SIZE)
        found = meaning_of(touched, states, REGIONS, attributes_rule)
        if not isinstance(found, Convert):
            break
        planned = plan(found.request, REGIONS)
        assert isinstance(planned, ConversionPlan), "what a fault asks for is never refused"
        before = states.snapshot()
        for run in planned.result:
            states.set(run.range, run.state)
        assert states.snapshot() != before, "every conversion is progress"
    left = {run.state for run in states.runs(pages(first, first + count))}
    if isinstance(found, Impossible):
        assert private_access
        assert not attributes_rule
        assert first + count > 8
    elif attributes_rule:
        assert found == RETRY
        assert not (private_access and PageState.WITHHELD in left)
    else:
        assert found == RETRY
        assert left == {PageState.PRIVATE if private_access else PageState.SHARED}
