# SPDX-License-Identifier: MIT
"""The planner, run on a kernel made of two dictionaries: what is promised is what comes about."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pyvmm.errors import ConversionRefusedError, ExitCode
from pyvmm.hosts.kvm.binding import lib
from pyvmm.memory import conversion, steps
from pyvmm.memory.conversion import (
    ConversionPlan,
    ConversionRequest,
    DiscardPrivate,
    DiscardShared,
    Origin,
    Refusal,
    SetAttributes,
    Side,
    TellJoined,
    TellLeaving,
    decode_map_gpa_range,
    plan,
    plan_withhold,
)
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.regions import MemoryRegion, RegionTable
from pyvmm.rules.abi import PAGE_SIZE
from tests.memory.test_regions import pages, region, tables

U64 = st.integers(0, (1 << 64) - 1)
RAM = MemoryRegion(0, GpaRange(0, 3 * GIB), True, "RAM")
WINDOW = MemoryRegion(2, GpaRange(3 * GIB, 3 * GIB + 2 * MIB), False, "window")
FIRMWARE = MemoryRegion(4, GpaRange(4 * GIB - 128 * 1024, 4 * GIB), False, "firmware")
HIGH = MemoryRegion(1, GpaRange(4 * GIB, 6 * GIB), True, "RAM above 4 GiB")
REGIONS = RegionTable((RAM, WINDOW, FIRMWARE, HIGH))


def request(gpa: int, size: int, to: Side, origin: Origin = Origin.HOST) -> ConversionRequest:
    return ConversionRequest(gpa, size, to, origin)


def all_steps(found: ConversionPlan) -> tuple[conversion.Step, ...]:
    return tuple(chain.from_iterable(found.chunks()))


def planned(found: ConversionPlan | Refusal) -> ConversionPlan:
    assert isinstance(found, ConversionPlan), found
    return found


class Kernel:
    """Attributes and contents per page number; a device that reaches what it was told of.

    It fails where the real one would: at ranges of nothing, at files that are not there.
    """

    def __init__(self, regions: RegionTable, private: set[int]) -> None:
        self.regions = regions
        self.private = set(private)
        self.memory = {
            page: one
            for one in regions.regions
            for page in range(one.range.start // PAGE_SIZE, one.range.end // PAGE_SIZE)
        }
        self.shared_side = set(self.memory)
        self.private_side = {page for page, one in self.memory.items() if one.can_be_private}
        self.device = set(self.memory) - private

    def execute(self, in_order: tuple[conversion.Step, ...]) -> None:
        for step in in_order:
            found = range(step.range.start // PAGE_SIZE, step.range.end // PAGE_SIZE)
            assert step.range.start % PAGE_SIZE == step.range.end % PAGE_SIZE == 0
            assert len(found) > 0
            assert step.range.size <= steps.STEP
            assert all(page in self.memory for page in found)
            match step:
                case TellLeaving():
                    self.device.difference_update(found)
                case TellJoined():
                    assert self.private.isdisjoint(found), "joined before it is shared"
                    self.device.update(found)
                case SetAttributes(private=True):
                    assert self.device.isdisjoint(found), "a device still reaches it"
                    self.private.update(found)
                case SetAttributes():
                    self.private.difference_update(found)
                case DiscardShared(region=one):
                    assert {self.memory[page] for page in found} == {one}
                    assert self.private.issuperset(found), "the guest still sees what is discarded"
                    self.shared_side.difference_update(found)
                case DiscardPrivate(region=one):
                    assert {self.memory[page] for page in found} == {one}
                    assert one.can_be_private, "there is no guest_memfd"
                    assert self.private.isdisjoint(found), "the guest still sees what is discarded"
                    self.private_side.difference_update(found)

    def state(self, page: int) -> PageState:
        if page not in self.private:
            return PageState.SHARED
        return PageState.PRIVATE if self.memory[page].can_be_private else PageState.WITHHELD


@pytest.mark.parametrize(("gpa", "size"), [(-PAGE_SIZE, 0), (0, 0), (0, -PAGE_SIZE)])
def test_nothing_is_empty_wherever_it_is(gpa: int, size: int) -> None:
    nothing = RegionTable(())
    assert plan_withhold(gpa, size, nothing) is Refusal.EMPTY
    assert plan(request(gpa, size, Side.PRIVATE), nothing) is Refusal.EMPTY


@settings(deadline=None)
@given(
    table=tables(),
    first=st.integers(-2, 40),
    count=st.integers(-2, 40),
    to=st.one_of(st.sampled_from(Side), st.none()),
    private=st.sets(st.integers(0, 40)),
    chunk=st.integers(1, 9),
    origin=st.sampled_from(Origin),
)
def test_a_plan_does_what_it_promises_and_a_refusal_has_its_reason(
    table: RegionTable,
    first: int,
    count: int,
    to: Side | None,
    private: set[int],
    chunk: int,
    origin: Origin,
) -> None:
    """`to` None: to be withheld."""
    before = Kernel(table, private)
    after = Kernel(table, private)
    wanted = range(first, first + count)
    gpa, size = first * PAGE_SIZE, count * PAGE_SIZE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP", chunk * PAGE_SIZE)
        if to is None:
            found = plan_withhold(gpa, size, table)
        else:
            found = plan(request(gpa, size, to, origin), table)
        holes_pass = to is Side.SHARED and origin is Origin.GUEST and first >= 0
        if isinstance(found, Refusal):
            sides = {before.memory[page].can_be_private for page in wanted if page in before.memory}
            assert found is (
                Refusal.EMPTY
                if count <= 0
                else Refusal.UNCOVERED
                if any(page not in before.memory for page in wanted) and not holes_pass
                else Refusal.HAS_PRIVATE_SIDE
                if to is None and True in sides
                else Refusal.NO_PRIVATE_SIDE
                if to is Side.PRIVATE and False in sides
                else None
            )
            return
        after.execute(all_steps(found))

    assert count > 0
    promised = {
        page: run.state
        for run in found.result
        for page in range(run.range.start // PAGE_SIZE, run.range.end // PAGE_SIZE)
    }
    assert list(promised) == [page for page in wanted if not holes_pass or page in before.memory]
    goal = PageState.WITHHELD if to is None else PageState(to.value)
    for page in after.memory:
        if page in wanted:
            assert after.state(page) is promised[page] is goal
            # The side that is not in use is given back, and nothing else is.
            assert (page in after.shared_side) == (goal is PageState.SHARED)
            keeps_private = goal is PageState.PRIVATE
            assert (page in after.private_side) == keeps_private
            assert (page in after.device) == (goal is PageState.SHARED)
        else:
            assert after.state(page) is before.state(page)
            assert page in after.shared_side
            assert (page in after.private_side) == after.memory[page].can_be_private
            assert (page in after.device) == (page in before.device)


@settings(deadline=None)
@given(table=tables(), first=st.integers(0, 20), count=st.integers(1, 20), chunk=st.integers(1, 9))
def test_chunks_cover_the_range_once_and_each_is_complete(
    table: RegionTable, first: int, count: int, chunk: int
) -> None:
    for to, begin in ((Side.PRIVATE, TellLeaving), (Side.SHARED, SetAttributes)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "STEP", chunk * PAGE_SIZE)
            found = plan(request(first * PAGE_SIZE, count * PAGE_SIZE, to), table)
            if isinstance(found, Refusal):
                return
            chunks = tuple(found.chunks())
        position = first
        kernel = Kernel(table, set(range(40)) if to is Side.SHARED else set())
        for chunk_steps in chunks:
            assert isinstance(chunk_steps[0], begin)
            covered = chunk_steps[0].range
            assert covered.start == position * PAGE_SIZE
            kernel.execute(chunk_steps)
            for page in range(position, covered.end // PAGE_SIZE):
                state = kernel.state(page)
                assert (state is PageState.SHARED) == (to is Side.SHARED)
                assert (page in kernel.shared_side) == (to is Side.SHARED)
                assert (page in kernel.private_side) == (to is Side.PRIVATE)
            position = covered.end // PAGE_SIZE
            if chunk_steps is not chunks[-1]:
                assert position % chunk == 0, "cut where large pages end"
        assert position == first + count


@settings(deadline=None)
@given(gpa=U64, size=st.integers(-PAGE_SIZE, 1 << 76), to=st.sampled_from(Side))
def test_no_numbers_of_a_guest_make_the_planner_fail(gpa: int, size: int, to: Side) -> None:
    found = plan(request(gpa, size, to), REGIONS)
    if size <= 0:
        assert found is Refusal.EMPTY
    elif gpa + size >= 1 << 64:
        assert found is Refusal.OVERFLOW
    elif gpa % PAGE_SIZE or size % PAGE_SIZE:
        assert found is Refusal.UNALIGNED


LAST_PAGE = (1 << 64) - PAGE_SIZE


@pytest.mark.parametrize(
    ("gpa", "size", "to", "refusal"),
    [
        (0, 0, Side.PRIVATE, Refusal.EMPTY),
        (1, 0, Side.PRIVATE, Refusal.EMPTY),
        (0, -PAGE_SIZE, Side.SHARED, Refusal.EMPTY),
        (1, PAGE_SIZE, Side.PRIVATE, Refusal.UNALIGNED),
        (PAGE_SIZE - 1, PAGE_SIZE, Side.SHARED, Refusal.UNALIGNED),
        (0, 1, Side.PRIVATE, Refusal.UNALIGNED),
        (0, PAGE_SIZE + 1, Side.SHARED, Refusal.UNALIGNED),
        (PAGE_SIZE // 2, PAGE_SIZE // 2, Side.SHARED, Refusal.UNALIGNED),
        (LAST_PAGE, PAGE_SIZE, Side.PRIVATE, Refusal.OVERFLOW),
        (LAST_PAGE, 2 * PAGE_SIZE, Side.SHARED, Refusal.OVERFLOW),
        (PAGE_SIZE, LAST_PAGE, Side.SHARED, Refusal.OVERFLOW),
        (0, 1 << 76, Side.SHARED, Refusal.OVERFLOW),
        (LAST_PAGE - PAGE_SIZE, PAGE_SIZE, Side.PRIVATE, Refusal.UNCOVERED),
        (-PAGE_SIZE, PAGE_SIZE, Side.SHARED, Refusal.UNCOVERED),
        (-PAGE_SIZE, 2 * PAGE_SIZE, Side.SHARED, Refusal.UNCOVERED),
        (WINDOW.range.end, PAGE_SIZE, Side.SHARED, Refusal.UNCOVERED),
        (WINDOW.range.end - PAGE_SIZE, 2 * PAGE_SIZE, Side.SHARED, Refusal.UNCOVERED),
        (FIRMWARE.range.start - PAGE_SIZE, 2 * PAGE_SIZE, Side.SHARED, Refusal.UNCOVERED),
        (HIGH.range.end - PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE, Refusal.UNCOVERED),
        (0, 5 * GIB, Side.SHARED, Refusal.UNCOVERED),
        (WINDOW.range.start, PAGE_SIZE, Side.PRIVATE, Refusal.NO_PRIVATE_SIDE),
        (3 * GIB - PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE, Refusal.NO_PRIVATE_SIDE),
        (4 * GIB - PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE, Refusal.NO_PRIVATE_SIDE),
    ],
)
def test_refusals(gpa: int, size: int, to: Side, refusal: Refusal) -> None:
    assert plan(request(gpa, size, to), REGIONS) is refusal


def test_a_guest_may_share_what_is_no_memory_and_the_work_is_that_of_the_memory() -> None:
    everything = request(0, 1 << 63, Side.SHARED, Origin.GUEST)
    found = planned(plan(everything, REGIONS))
    assert [run.range for run in found.result] == [
        GpaRange(0, WINDOW.range.end), GpaRange(FIRMWARE.range.start, HIGH.range.end)
    ]  # fmt: skip
    memory = sum(run.range.size for run in found.result)
    assert sum(1 for _ in found.chunks()) <= memory // steps.STEP + 2, "no work for what is none"
    hole = GpaRange(WINDOW.range.end, FIRMWARE.range.start)
    of_nothing = request(hole.start, hole.size, Side.SHARED, Origin.GUEST)
    nothing = planned(plan(of_nothing, REGIONS))
    assert (nothing.result, all_steps(nothing)) == ((), ())
    for to, origin in (
        (Side.PRIVATE, Origin.GUEST),
        (Side.SHARED, Origin.HOST),
        (Side.SHARED, Origin.FAULT),
    ):
        assert plan(request(hole.start, hole.size, to, origin), REGIONS) is Refusal.UNCOVERED


def test_one_page_to_private() -> None:
    asked = request(0x5000, PAGE_SIZE, Side.PRIVATE)
    page = GpaRange(0x5000, 0x6000)
    found = planned(plan(asked, REGIONS))
    assert all_steps(found) == (
        TellLeaving(page),
        SetAttributes(page, private=True),
        DiscardShared(RAM, page),
    )
    assert found.result == (PageRun(page, PageState.PRIVATE),)
    assert found.request == asked


def test_one_page_to_shared() -> None:
    asked = request(0x5000, PAGE_SIZE, Side.SHARED)
    page = GpaRange(0x5000, 0x6000)
    found = planned(plan(asked, REGIONS))
    assert all_steps(found) == (
        SetAttributes(page, private=False),
        DiscardPrivate(RAM, page),
        TellJoined(page),
    )
    assert found.result == (PageRun(page, PageState.SHARED),)
    assert found.request == asked


def test_a_withheld_page_becomes_shared_and_has_nothing_private_to_discard() -> None:
    page = GpaRange(WINDOW.range.start, WINDOW.range.start + PAGE_SIZE)
    found = planned(plan(request(page.start, PAGE_SIZE, Side.SHARED), REGIONS))
    assert all_steps(found) == (SetAttributes(page, private=False), TellJoined(page))


def test_a_window_is_withheld() -> None:
    found = planned(plan_withhold(WINDOW.range.start, WINDOW.range.size, REGIONS))
    assert all_steps(found) == (
        TellLeaving(WINDOW.range),
        SetAttributes(WINDOW.range, private=True),
        DiscardShared(WINDOW, WINDOW.range),
    )
    assert found.result == (PageRun(WINDOW.range, PageState.WITHHELD),)


@pytest.mark.parametrize(
    ("gpa", "size", "refusal"),
    [
        (WINDOW.range.start, 0, Refusal.EMPTY),
        (WINDOW.range.start + 1, PAGE_SIZE, Refusal.UNALIGNED),
        (LAST_PAGE, PAGE_SIZE, Refusal.OVERFLOW),
        (WINDOW.range.start, WINDOW.range.size + PAGE_SIZE, Refusal.UNCOVERED),
        (0, PAGE_SIZE, Refusal.HAS_PRIVATE_SIDE),
        (3 * GIB - PAGE_SIZE, 2 * PAGE_SIZE, Refusal.HAS_PRIVATE_SIDE),
    ],
)
def test_what_cannot_be_withheld(gpa: int, size: int, refusal: Refusal) -> None:
    assert plan_withhold(gpa, size, REGIONS) is refusal


def test_a_range_over_two_slots_and_three_chunks() -> None:
    start, end = 4 * GIB - 2 * PAGE_SIZE, 4 * GIB + 2 * MIB + PAGE_SIZE
    found = planned(plan(request(start, end - start, Side.SHARED), REGIONS))
    first, second, third = (
        GpaRange(start, 4 * GIB),
        GpaRange(4 * GIB, 4 * GIB + 2 * MIB),
        GpaRange(4 * GIB + 2 * MIB, end),
    )
    assert all_steps(found) == (
        SetAttributes(first, private=False),
        TellJoined(first),
        SetAttributes(second, private=False),
        DiscardPrivate(HIGH, second),
        TellJoined(second),
        SetAttributes(third, private=False),
        DiscardPrivate(HIGH, third),
        TellJoined(third),
    )
    assert found.result == (PageRun(GpaRange(start, end), PageState.SHARED),)


def test_one_chunk_over_two_slots_has_its_attributes_set_at_once() -> None:
    table = RegionTable((region(0, 0, 8), region(1, 8, 16)))
    found = planned(plan(request(7 * PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE), table))
    assert all_steps(found) == (
        TellLeaving(pages(7, 9)),
        SetAttributes(pages(7, 9), private=True),
        DiscardShared(table.regions[0], pages(7, 8)),
        DiscardShared(table.regions[1], pages(8, 9)),
    )


def test_an_aligned_chunk_is_not_cut() -> None:
    found = planned(plan(request(GIB, steps.STEP, Side.PRIVATE), REGIONS))
    assert [step.range for step in all_steps(found)] == [GpaRange(GIB, GIB + steps.STEP)] * 3


def test_steps_are_those_of_the_fast_path() -> None:
    assert steps.STEP == lib.PYVMM_STEP


def test_a_plan_for_a_terabyte_is_made_step_by_step() -> None:
    """Whoever has made it has the lock of conversions: making all steps would take seconds."""
    table = RegionTable((MemoryRegion(0, GpaRange(0, 1 << 40), True, "RAM"),))
    found = planned(plan(request(0, 1 << 40, Side.PRIVATE), table))
    chunks = found.chunks()
    assert next(chunks)[0] == TellLeaving(GpaRange(0, steps.STEP))
    assert next(chunks)[0] == TellLeaving(GpaRange(steps.STEP, 2 * steps.STEP))


@example(gpa=0, count=1 << 52, attributes=0x20, rest=[0, 0, 0])
@settings(deadline=None)
@given(gpa=U64, count=U64, attributes=U64, rest=st.lists(U64, min_size=3, max_size=3))
def test_a_hypercall_says_pages_and_bit_4(
    gpa: int, count: int, attributes: int, rest: list[int]
) -> None:
    assume(attributes > 0x1F)
    assert decode_map_gpa_range([gpa, count, attributes, *rest]) is Refusal.BAD_ATTRIBUTES
    for hint in range(16):
        for bit, to in ((0, Side.SHARED), (0x10, Side.PRIVATE)):
            found = decode_map_gpa_range([gpa, count, hint | bit, *rest])
            assert found == ConversionRequest(gpa, count * PAGE_SIZE, to, Origin.GUEST)


@pytest.mark.parametrize("bit", range(5, 64))
def test_every_reserved_bit_is_refused(bit: int) -> None:
    assert decode_map_gpa_range([0, 1, 0x10 | 1 << bit, 0, 0, 0]) is Refusal.BAD_ATTRIBUTES


def test_refusals_say_why_and_give_the_guest_an_error() -> None:
    assert len({refusal.cause for refusal in Refusal}) == len(Refusal) == 8
    for refusal in Refusal:
        assert "\n" not in refusal.cause
        assert refusal.hypercall_result in (-22, -95)
    assert Refusal.NO_PRIVATE_SIDE.hypercall_result == -95


def test_a_refused_request_of_the_host_is_its_own_mistake() -> None:
    error = ConversionRefusedError("convert 1 bytes at gpa 0x0", Refusal.UNALIGNED.cause)
    assert error.exit_code is ExitCode.USAGE
    assert str(error).endswith("not multiples of 4096")
