# SPDX-License-Identifier: MIT
"""The run state by itself: pausing, freezing and resuming by several at once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.control import Hit, RunControl
from pyvmm.machine.ending import Ending, EndingKind

HANG = 240.0
CPUS = 2
OVER = Ending(EndingKind.EXITED, "by the test", 0)


class FakeVcpu:
    def __init__(self) -> None:
        self.pauses = 0

    def kick(self) -> None:
        """Nothing runs."""

    def has_stood_still(self) -> None:
        """Count it."""
        self.pauses += 1


@asynccontextmanager
async def attending(control: RunControl, index: int) -> AsyncIterator[None]:
    """A vCPU's thread that looks at the state, and waits as long as that says so."""
    vcpu = cast(Vcpu, FakeVcpu())
    thread = threading.Thread(target=control.attend, args=(index, vcpu))
    thread.start()
    try:
        yield
    finally:
        with trio.CancelScope(shield=True), trio.fail_after(HANG):
            while thread.is_alive():
                await trio.sleep(0.001)


def all_there(control: RunControl) -> None:
    """Every vCPU has been made."""
    for index in range(CPUS):
        control.enter(index, cast(Vcpu, FakeVcpu()))


def in_trio(act: Callable[[RunControl, trio.Nursery], Awaitable[None]]) -> None:
    async def main() -> None:
        control = RunControl(CPUS, lambda: None, lambda: None)
        all_there(control)
        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                await act(control, nursery)

    trio.run(main)


async def parked(control: RunControl, count: int) -> None:
    while len(control._parked) != count:
        await trio.sleep(0.001)


def test_freezing_waits_for_every_vcpu_although_somebody_resumes() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        frozen, thaw = trio.Event(), trio.Event()

        async def freeze() -> None:
            async with control.frozen():
                frozen.set()
                await thaw.wait()

        nursery.start_soon(freeze)
        await wait_all_tasks_blocked()
        async with attending(control, 0), attending(control, 1):
            await frozen.wait()
            thaw.set()
        frozen, thaw = trio.Event(), trio.Event()
        nursery.start_soon(freeze)
        await wait_all_tasks_blocked()
        async with attending(control, 0):
            await parked(control, 1)
            control.resume()
            await wait_all_tasks_blocked()
            assert not frozen.is_set()
            async with attending(control, 1):
                await frozen.wait()
                thaw.set()

    in_trio(act)


def test_pausing_waits_for_every_vcpu_although_somebody_thaws() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        paused, thaw = trio.Event(), trio.Event()

        async def pause() -> None:
            await control.pause()
            paused.set()

        async def freeze() -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_told, scope)
                async with control.frozen():
                    pass

        async def cancel_when_told(scope: trio.CancelScope) -> None:
            await thaw.wait()
            scope.cancel()

        nursery.start_soon(pause)
        nursery.start_soon(freeze)
        await wait_all_tasks_blocked()
        async with attending(control, 0):
            await parked(control, 1)
            thaw.set()
            await wait_all_tasks_blocked()
            assert not paused.is_set()
            async with attending(control, 1):
                await paused.wait()
                control.resume()

    in_trio(act)


def test_who_waits_for_a_pause_is_told_that_somebody_has_resumed() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        nursery.start_soon(control.pause)
        await wait_all_tasks_blocked()
        assert control.is_paused
        control.resume()
        # Otherwise the nursery does not end.

    in_trio(act)


@pytest.mark.parametrize("over_before", [True, False])
def test_nobody_waits_for_vcpus_that_have_ended(over_before: bool) -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        if over_before:
            control.end(OVER)
        nursery.start_soon(control.pause)
        await wait_all_tasks_blocked()
        control.end(OVER)
        async with control.frozen():
            pass
        # The end may come between a look at it and the wait.
        assert not await control._all_parked()

    in_trio(act)


@pytest.mark.parametrize("end", [RunControl.end, RunControl.fail])
@pytest.mark.parametrize("first_a_reset", [True, False])
def test_who_waits_for_the_end_of_a_reset_or_a_freeze_hears_of_the_run_s(
    first_a_reset: bool, end: Callable[[RunControl, object], None]
) -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        first, second = control.resetting, control.frozen
        if not first_a_reset:
            first, second = second, first
        waited = trio.Event()

        async def wait() -> None:
            async with second():
                waited.set()

        control._parked.update(range(CPUS))
        async with first():
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not waited.is_set()
            # On another thread, as a vCPU ends it.
            await trio.to_thread.run_sync(end, control, OVER)
            await waited.wait()

    in_trio(act)


def test_a_paused_start_has_to_be_looked_at() -> None:
    async def main() -> None:
        control = RunControl(CPUS, lambda: None, lambda: None, paused=True)
        all_there(control)
        assert control.attention
        control.resume()
        assert not control.attention
        await trio.lowlevel.checkpoint()

    trio.run(main)


def test_no_vcpu_runs_before_all_are_there() -> None:
    async def main() -> None:
        control = RunControl(CPUS, lambda: None, lambda: None)
        with trio.fail_after(HANG):
            assert control.attention
            control.enter(0, cast(Vcpu, FakeVcpu()))
            async with attending(control, 0):
                await parked(control, 1)
                control.resume()
                await parked(control, 1)
                assert control.attention
                control.enter(1, cast(Vcpu, FakeVcpu()))
            assert not control.attention
        assert not RunControl(1, lambda: None, lambda: None).attention

    trio.run(main)


def test_a_resume_meant_for_something_before_takes_no_breakpoint_away() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        told: list[Hit] = []
        hit = trio.Event()

        def tell(hits: list[Hit]) -> None:
            told.extend(hits)
            hit.set()

        control.tell_breakpoints(tell)
        control.hit_breakpoint(1, 0x1234)
        control.resume()
        async with attending(control, 0), attending(control, 1):
            await hit.wait()
            assert control.is_paused
            assert len(control._parked) == CPUS
            control.resume()
        assert not control.is_held
        assert told == [Hit(1, 0x1234)]

    in_trio(act)


def test_a_breakpoint_at_the_end_of_the_run_is_none() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        control.end(OVER)
        control.hit_breakpoint(0, 0x1234)
        assert not control.is_held

    in_trio(act)


def test_a_pause_that_is_asked_for_waits_for_nobody_and_holds() -> None:
    async def act(control: RunControl, nursery: trio.Nursery) -> None:
        control.ask_pause()
        assert control.attention
        async with attending(control, 0), attending(control, 1):
            await control.pause()
            await parked(control, CPUS)
            control.resume()
        control.end(OVER)
        control.ask_pause()
        assert not control.is_paused

    in_trio(act)


def test_a_vcpu_is_told_of_each_time_that_it_stood_still_and_not_of_the_start() -> None:
    async def main() -> None:
        control = RunControl(1, lambda: None, lambda: None)
        vcpu = FakeVcpu()

        def attend() -> None:
            assert control.attend(0, cast(Vcpu, vcpu))

        control.enter(0, cast(Vcpu, vcpu))
        attend()
        assert vcpu.pauses == 0
        for count in range(1, 3):
            async with trio.open_nursery() as nursery:
                control.ask_pause()
                nursery.start_soon(trio.to_thread.run_sync, attend)
                await control.pause()
                assert vcpu.pauses == count - 1
                control.resume()
            assert vcpu.pauses == count
        # A call in between is no pause.
        control.call(0, lambda _vcpu: None)
        attend()
        assert vcpu.pauses == 2

    trio.run(main)
