# SPDX-License-Identifier: MIT
"""The thread that blocking machines' loop has: who waits for it is told, whatever happens."""

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
from pyvmm.machine.blocking import open_blocking_machine, run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.loop_thread import LoopTask, LoopThread
from pyvmm.machine.steering import MachineState
from tests.machine.guests import EXIT_42, SPIN

HANG = 240.0


class Held:
    """Something with a loop of its own, and the note of what became of it."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.waiting = threading.Event()
        self.ended = threading.Event()

    async def for_ever(self) -> None:
        self.waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            self.noted.append("no longer waiting")
            self.ended.set()

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
def opened() -> Iterator[tuple[LoopTask[Held], Held]]:
    with LoopThread() as loop, loop.holding(held_open(Held())) as task:
        yield task, task.value


@asynccontextmanager
async def failing(on_entry: bool) -> AsyncIterator[None]:
    if on_entry:
        raise LookupError("on the way in")
    yield
    raise LookupError("on the way out")


def small(image: bytes) -> MachineConfig:
    return MachineConfig(image, memory=2 << 20, timeout=HANG, host=HostChoice.MODEL)


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    with opened() as (task, held):
        with pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
            task.call(held.for_ever, 0.01)
        assert held.noted == ["no longer waiting"]
    assert held.noted == ["no longer waiting", "closed"]


@pytest.mark.parametrize("timeout", [None, HANG])
def test_a_time_limit_inside_of_a_call_is_told_as_its_own(timeout: float | None) -> None:
    async def limited() -> None:
        with trio.fail_after(0):
            await trio.sleep_forever()

    with opened() as (task, _), pytest.raises(trio.TooSlowError):
        task.call(limited, timeout)


def test_who_still_waits_when_it_is_closed_is_told() -> None:
    failures: list[BaseException] = []

    def wait(act: Callable[[], object]) -> None:
        try:
            act()
        except InternalError as failure:
            failures.append(failure)

    with opened() as (task, held):
        thread = threading.Thread(target=wait, args=[lambda: task.call(held.for_ever)])
        thread.start()
        assert held.waiting.wait(HANG)
    thread.join(HANG)
    assert held.noted == ["no longer waiting", "closed"]
    wait(lambda: task.call(held.for_ever))
    wait(lambda: task.now(lambda: 1))
    wait(lambda: task.entered(held.inside()).__enter__())
    assert ["been closed" in str(one) for one in failures] == [True] * 4


def test_its_own_thread_does_not_wait_for_itself() -> None:
    with opened() as (task, _), pytest.raises(InternalError, match="must not wait for itself"):
        task.now(lambda: task.now(lambda: 1))


def test_a_manager_is_entered_and_left_there() -> None:
    with opened() as (task, held):
        with pytest.raises(ZeroDivisionError), task.entered(held.inside()) as value:
            assert value == "inside"
            assert held.noted == ["entered"]
            raise ZeroDivisionError
        assert held.noted == ["entered", "left"]

        @contextmanager
        def refusing() -> Iterator[None]:
            raise LookupError("not today")
            yield

        with pytest.raises(LookupError, match="not today"), task.entered(refusing()):
            raise AssertionError("it was entered")


def test_one_that_is_inside_when_it_is_closed_is_told() -> None:
    with opened() as (task, held):
        with pytest.raises(InternalError, match="been closed"), task.entered(held.inside()):
            task.close()
        assert held.noted == ["entered", "left", "closed"]


def test_ctrl_c_leaves_nothing_that_waits() -> None:
    with opened() as (task, held):

        def interrupt() -> None:
            held.waiting.wait(HANG)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                task.call(held.for_ever)
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()
        assert held.ended.wait(HANG)


@pytest.mark.parametrize("is_entered", [False, True], ids=["call", "entered"])
def test_ctrl_c_before_the_wait_leaves_nothing_that_waits(
    monkeypatch: pytest.MonkeyPatch, is_entered: bool
) -> None:
    soon = LoopThread.soon

    def interrupted(loop: LoopThread, function: Callable[[], object]) -> bool:
        monkeypatch.undo()
        soon(loop, function)
        assert held.waiting.wait(HANG)
        raise KeyboardInterrupt

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        await held.for_ever()
        yield

    with opened() as (task, held):
        monkeypatch.setattr(LoopThread, "soon", interrupted)
        with pytest.raises(KeyboardInterrupt):
            if is_entered:
                with task.entered(waiting()):
                    raise AssertionError("it was entered")
            task.call(held.for_ever)
        assert held.ended.wait(HANG)


def test_a_failure_on_the_way_in_and_out() -> None:
    with LoopThread() as loop:
        with pytest.raises(LookupError, match="in"), loop.holding(failing(on_entry=True)):
            raise AssertionError("it was entered")
        entered = False
        with pytest.raises(LookupError, match="out"), loop.holding(failing(on_entry=False)):
            entered = True
        assert entered


def test_many_are_held_at_once_and_one_s_failure_is_its_own() -> None:
    with LoopThread("many") as loop:
        assert [one.name for one in threading.enumerate()].count("many") == 1
        with loop.holding(held_open(Held())) as first, loop.holding(held_open(Held())) as second:
            with pytest.raises(LookupError, match="in"), loop.holding(failing(on_entry=True)):
                raise AssertionError("it was entered")
            with pytest.raises(LookupError, match="out"), loop.holding(failing(on_entry=False)):
                pass
            with pytest.raises(TimeoutError):
                first.call(first.value.for_ever, 0)
            first.close()
            assert first.value.noted[-1] == "closed"
            assert second.now(lambda: second.value.noted) == []
        with loop.holding(held_open(Held())) as third:
            assert third.now(lambda: 3) == 3
        assert third.value.noted == ["closed"]
    assert "many" not in [one.name for one in threading.enumerate()]


def test_what_is_held_when_its_loop_is_closed_is_cancelled_and_who_holds_it_told() -> None:
    failures: list[BaseException] = []

    async def beside_another(held: Held) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await held.for_ever()

    def wait() -> None:
        try:
            task.call(lambda: beside_another(task.value))
        except InternalError as failure:
            failures.append(failure)

    with LoopThread() as loop:
        with (
            pytest.raises(InternalError, match="been closed"),
            loop.holding(held_open(Held())) as task,
        ):
            thread = threading.Thread(target=wait)
            thread.start()
            assert task.value.waiting.wait(HANG)
            loop.close()
            thread.join(HANG)
            assert task.value.noted == ["no longer waiting", "closed"]
            with pytest.raises(InternalError, match="been closed"):
                task.now(lambda: None)
        assert "been closed" in str(failures[0])
        with pytest.raises(InternalError, match="been closed"), loop.holding(held_open(Held())):
            raise AssertionError("it was entered")


def test_a_loop_that_has_not_begun_holds_nothing() -> None:
    loop = LoopThread()
    with pytest.raises(InternalError, match="been closed"), loop.holding(held_open(Held())):
        raise AssertionError("it was entered")
    loop.close()


def test_machines_that_share_a_loop() -> None:
    with LoopThread("shared") as loop:
        with open_blocking_machine(small(SPIN), loop=loop) as spinning:
            completed = run(small(EXIT_42), loop=loop)
            assert completed.result.ending.status == 42
            with open_blocking_machine(small(SPIN), loop=loop) as another:
                another.control.interrupt("the second")
                assert another.control.wait(timeout=HANG).ending.detail == "the second"
            assert spinning.control.state is MachineState.RUNNING
            names = [one.name for one in threading.enumerate()]
            assert (names.count("shared"), names.count("machine")) == (1, 0)
        with pytest.raises(InternalError, match="been closed"):
            spinning.control.wait(timeout=HANG)


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
    with (
        LoopThread() as loop,
        open_blocking_machine(small(EXIT_42), loop=loop) as another,
        open_blocking_machine(small(SPIN), loop=loop) as machine,
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
