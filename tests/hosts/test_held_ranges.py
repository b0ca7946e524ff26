# SPDX-License-Identifier: MIT
"""Held ranges: held.c and the model's answer every sequence of calls alike."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.hosts.held_ranges import SEVERAL, HeldKind, HeldRanges, LeaseRefusal, refused_row
from pyvmm.hosts.kvm.binding import INTERFACE, lib, require_interface
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.model.conversions import ModelConversions

PAGE = 4096
END = 1 << 64
PAGES = 200
"""More than the 64 that a word of held.c's bits is for, three times over."""

Made = ModelConversions | FastConversions


def kvm() -> FastConversions:
    return FastConversions(-1)


@pytest.fixture(params=[ModelConversions, kvm], ids=["model", "kvm"])
def made(request: pytest.FixtureRequest) -> Made:
    make: Callable[[], Made] = request.param
    conversions = make()
    conversions.held.add_region(3, 0, PAGES * PAGE, writable=True)
    conversions.held.add_region(1, PAGES * PAGE, 4 * PAGE, writable=False)
    return conversions


def rows(*ranges: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=QQ", *one) for one in ranges)


def ask(held: HeldRanges, *ranges: tuple[int, int], writable: bool = True) -> object:
    """The slot of a lease, which stays; or the index of the range refused, and why."""
    number = held.lease(rows(*ranges), len(ranges), writable)
    return refused_row(number) if number < 0 else number & SEVERAL


def test_a_lease_says_where_its_ranges_lie(made: Made) -> None:
    assert ask(made.held, (5, 10), (PAGE - 1, 2)) == 3
    assert ask(made.held, (PAGES * PAGE, 4 * PAGE), writable=False) == 1
    assert ask(made.held, (0, 1), (PAGES * PAGE, 1), (1, 1), writable=False) == SEVERAL


@pytest.mark.parametrize(
    ("ranges", "writable", "row", "reason"),
    [
        ([(0, 1), (8, 0)], True, 1, LeaseRefusal.EMPTY),
        ([(0, 1), (END - 1, 2)], True, 1, LeaseRefusal.WRAPS),
        ([(0, 8), (16, 8), (4, 4)], True, 2, LeaseRefusal.OVERLAPS),
        ([(PAGES * PAGE, 1)], True, 0, LeaseRefusal.READ_ONLY),
        ([(PAGES * PAGE - 1, 2)], False, 0, LeaseRefusal.NO_MEMORY),
        ([((PAGES + 4) * PAGE, 1)], False, 0, LeaseRefusal.NO_MEMORY),
        ([(END - 1, 1)], False, 0, LeaseRefusal.NO_MEMORY),
        ([(0, END - 1)], False, 0, LeaseRefusal.NO_MEMORY),
        ([(0, 1), (2 * PAGE, PAGE + 1)], False, 1, LeaseRefusal.NOT_SHARED),
    ],
)
def test_a_lease_is_refused_as_a_whole(
    made: Made, ranges: list[tuple[int, int]], writable: bool, row: int, reason: LeaseRefusal
) -> None:
    made.held.note(3 * PAGE, PAGE, shared=False)
    assert ask(made.held, *ranges, writable=writable) == (row, reason)
    assert made.held.overlapping(HeldKind.LEASE, 0, END - 1) == 0


def test_many_ranges_that_overlap_are_found(made: Made) -> None:
    apart = [(at * 16, 16) for at in range(1000)]
    assert ask(made.held, *reversed(apart)) == 3
    answer = ask(made.held, *apart, (499 * 16 + 15, 1))
    assert isinstance(answer, tuple)
    assert answer[0] in {499, 1000}
    assert answer[1] is LeaseRefusal.OVERLAPS


def test_what_waits_keeps_leases_out_and_is_told_of_their_ends(made: Made) -> None:
    held = made.held
    number = held.lease(rows((PAGE, PAGE)), 1, True)
    assert held.overlapping(HeldKind.LEASE, 0, PAGE) == 0
    assert held.overlapping(HeldKind.LEASE, 2 * PAGE - 1, 1) == number
    waiting = held.hold([(0, 2 * PAGE)], HeldKind.WAITING)
    assert ask(held, (PAGE - 1, 1)) == (0, LeaseRefusal.CONVERTING)
    assert ask(held, (2 * PAGE, 1)) == 3
    assert held.release(HeldKind.LEASE, number)
    assert held.overlapping(HeldKind.LEASE, 0, 2 * PAGE) == 0
    assert not held.release(HeldKind.WAITING, waiting)
    assert ask(held, (PAGE - 1, 1)) == 3


def test_too_many_ranges_are_refused_and_nothing_is_lost(made: Made) -> None:
    many = rows(*((at * 16, 16) for at in range(1024)))
    leases = [made.held.lease(many, 1024, True) for _ in range(64)]
    assert min(leases) > 0
    assert ask(made.held, (0, 1)) == (0, LeaseRefusal.TOO_MANY)
    for number in leases:
        made.held.release(HeldKind.LEASE, number)
    assert made.held.overlapping(HeldKind.LEASE, 0, END - 1) == 0


def test_what_cannot_be_is_refused(made: Made) -> None:
    for slot, gpa in ((3, 1 << 40), (9, 0), (9, (PAGES + 3) * PAGE)):
        with pytest.raises(InternalError):
            made.held.add_region(slot, gpa, PAGE, writable=True)
    for bad in ((0, 0), (END - 1, 2)):
        with pytest.raises(UsageError):
            made.held.hold([bad], HeldKind.LISTENER)
    with pytest.raises(UsageError):
        made.held.hold([(0, 1)], HeldKind.LEASE)


def test_it_can_be_asked_by_who_has_the_lock(made: Made) -> None:
    with made.exclusive():
        assert ask(made.held, (0, 1)) == 3
        made.held.note(0, PAGE, shared=False)
        assert not made.held.is_shared(0, 1)
    made.close()
    assert ask(made.held, (PAGE, 1)) == (0, LeaseRefusal.CLOSED)


ranges = st.tuples(
    st.integers(-2, PAGES + 6).map(lambda page: max(0, page * PAGE)) | st.integers(0, END - 1),
    st.integers(0, 70 * PAGE) | st.sampled_from([0, 1, PAGE, 64 * PAGE, END - 1]),
)
pages = st.tuples(st.integers(0, PAGES + 3), st.integers(1, PAGES))
numbers = st.builds(
    lambda number, slot: number << 16 | slot, st.integers(0, 12), st.sampled_from([1, 3, SEVERAL])
)
calls = st.one_of(
    st.tuples(st.just("lease"), st.lists(ranges, min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("note"), pages, st.booleans()),
    st.tuples(st.just("release"), numbers),
    st.tuples(st.just("wait"), ranges),
    st.tuples(st.just("go on"), numbers),
    st.tuples(st.just("remove"), st.sampled_from([1, 3])),
    st.tuples(st.just("add"), st.sampled_from([1, 3])),
    st.tuples(st.just("ask"), ranges),
)


def do(held: HeldRanges, call: tuple[object, ...]) -> object:
    match call:
        case ("lease", list(asked), bool(writable)):
            number = held.lease(rows(*asked), len(asked), writable)
            # Which of two that overlap is named is no matter.
            if number < 0 and refused_row(number)[1] is LeaseRefusal.OVERLAPS:
                return "overlaps"
            return number
        case ("note", (int(page), int(count)), bool(shared)):
            held.note(page * PAGE, count * PAGE, shared=shared)
        case ("release", int(number)):
            return held.release(HeldKind.LEASE, number)
        case ("wait", (int(gpa), int(size))):
            try:
                return held.hold([(gpa, size)], HeldKind.WAITING)
            except UsageError:
                return "no range"
        case ("go on", int(number)):
            return held.release(HeldKind.WAITING, number)
        case ("remove", int(slot)):
            held.remove_region(slot)
        case ("add", int(slot)):
            gpa, size = (0, PAGES * PAGE) if slot == 3 else (PAGES * PAGE, 4 * PAGE)
            try:
                held.add_region(slot, gpa, size, writable=slot == 3)
            except InternalError:
                return "there"
        case ("ask", (int(gpa), int(size))) if size and gpa + size <= END:
            return held.is_shared(gpa, size), bool(held.overlapping(HeldKind.LEASE, gpa, size))
    return None


@given(st.lists(calls, max_size=20))
def test_both_hosts_answer_alike(asked: list[tuple[object, ...]]) -> None:
    hosts = ModelConversions(), kvm()
    for call in [("add", 3), ("add", 1), *asked]:
        answers = [do(host.held, call) for host in hosts]
        assert answers[0] == answers[1], call


def test_the_numbers_of_refusals_are_held_h_s() -> None:
    numbered = [one for one in LeaseRefusal if one.code < LeaseRefusal.TWO_REGIONS.code]
    assert len(numbered) == 10
    for one in numbered:
        assert getattr(lib, f"PYVMM_LEASE_{one.name}") == one.code
    assert all(one.code < 16 for one in LeaseRefusal)


SHORT_OF_MEMORY = """
import array, resource
from pyvmm.errors import SystemCallError
from pyvmm.hosts.held_ranges import HeldKind, LeaseRefusal, refused_row
from pyvmm.hosts.kvm.binding import ffi, lib
from pyvmm.hosts.kvm.binding import INTERFACE, lib, require_interface
from pyvmm.hosts.kvm.conversions import FastConversions

held = FastConversions(-1).held
held.add_region(0, 0, 1 << 30, writable=True)
many = 1 << 20
rows = array.array("Q", [1, 1]) * many
ranges = [(1, 1)] * 50000
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = used + (4 << 20)  # Less than the rows take that are sorted, more than all else.
resource.setrlimit(resource.RLIMIT_AS, (room, room))
pointer = ffi.cast("uint64_t *", rows.buffer_info()[0])
print(refused_row(lib.pyvmm_held_lease(held._raw, pointer, many, True)))
try:
    held.add_region(1, 1 << 40, 1 << 52, writable=True)
except SystemCallError as error:
    print(error)
"""


def test_a_host_without_memory_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    lease, region = done.stdout.splitlines()
    assert lease == f"{(0, LeaseRefusal.MEMORY_SHORT)}"
    assert "ENOMEM" in region


@pytest.mark.parametrize("number", [0, INTERFACE - 1, INTERFACE + 1])
def test_an_extension_of_other_sources_is_refused(number: int) -> None:
    require_interface(lib.PYVMM_INTERFACE)
    with pytest.raises(HostLacksError, match="built from other sources; build it again"):
        require_interface(number)
