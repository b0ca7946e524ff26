# SPDX-License-Identifier: MIT
"""The thread that a blocking machine's loop has: who waits for it is told, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.blocking import open_blocking_machine
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.loop_thread import LoopThread
from tests.machine.guests import EXIT_42, SPIN

HANG = 240.0


class Held:
    """Something with a loop of its own, and the note of what became of it."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.waiting = threading.Event()

    async def for_ever(self) -> None:
        self.waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            self.noted.append("no longer waiting")

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[str]:
        self.noted.append("entered")
        try:
            yield "inside"
        finally:
            self.noted.append("left")


@asynccontextmanager
async def held_open(held: Held) -> AsyncIterator[Held]:
    try:
        yield held
    finally:
        held.noted.append("closed")


@contextmanager
def opened() -> Iterator[tuple[LoopThread[Held], Held]]:
    loop = LoopThread(held_open(Held()))
    try:
        yield loop, loop.open()
    finally:
        loop.close()
    loop.raise_failure()


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    with opened() as (loop, held):
        with pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
            loop.call(held.for_ever, 0.01)
        assert held.noted == ["no longer waiting"]
    assert held.noted == ["no longer waiting", "closed"]


def test_who_still_waits_when_it_is_closed_is_told() -> None:
    failures: list[BaseException] = []

    def wait(act: Callable[[], object]) -> None:
        try:
            act()
        except InternalError as failure:
            failures.append(failure)

    with opened() as (loop, held):
        thread = threading.Thread(target=wait, args=[lambda: loop.call(held.for_ever)])
        thread.start()
        assert held.waiting.wait(HANG)
    thread.join(HANG)
    assert held.noted == ["no longer waiting", "closed"]
    wait(lambda: loop.call(held.for_ever))
    wait(lambda: loop.now(lambda: 1))
    wait(lambda: loop.entered(held.inside()).__enter__())
    assert ["been closed" in str(one) for one in failures] == [True] * 4


def test_its_own_thread_does_not_wait_for_itself() -> None:
    with opened() as (loop, _), pytest.raises(InternalError, match="must not wait for itself"):
        loop.now(lambda: loop.now(lambda: 1))


def test_a_manager_is_entered_and_left_there() -> None:
    with opened() as (loop, held):
        with pytest.raises(ZeroDivisionError), loop.entered(held.inside()) as value:
            assert value == "inside"
            assert held.noted == ["entered"]
            raise ZeroDivisionError
        assert held.noted == ["entered", "left"]

        @contextmanager
        def refusing() -> Iterator[None]:
            raise LookupError("not today")
            yield

        with pytest.raises(LookupError, match="not today"), loop.entered(refusing()):
            raise AssertionError("it was entered")


def test_one_that_is_inside_when_it_is_closed_is_told() -> None:
    loop = LoopThread(held_open(Held()))
    held = loop.open()
    with pytest.raises(InternalError, match="been closed"), loop.entered(held.inside()):
        loop.close()
    assert held.noted == ["entered", "left", "closed"]


def test_ctrl_c_leaves_nothing_that_waits() -> None:
    with opened() as (loop, held):

        def interrupt() -> None:
            held.waiting.wait(HANG)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                loop.call(held.for_ever)
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()
        # In order: what was cancelled is done before what is asked for later.
        loop.now(lambda: None)
        assert held.noted == ["no longer waiting"]


def test_a_failure_on_the_way_in_and_out() -> None:
    @asynccontextmanager
    async def fails(on_entry: bool) -> AsyncIterator[None]:
        if on_entry:
            raise LookupError("on the way in")
        yield
        raise LookupError("on the way out")

    loop = LoopThread(fails(True))
    with pytest.raises(LookupError, match="in"):
        loop.open()
    loop.close()
    loop = LoopThread(fails(False))
    loop.open()
    loop.close()
    with pytest.raises(LookupError, match="out"):
        loop.raise_failure()


def test_a_thread_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SystemCallError, match="loop: can't start new thread") as refused:
            with opened():
                raise AssertionError("it was entered")
    assert "ulimit -u" in refused.value.remedy


def test_a_vcpu_s_thread_does_not_wait_for_its_own_machine() -> None:
    def small(image: bytes) -> MachineConfig:
        return MachineConfig(image, memory=2 << 20, timeout=HANG, host=HostChoice.MODEL)

    with (
        open_blocking_machine(small(EXIT_42)) as another,
        open_blocking_machine(small(SPIN)) as machine,
    ):

        def wait(_vcpu: Vcpu) -> int | None:
            for act in (machine.control.wait, machine.control.pause, machine.control.reset):
                with pytest.raises(InternalError, match="not wait for its own machine"):
                    act(timeout=0)
            with pytest.raises(InternalError, match="not wait"), machine.control.freeze():
                raise AssertionError("it is frozen")
            machine.control.interrupt("from its own thread")
            return another.control.wait(timeout=HANG).ending.status

        assert machine.vcpus[0].call(wait, timeout=HANG) == 42
        assert machine.control.wait(timeout=HANG).ending.detail == "from its own thread"
