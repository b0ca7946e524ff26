# SPDX-License-Identifier: MIT
"""Waits that an exception of a signal's handler breaks off, as Ctrl-C at a prompt does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.model.conversions import ModelConversions
from pyvmm.hosts.model.guest_strand import GuestStrand
from pyvmm.hosts.model.turn import Turn
from tests.hosts.model.small_guest import Services, guest

CELL = 0x5000


class BrokenOffError(Exception):
    """Raised by the handler."""


@contextmanager
def broken_off_once(ready: Callable[[], bool]) -> Iterator[None]:
    """A block that runs on until `ready`, and is broken off then."""
    main, over = threading.get_ident(), threading.Event()

    def signals() -> None:
        while not ready() and not over.wait(0.001):
            pass
        # Again, should one have come in the moment before the wait.
        while not over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            over.wait(0.05)

    def handler(*_: object) -> None:
        if not over.is_set():
            over.set()
            raise BrokenOffError

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=signals)
    thread.start()
    try:
        with pytest.raises(BrokenOffError):
            yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_guest_whose_run_is_broken_off_stands_still_and_runs_on() -> None:
    services = Services()
    ram = services.memory.ram

    def count() -> bytes:
        return ram[CELL : CELL + 4]

    code = f"1: incl {CELL:#x}; cmpl $0, {CELL + 4:#x}; je 1b; out %al, $0x80; hlt"
    with guest(code, services) as vcpu:
        with broken_off_once(lambda: count() != bytes(4)):
            vcpu.run()
        counted = count()
        assert vcpu.get_regs() == vcpu.get_regs()
        with services.turn():
            assert count() == counted
        with broken_off_once(lambda: count() != counted):
            vcpu.run()
        ram[CELL + 4] = 1
        assert isinstance(vcpu.run(), exits.IoOut)
        assert vcpu.run() == exits.Hlt()


@pytest.mark.parametrize(
    ("last", "following"),
    [(exits.Hlt(), [exits.Hlt(), exits.Shutdown()]), (exits.Interrupted(), [exits.Shutdown()])],
    ids=["an exit", "the stop itself"],
)
def test_the_exit_of_a_run_that_is_broken_off_is_the_next(
    last: exits.Exit, following: list[exits.Exit]
) -> None:
    """An exit that comes as the guest is stopped is not lost."""
    begun, kicked = threading.Event(), threading.Event()

    def body() -> exits.Exit:
        if kicked.is_set():
            return exits.Shutdown()
        begun.set()
        kicked.wait()
        return last

    strand = GuestStrand(body, "guest code", kicked.set, lambda: True)
    try:
        with broken_off_once(begun.is_set):
            strand.resume()
        assert kicked.is_set()
        assert [strand.resume() for _ in following] == following
    finally:
        strand.close()


def test_a_wait_for_the_turn_that_is_broken_off_leaves_the_queue() -> None:
    turn = Turn()
    taken, done = threading.Event(), threading.Event()

    def holds() -> None:
        with turn():
            taken.set()
            done.wait()

    holder = threading.Thread(target=holds)
    holder.start()
    taken.wait()
    with broken_off_once(lambda: turn.is_wanted), turn():
        pytest.fail("somebody else has it")
    assert not turn.is_wanted
    done.set()
    holder.join()
    with turn():
        assert not turn.is_wanted


def test_a_wait_for_a_conversion_that_is_broken_off_is_not_waited_for() -> None:
    conversions = ModelConversions()
    inside, done = threading.Event(), threading.Event()

    def converts() -> None:
        with conversions.exclusive():
            inside.set()
            done.wait()

    other = threading.Thread(target=converts)
    other.start()
    inside.wait()
    with broken_off_once(lambda: conversions.waiting == 1), conversions.exclusive():
        pytest.fail("somebody else is inside")
    assert conversions.waiting == 0
    done.set()
    other.join()
    with conversions.exclusive():
        assert not conversions.give_way()
        with broken_off_once(lambda: conversions.waiting == 1):
            conversions.await_end()
        assert conversions.waiting == 0
