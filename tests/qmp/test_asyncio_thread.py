# SPDX-License-Identifier: MIT
"""An asyncio library beside trio: what it returns and raises, how it is cancelled and ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio

from pyvmm.qmp.asyncio_thread import AsyncioThread, open_asyncio
from tests.process_state import unchanged


def within(act: Callable[[AsyncioThread], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(240):
            async with open_asyncio() as library:
                await act(library)

    with unchanged():
        trio.run(main)


async def add(one: int, other: int) -> int:
    await asyncio.sleep(0)
    return one + other


def test_what_it_returns_and_raises() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    async def act(library: AsyncioThread) -> None:
        assert await library.run(add, 1, 2) == 3
        with pytest.raises(KeyError, match="mine"):
            await library.run(fail)
        assert await library.run(add, 3, 4) == 7

    within(act)


def test_calls_that_are_under_way_together() -> None:
    meeting: list[asyncio.Event] = []

    async def wait() -> int:
        meeting.append(asyncio.Event())
        await meeting[0].wait()
        return threading.get_ident()

    async def release() -> int:
        meeting[0].set()
        return threading.get_ident()

    async def act(library: AsyncioThread) -> None:
        seen = []

        async def waiting() -> None:
            seen.append(await library.run(wait))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            while not meeting:
                await trio.sleep(0.001)
            seen.append(await library.run(release))
        assert len(set(seen)) == 1
        assert threading.get_ident() not in seen

    within(act)


def test_a_cancelled_call_is_cancelled_there() -> None:
    began, ended = threading.Event(), threading.Event()

    async def hang() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    async def act(library: AsyncioThread) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(library.run, hang)
                while not began.is_set():
                    await trio.sleep(0.001)
                scope.cancel()
        assert scope.cancelled_caught
        # It has had the time to clean up.
        assert ended.is_set()
        assert await library.run(add, 1, 1) == 2

    within(act)


def test_what_still_runs_is_ended_with_the_loop() -> None:
    ended = []

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    async def leave() -> None:
        kept.append(asyncio.create_task(hang()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []

    async def act(library: AsyncioThread) -> None:
        await library.run(leave)

    within(act)
    assert ended == [True]
    assert kept[0].cancelled()


def test_a_call_that_the_library_gives_up_is_an_end_of_the_connection() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def act(library: AsyncioThread) -> None:
        with pytest.raises(EOFError):
            await library.run(give_up)

    within(act)


def test_it_works_beside_other_loops() -> None:
    async def act(library: AsyncioThread) -> None:
        assert await library.run(add, 1, 2) == 3

    asyncio.run(add(1, 2))
    within(act)
    asyncio.run(add(1, 2))


def test_an_error_in_the_block_comes_out_and_the_loop_ends() -> None:
    async def act(library: AsyncioThread) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        within(act)
