# SPDX-License-Identifier: MIT
"""The lock of conversions is handed over between steps, and work in steps can be waited for.

Nothing here looks at a clock: a thread is known to wait when the lock says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.model.conversions import ModelConversions

Conversions = FastConversions | ModelConversions
PAGE = 4096
IN_STEPS = (HeldKind.CONVERTING, HeldKind.WORKING)


@pytest.fixture(params=["kvm", "model"])
def conversions(request: pytest.FixtureRequest) -> Iterator[Conversions]:
    made = FastConversions(-1) if request.param == "kvm" else ModelConversions()
    with made:
        yield made


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.0002)


@contextmanager
def thread(body: Callable[[], None]) -> Iterator[threading.Thread]:
    """A thread that has ended, without a failure, when the block has."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            body()
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    one = threading.Thread(target=guarded, daemon=True)
    one.start()
    yield one
    one.join()
    if failures:
        raise failures[0]


def test_nobody_waits_and_the_lock_is_not_given_away(conversions: Conversions) -> None:
    with conversions.exclusive():
        assert conversions.waiting == 0
        assert not conversions.give_way()
        with pytest.raises(InternalError):
            conversions.exclusive().__enter__()
        assert conversions.waiting == 0, "who has it does not wait for it"
        assert not conversions.give_way()


def test_everybody_who_waits_has_a_turn_before_the_next_step(conversions: Conversions) -> None:
    seen: list[str] = []

    def onlooker() -> None:
        with conversions.exclusive():
            seen.append("onlooker")

    with conversions.exclusive():
        for step in range(5):
            seen.append(f"step {step}")
            waiting = [threading.Thread(target=onlooker, daemon=True) for _ in range(3)]
            for one in waiting:
                one.start()
            until(lambda: conversions.waiting == 3)
            assert conversions.give_way()
            for one in waiting:
                one.join()
    assert seen == [one for step in range(5) for one in (f"step {step}", *["onlooker"] * 3)]


def test_two_who_work_in_steps_take_turns(conversions: Conversions) -> None:
    seen: list[str] = []
    both = threading.Barrier(2)

    def work(name: str) -> None:
        both.wait()
        with conversions.exclusive():
            if not seen:
                until(lambda: conversions.waiting == 1)
            for _ in range(50):
                seen.append(name)
                conversions.give_way()

    with thread(lambda: work("a")), thread(lambda: work("b")):
        pass
    # The last one has nobody to give way to any more.
    assert seen in (["a", "b"] * 50, ["b", "a"] * 50)


def test_a_pause_lets_in_who_comes_later(conversions: Conversions) -> None:
    came = threading.Event()

    def onlooker() -> None:
        with conversions.exclusive():
            came.set()

    with conversions.exclusive(), thread(onlooker):
        while not came.is_set():
            assert conversions.give_way(0.001)
        with pytest.raises(InternalError):
            conversions.exclusive().__enter__()


@pytest.mark.parametrize("kind", IN_STEPS)
@pytest.mark.parametrize("other", IN_STEPS)
def test_what_is_worked_on_is_worked_on_by_one(
    conversions: Conversions, kind: HeldKind, other: HeldKind
) -> None:
    held = conversions.held
    with conversions.exclusive():
        number = held.hold([(4 * PAGE, 4 * PAGE)], kind)
        assert number
        assert not held.hold([(0, PAGE), (7 * PAGE, PAGE)], other)
        assert not held.overlapping(other, 0, PAGE), "none of a refused one is held"
        beside = held.hold([(0, 4 * PAGE), (8 * PAGE, PAGE)], other)
        assert beside
        held.release(other, beside)
        held.release(kind, number)
        assert held.hold([(7 * PAGE, PAGE)], other)


def test_leases_are_refused_of_what_leaves_only(conversions: Conversions) -> None:
    held = conversions.held
    held.add_region(0, 0, 16 * PAGE, writable=True)
    rows = (4 * PAGE).to_bytes(8, "little") + PAGE.to_bytes(8, "little")
    working = held.hold([(0, 8 * PAGE)], HeldKind.WORKING)
    lease = held.lease(rows, 1, True)
    assert lease > 0
    held.release(HeldKind.LEASE, lease)
    held.release(HeldKind.WORKING, working)
    converting = held.hold([(0, 8 * PAGE)], HeldKind.CONVERTING)
    assert held.lease(rows, 1, True) == -7
    held.release(HeldKind.CONVERTING, converting)
    assert held.lease(rows, 1, True) > 0


@pytest.mark.parametrize("kind", IN_STEPS)
def test_who_waits_for_an_end_has_a_turn_then(conversions: Conversions, kind: HeldKind) -> None:
    seen: list[str] = []
    held = conversions.held

    def waits() -> None:
        with conversions.exclusive():
            while not (number := held.hold([(0, PAGE)], kind)):
                conversions.await_end()
            seen.append("waited")
            held.release(kind, number)

    with conversions.exclusive():
        number = held.hold([(0, 2 * PAGE)], kind)
        elsewhere = held.hold([(8 * PAGE, PAGE)], kind)
        with thread(waits):
            until(lambda: conversions.waiting == 1)
            conversions.give_way()
            until(lambda: conversions.waiting == 1)
            assert not conversions.give_way(), "an end is waited for, not the lock"
            held.release(kind, elsewhere)
            assert conversions.give_way(), "an end, but not the one"
            until(lambda: conversions.waiting == 1)
            assert seen == []
            held.release(kind, number)
            assert conversions.give_way()
            assert seen == ["waited"]
