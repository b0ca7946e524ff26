# SPDX-License-Identifier: MIT
"""Page states against a dictionary with an entry per page."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pyvmm.errors import InternalError
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.rules.abi import PAGE_SIZE

PAGES = 24
firsts = st.integers(0, PAGES - 1)
counts = st.integers(1, 8)
any_state = st.sampled_from(PageState)


def pages(first: int, count: int) -> GpaRange:
    return GpaRange(first * PAGE_SIZE, (first + count) * PAGE_SIZE)


class AgainstADictionary(RuleBasedStateMachine):
    """Every operation on both; one that is refused must be refused for a reason, and do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.states = PageStates()
        self.naive: dict[int, PageState] = {}

    @initialize(full=st.booleans())
    def begin(self, full: bool) -> None:
        # Most random changes meet a page without memory, and then change nothing.
        if full:
            self.add(0, PAGES, PageState.SHARED)

    @rule(first=firsts, count=counts, state=any_state)
    def add(self, first: int, count: int, state: PageState) -> None:
        span = range(first, first + count)
        if any(page in self.naive for page in span):
            with pytest.raises(InternalError, match="there is memory already"):
                self.states.add(pages(first, count), state)
        else:
            self.states.add(pages(first, count), state)
            self.naive.update(dict.fromkeys(span, state))

    @rule(first=firsts, count=counts)
    def remove(self, first: int, count: int) -> None:
        span = range(first, first + count)
        if all(page in self.naive for page in span):
            self.states.remove(pages(first, count))
            for page in span:
                del self.naive[page]
        else:
            with pytest.raises(InternalError, match="not all of it is memory"):
                self.states.remove(pages(first, count))

    @rule(first=firsts, count=counts, state=any_state)
    def set(self, first: int, count: int, state: PageState) -> None:
        span = range(first, first + count)
        if all(page in self.naive for page in span):
            self.states.set(pages(first, count), state)
            self.naive.update(dict.fromkeys(span, state))
        else:
            with pytest.raises(InternalError, match="not all of it is memory"):
                self.states.set(pages(first, count), state)

    @rule(first=st.integers(-4, PAGES + 12), count=st.integers(-2, 12))
    def covers(self, first: int, count: int) -> None:
        wanted = range(first, first + count)
        expected = bool(wanted) and all(page in self.naive for page in wanted)
        assert self.states.covers(pages(first, count)) == expected

    @rule(first=st.integers(-4, PAGES + 12), count=st.integers(-2, 12), nudge=st.booleans())
    def within(self, first: int, count: int, nudge: bool) -> None:
        # A range that begins amid a page loses that part of it, and no more.
        part = pages(first, count)
        if nudge:
            part = GpaRange(part.start + 1, part.end)
        for state in PageState:
            inside = sum(self.naive.get(page) is state for page in range(first, first + count))
            lost = int(nudge and count > 0 and self.naive.get(first) is state)
            assert self.states.bytes_in(state, part) == inside * PAGE_SIZE - lost
        for run in self.states.runs(part):
            assert part.contains(run.range.start, run.range.size)

    @invariant()
    def the_same_everywhere(self) -> None:
        for page in range(-2, PAGES + 12):
            expected = self.naive.get(page)
            for offset in (0, 1, PAGE_SIZE - 1):
                assert self.states.state_at(page * PAGE_SIZE + offset) is expected
        listed = {
            page: run.state
            for run in self.states.snapshot()
            for page in range(run.range.start // PAGE_SIZE, run.range.end // PAGE_SIZE)
        }
        assert listed == self.naive
        for state in PageState:
            count = list(self.naive.values()).count(state)
            assert self.states.bytes_in(state) == count * PAGE_SIZE

    @invariant()
    def runs_are_as_long_as_can_be(self) -> None:
        for first, second in pairwise(self.states.snapshot()):
            assert first.range.end <= second.range.start
            if first.range.end == second.range.start:
                assert first.state is not second.state


def test_against_a_dictionary() -> None:
    run_state_machine_as_test(
        AgainstADictionary,
        settings=settings(stateful_step_count=20),
    )


@pytest.mark.parametrize(
    "range_",
    [
        GpaRange(0, 0),
        GpaRange(2 * PAGE_SIZE, PAGE_SIZE),
        GpaRange(-PAGE_SIZE, PAGE_SIZE),
        GpaRange(1, PAGE_SIZE),
        GpaRange(0, PAGE_SIZE - 1),
    ],
    ids=str,
)
def test_only_whole_pages_have_a_state(range_: GpaRange) -> None:
    states = PageStates()
    with pytest.raises(InternalError, match="not a range of whole pages"):
        states.add(range_, PageState.SHARED)
    states.add(pages(0, 4), PageState.SHARED)
    with pytest.raises(InternalError, match="not a range of whole pages"):
        states.set(range_, PageState.PRIVATE)
    with pytest.raises(InternalError, match="not a range of whole pages"):
        states.remove(range_)
    assert states.snapshot() == (PageRun(pages(0, 4), PageState.SHARED),)


def test_runs_are_those_of_the_call() -> None:
    states = PageStates()
    states.add(pages(0, 4), PageState.SHARED)
    runs = states.runs()
    states.set(pages(1, 2), PageState.PRIVATE)
    assert list(runs) == [PageRun(pages(0, 4), PageState.SHARED)]


@settings(deadline=None)
@given(order=st.permutations(range(64)))
def test_what_was_split_joins_again(order: list[int]) -> None:
    states = PageStates()
    states.add(pages(0, 64), PageState.PRIVATE)
    for page in order:
        states.set(pages(page, 1), PageState.SHARED)
    assert states.snapshot() == (PageRun(pages(0, 64), PageState.SHARED),)


def test_a_run_takes_in_what_lies_within_and_behind_it() -> None:
    states = PageStates()
    states.add(pages(0, 9), PageState.PRIVATE)
    states.set(pages(2, 1), PageState.SHARED)
    states.set(pages(4, 1), PageState.WITHHELD)
    states.set(pages(1, 4), PageState.PRIVATE)
    assert states.snapshot() == (PageRun(pages(0, 9), PageState.PRIVATE),)


def test_the_whole_address_space_can_be_asked_about() -> None:
    states = PageStates()
    everything = GpaRange(0, 1 << 64)
    assert states.bytes_in(PageState.SHARED, everything) == 0
    states.add(GpaRange(1 << 51, (1 << 51) + PAGE_SIZE), PageState.SHARED)
    assert states.bytes_in(PageState.SHARED, everything) == PAGE_SIZE
    assert not states.covers(everything)
