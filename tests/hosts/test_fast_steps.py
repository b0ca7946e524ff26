# SPDX-License-Identifier: MIT
"""The fast path converts in steps: conversions.c itself, with system calls that the test answers.

So it is known what each holding of the lock does, and who has it between two; on any host.
"""

from __future__ import annotations

import ctypes
import errno
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.kvm.binding import ffi, lib, new
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.memory.steps import STEP

PAGE = 4096
SPAN = 64 * STEP
HVA = 1 << 40
FILE_OFFSET = 1 << 30
FIRST = STEP - 3 * PAGE
"""Requests begin near the end of a step."""
PRIVATE, SHARED = 1 << 4, 0
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)

Call = tuple[str, int, int]
"""The first letter (to Private, to Shared, Remove, punch Hole, set a Memslot), where, and size.

Large letters: in place, by the file's attributes.
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    assert compiler is not None, "the test needs a C compiler, as the extension does"
    here = Path(__file__).parent
    room = here.parents[1] / "pyvmm" / "hosts" / "kvm"
    made = tmp_path_factory.mktemp("fast") / "fast_steps.so"
    faked = [f"-D{name}=fake_{name}" for name in ("ioctl", "madvise", "fallocate")]
    names = ("conversions", "conversion_calls", "conversions_lock", "held")
    sources = [room / f"{name}.c" for name in names]
    how = ["-std=gnu11", "-shared", "-fPIC", "-Wall", "-Werror", *faked, f"-I{room}"]
    command: list[str | Path] = [compiler, *how, "-o", made, *sources, here / "fast_steps.c"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(made))


class Fast:
    """A VM's conversions with one span; `before` is called with each system call's number."""

    def __init__(self, code: ctypes.CDLL) -> None:
        self.calls: list[Call] = []
        self.before: Callable[[int], int] = lambda _number: 0
        self._code = code
        code.pyvmm_conversions_new.restype = ctypes.c_void_p
        for name in ("pyvmm_held_hold", "pyvmm_held_lease", "pyvmm_held_overlapping"):
            getattr(code, name).restype = ctypes.c_int64
        self._callback = CALLBACK(self._answer)
        code.answer_with(self._callback)
        self._raw = ctypes.c_void_p(code.pyvmm_conversions_new(3))
        self.add_region()
        self.serve()

    def close(self) -> None:
        self._code.pyvmm_conversions_free(self._raw)

    def _answer(self, what: int, at: int, size: int) -> int:
        error = self.before(len(self.calls))
        if not error:
            self.calls.append((chr(what), at, size))
        return error

    def add_region(self) -> None:
        size = ctypes.c_uint64(SPAN)
        assert not self._code.pyvmm_held_add_region(
            self._raw, 0, ctypes.c_uint64(0), size, ctypes.c_bool(True)
        )

    def serve(
        self,
        *,
        count: int = 1,
        file: int = 4,
        slot: int = lib.PYVMM_PLUGGED,
        in_place: bool = False,
    ) -> None:
        span = new(
            "struct pyvmm_served_span *",
            {
                "gpa": 0, "size": SPAN, "hva": HVA, "guest_memfd": file,
                "guest_memfd_offset": FILE_OFFSET, "touch_block": 8 * STEP, "slot": slot,
                "in_place": in_place,
            },
        )  # fmt: skip
        assert not self._code.pyvmm_conversions_serve(self._raw, address_of(span), count)

    def ask(self, gpa: int, size: int, attributes: int) -> bool:
        """Whether the fast path has done it."""
        run = new("struct kvm_run *", {"exit_reason": ExitReason.HYPERCALL})
        run.u.hypercall.nr = 12
        run.u.hypercall.args = [gpa, size // PAGE, attributes, 0, 0, 0]
        return bool(self._code.pyvmm_conversions_take(self._raw, address_of(run)) & 1)

    def touch(self, gpa: int) -> bool:
        run = new("struct kvm_run *", {"exit_reason": ExitReason.MEMORY_FAULT})
        run.u.memory_fault.gpa, run.u.memory_fault.size = gpa, PAGE
        run.u.memory_fault.flags = 1 << 3
        return bool(self._code.pyvmm_conversions_take_touch(self._raw, address_of(run)) & 1)

    def drained(self) -> list[tuple[int, int, bool]]:
        rows = new("struct pyvmm_converted[]", lib.PYVMM_JOURNAL_ENTRIES)
        count = self._code.pyvmm_conversions_drain(self._raw, address_of(rows))
        return [(rows[i].gpa, rows[i].size, bool(rows[i].is_private)) for i in range(count)]

    def hold(self, kind: HeldKind, gpa: int, size: int) -> int:
        rows = (ctypes.c_uint64 * 2)(gpa, size)
        return int(self._code.pyvmm_held_hold(self._raw, int(kind), rows, 1))

    def lease(self, gpa: int) -> int:
        rows = (ctypes.c_uint64 * 2)(gpa, PAGE)
        return int(self._code.pyvmm_held_lease(self._raw, rows, 1, ctypes.c_bool(True)))

    def note(self, gpa: int, size: int, *, shared: bool) -> None:
        """Note a conversion that was made elsewhere."""
        self._code.pyvmm_held_note(
            self._raw, ctypes.c_uint64(gpa), ctypes.c_uint64(size), ctypes.c_bool(shared)
        )

    def leased(self, pages: int) -> set[int]:
        """Which of the first pages can be leased; each is given back at once."""
        numbers = {page: self.lease(page * PAGE) for page in range(pages)}
        taken = {page: number for page, number in numbers.items() if number > 0}
        for number in taken.values():
            self._code.pyvmm_held_release(self._raw, int(HeldKind.LEASE), ctypes.c_int64(number))
        return set(taken)

    def is_worked_on(self) -> bool:
        size = ctypes.c_uint64(SPAN)
        return any(
            self._code.pyvmm_held_overlapping(self._raw, int(kind), ctypes.c_uint64(0), size)
            for kind in (HeldKind.CONVERTING, HeldKind.WORKING)
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        assert self._code.pyvmm_conversions_lock(self._raw) == 0
        yield
        assert self._code.pyvmm_conversions_unlock(self._raw) == 0

    def wait_until_somebody_waits(self) -> None:
        while not self._code.pyvmm_conversions_waiting(self._raw):
            time.sleep(0.0002)

    def let_in(self, body: Callable[[], None]) -> None:
        """From a system call: `body` is called, with the lock, in the next gap between steps."""

        def onlooker() -> None:
            with self.locked():
                body()

        threading.Thread(target=onlooker, daemon=True).start()
        self.wait_until_somebody_waits()

    def in_the_first_gap(self, body: Callable[[], None]) -> None:
        def before(number: int) -> int:
            if number == 0:
                self.let_in(body)
            return 0

        self.before = before


def address_of(structure: object) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(ffi.cast("uintptr_t", structure)))


@pytest.fixture
def fast(code: ctypes.CDLL) -> Iterator[Fast]:
    made = Fast(code)
    yield made
    made.close()


def expected(size: int, attributes: int) -> list[Call]:
    calls: list[Call] = []
    at = FIRST
    while at < FIRST + size:
        end = min(FIRST + size, (at // STEP + 1) * STEP)
        if attributes == PRIVATE:
            calls += [("p", at, end - at), ("r", HVA + at, end - at)]
        else:
            calls += [("s", at, end - at), ("h", FILE_OFFSET + at, end - at)]
        at = end
    return calls


BOTH = pytest.mark.parametrize("attributes", [PRIVATE, SHARED], ids=["private", "shared"])


@BOTH
def test_each_step_is_whole_and_none_is_longer(fast: Fast, attributes: int) -> None:
    size = 33 * STEP
    assert fast.ask(FIRST, size, attributes)
    assert fast.calls == expected(size, attributes)
    assert max(one[2] for one in fast.calls) == STEP
    assert fast.drained() == [(FIRST, size, attributes == PRIVATE)], "joined in the journal"
    assert not fast.is_worked_on()


@BOTH
def test_what_is_one_step_long_is_one_holding(fast: Fast, attributes: int) -> None:
    assert fast.ask(FIRST, STEP, attributes)
    assert [call[2] for call in fast.calls] == [STEP, STEP]


@BOTH
def test_who_waits_gets_in_between_every_two_steps(fast: Fast, attributes: int) -> None:
    steps = 33
    seen: list[int] = []

    def before(number: int) -> int:
        if number % 2 == 0:
            fast.let_in(lambda: seen.append(len(fast.calls)))
        return 0

    fast.before = before
    assert fast.ask(FIRST, (steps - 1) * STEP, attributes)
    with fast.locked():
        pass
    while len(seen) < steps:
        time.sleep(0.0002)
    assert seen == [2 * step for step in range(1, steps + 1)], "after each step, before the next"


def test_the_rest_is_not_leased_nor_converted_by_another(fast: Fast) -> None:
    answers: list[object] = []

    def look() -> None:
        answers.append(fast.lease(FIRST + 8 * STEP))
        answers.append(fast.lease(FIRST + 40 * STEP) > 0)
        answers.append(fast.hold(HeldKind.WORKING, FIRST + 16 * STEP, PAGE))
        answers.append(fast.is_worked_on())

    fast.in_the_first_gap(look)
    assert fast.ask(FIRST, 16 * STEP + PAGE, PRIVATE)
    assert answers == [-7, True, 0, True]
    assert not fast.is_worked_on()
    assert fast.hold(HeldKind.WORKING, FIRST, 16 * STEP)


def test_what_is_made_shared_in_steps_can_be_leased_where_it_is_shared(fast: Fast) -> None:
    answers: list[int] = []
    fast.in_the_first_gap(lambda: answers.append(fast.lease(FIRST)))
    assert fast.ask(FIRST, 2 * STEP, SHARED)
    assert answers[0] > 0
    fast.drained()
    fast.calls.clear()
    fast.in_the_first_gap(lambda: answers.append(fast.lease(FIRST + 2 * STEP)))
    assert not fast.ask(FIRST + PAGE, 3 * STEP, SHARED), "a lease: the rest is Python's"
    assert answers[1] > 0
    assert fast.drained() == [(FIRST + PAGE, 2 * PAGE + STEP, False)]


@pytest.mark.parametrize(("first", "count"), [(1, 1), (64, 64), (3, 200), (63, 2), (60, 68)])
def test_what_is_private_is_not_leased_and_all_around_it_is(
    fast: Fast, first: int, count: int
) -> None:
    """The bits of pages are in words of 64: ranges in one, up to a boundary, over several."""
    assert fast.ask(first * PAGE, count * PAGE, PRIVATE)
    assert fast.leased(300) == {*range(300)} - {*range(first, first + count)}
    # All but the outermost pages of it.
    if count > 2:
        assert fast.ask((first + 1) * PAGE, (count - 2) * PAGE, SHARED)
        assert fast.leased(300) == {*range(300)} - {first, first + count - 1}


def test_a_conversion_of_nothing_marks_no_page(fast: Fast) -> None:
    fast.note(64 * PAGE, 0, shared=False)
    assert fast.leased(300) == {*range(300)}
    fast.note(64 * PAGE, PAGE, shared=False)
    assert fast.leased(300) == {*range(300)} - {64}


@pytest.mark.parametrize("kind", [HeldKind.CONVERTING, HeldKind.WORKING])
@pytest.mark.parametrize("size", [PAGE, 4 * STEP])
def test_what_somebody_works_on_is_left_to_python(fast: Fast, kind: HeldKind, size: int) -> None:
    assert fast.hold(kind, FIRST + size - PAGE, PAGE)
    for attributes in PRIVATE, SHARED:
        assert not fast.ask(FIRST, size, attributes)
        assert fast.ask(FIRST + size, size, attributes), "beside it"
    assert all(call[1] % (1 << 30) >= FIRST + size for call in fast.calls)


def test_in_place_a_step_is_one_call_of_the_file(fast: Fast) -> None:
    fast.serve(in_place=True)
    assert fast.ask(FIRST, STEP, PRIVATE)
    assert fast.ask(FIRST, 2 * STEP, SHARED)
    assert fast.calls == [
        ("P", FILE_OFFSET + FIRST, STEP),
        ("S", FILE_OFFSET + FIRST, STEP - FIRST),
        ("S", FILE_OFFSET + STEP, STEP),
        ("S", FILE_OFFSET + 2 * STEP, FIRST),
    ]
    assert fast.drained() == [(FIRST, STEP, True), (FIRST, 2 * STEP, False)]


def test_in_place_what_may_have_to_be_undone_is_left_to_python(fast: Fast) -> None:
    fast.serve(in_place=True)
    assert not fast.ask(0, STEP + PAGE, PRIVATE)
    assert fast.calls == []
    fast.before = lambda _number: errno.EAGAIN
    assert not fast.ask(0, PAGE, PRIVATE), "somebody holds it"
    assert fast.drained() == []
    fast.before = lambda _number: 0
    assert fast.ask(0, PAGE, PRIVATE)
    assert fast.drained() == [(0, PAGE, True)]


def listen(fast: Fast, gpa: int) -> None:
    assert fast.hold(HeldKind.LISTENER, gpa, PAGE)


def test_a_listener_that_comes_in_between_is_told_of_the_rest_by_python(fast: Fast) -> None:
    fast.in_the_first_gap(lambda: listen(fast, FIRST + 8 * STEP))
    assert not fast.ask(FIRST, 16 * STEP, PRIVATE)
    assert fast.drained() == [(FIRST, 8 * STEP - FIRST, True)]
    assert not fast.is_worked_on()


def test_a_span_that_is_served_no_longer_is_left_alone_from_then_on(fast: Fast) -> None:
    fast.in_the_first_gap(lambda: fast.serve(count=0))
    assert not fast.ask(FIRST, 16 * STEP, PRIVATE)
    assert fast.calls == expected(3 * PAGE, PRIVATE)
    assert not fast.is_worked_on()


@BOTH
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_step_that_fails_leaves_the_rest_to_python(
    fast: Fast, attributes: int, number: int
) -> None:
    """EAGAIN, too: whoever tries again has to wait, and does not with the lock."""
    tried: list[int] = []

    def before(call: int) -> int:
        tried.append(call)
        return number if call == 6 else 0

    fast.before = before
    assert not fast.ask(FIRST, 16 * STEP, attributes)
    assert fast.calls == expected(3 * PAGE + 2 * STEP, attributes)
    assert tried.count(6) == 1
    assert fast.drained() == [(FIRST, 3 * PAGE + 2 * STEP, attributes == PRIVATE)]
    assert not fast.is_worked_on()


def test_a_step_that_is_interrupted_is_tried_again(fast: Fast) -> None:
    left = [errno.EINTR] * 5

    def before(call: int) -> int:
        return left.pop() if call == 6 and left else 0

    fast.before = before
    assert fast.ask(FIRST, 16 * STEP, PRIVATE)
    assert fast.calls == expected(16 * STEP, PRIVATE)
    assert left == []


@BOTH
def test_a_lease_anywhere_in_it_keeps_all_of_it_from_being_begun(
    fast: Fast, attributes: int
) -> None:
    """The guest may be told to try again, and then nothing must have changed."""
    assert fast.lease(FIRST + 8 * STEP) > 0
    assert not fast.ask(FIRST, 16 * STEP, attributes)
    assert fast.calls == []
    listen(fast, FIRST + 40 * STEP)
    assert not fast.ask(FIRST + 32 * STEP, 16 * STEP, attributes)
    assert fast.calls == []


def test_a_request_that_reaches_out_of_the_span_is_not_begun(fast: Fast) -> None:
    assert not fast.ask(FIRST, SPAN, PRIVATE)
    assert fast.calls == []
    assert not fast.is_worked_on()


def test_a_block_that_was_touched_is_made_shared_in_steps(fast: Fast) -> None:
    fast.serve(file=-1)
    assert fast.touch(9 * STEP)
    assert fast.calls == [("s", at * STEP, STEP) for at in range(8, 16)]
    assert fast.drained() == [(8 * STEP, 8 * STEP, False)]


def test_a_missing_slot_is_set_when_its_pages_have_been_given_back(fast: Fast) -> None:
    fast.serve(slot=0)
    number = fast.hold(HeldKind.CONVERTING, SPAN - PAGE, PAGE)
    assert number
    answers: list[bool] = []
    toucher = threading.Thread(target=lambda: answers.append(fast.touch(0)), daemon=True)
    toucher.start()
    fast.wait_until_somebody_waits()
    assert fast.calls == []
    fast._code.pyvmm_held_release(fast._raw, int(HeldKind.CONVERTING), ctypes.c_int64(number))
    toucher.join()
    assert answers == [True]
    assert fast.calls == [("m", 0, SPAN)]
