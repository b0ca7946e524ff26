# SPDX-License-Identifier: MIT
"""A stage's process that dies, talks nonsense or says nothing is lost, with a reason."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from pyvmm.demo.house.client import Patience, StageClient, StageGoneError
from pyvmm.demo.house.lines import LONGEST, Alive, asked, line_of
from pyvmm.demo.telling.acts import Look
from pyvmm.demo.telling.orders import DoAct, NotDone, StageLost

ORDER = DoAct(Look(), 7)
DONE = NotDone("because", 7)
ALIVE = line_of(Alive())
PATIENCE = Patience(start=240, silence=60, act=120, end=1)


async def nothing(_: bytes) -> None:
    await trio.lowlevel.checkpoint()


def asking(
    says: Callable[[StageClient], Awaitable[None]],
    send: Callable[[bytes], Awaitable[None]] = nothing,
) -> object:
    """Ask the order while `says` speaks for the process; in virtual time."""

    async def main() -> object:
        client = StageClient(send, PATIENCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(says, client)
            try:
                return await client.ask(ORDER)
            except StageGoneError as error:
                assert client.lost == error.cause
                return error.cause
            finally:
                nursery.cancel_scope.cancel()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_comes_in_any_pieces_and_between_heartbeats(size: int) -> None:
    said = ALIVE + line_of(DONE) + ALIVE

    async def speak(client: StageClient) -> None:
        await trio.sleep(1)
        for at in range(0, len(said), size):
            client.feed(said[at : at + size])

    assert asking(speak) == DONE


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"hello\n", "its process said nonsense: b'hello' is no JSON"),
        (line_of(StageLost("x", 8)), "its process answered what it was not asked"),
        (line_of(DONE) * 2, "its process answered what it was not asked"),
        (line_of(ORDER), "its process said nonsense: 'DoAct' is no kind of value to be there"),
        (b" " * LONGEST, f"its process said a line of more than {LONGEST} bytes"),
    ],
)
def test_nonsense_loses_it(said: bytes, why: str) -> None:
    async def main() -> None:
        client = StageClient(nothing, PATIENCE)

        async def speak() -> None:
            await trio.sleep(1)
            client.feed(said)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            if said == line_of(DONE) * 2:
                assert await client.ask(ORDER) == DONE
            with pytest.raises(StageGoneError) as caught:
                await client.ask(ORDER)
        assert caught.value.cause.startswith(why)
        assert client.lost == caught.value.cause

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("beats", "at", "why"),
    [
        ((), 240, "nothing was heard of it for 240 s"),
        ((200,), 260, "nothing was heard of it for 60 s"),
        ((50, 100), 160, "nothing was heard of it for 60 s"),
        ((230, 280, 330), 350, "it did not answer in 120 s"),
    ],
)
def test_silence_loses_it(beats: tuple[int, ...], at: int, why: str) -> None:
    async def beat_for_a_while(client: StageClient) -> None:
        begun = trio.current_time()
        for moment in beats:
            await trio.sleep_until(begun + moment)
            client.feed(ALIVE)

    async def main() -> None:
        begun = trio.current_time()
        client = StageClient(nothing, PATIENCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat_for_a_while, client)
            with pytest.raises(StageGoneError, match=why):
                await client.ask(ORDER)
            assert trio.current_time() - begun == pytest.approx(at, abs=1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_it_runs_in_is_heard_and_is_no_word_of_its_own() -> None:
    """So it may load for long, and be silent for long, while its lab says other things."""

    async def speak(client: StageClient) -> None:
        begun = trio.current_time()
        await trio.sleep_until(begun + 200)
        client.hear()
        await trio.sleep_until(begun + 300)
        client.feed(ALIVE)
        await trio.sleep_until(begun + 350)
        client.hear()
        found = []
        for moment in (409, 411):
            await trio.sleep_until(begun + moment)
            found.append(client.lost)
        assert found == ["", "nothing was heard of it for 60 s"]

    assert asking(speak) == "nothing was heard of it for 60 s"


async def beat(client: StageClient) -> None:
    while True:
        await trio.sleep(5)
        client.feed(ALIVE)


def test_a_process_that_is_there_and_does_not_come_to_an_end_is_lost() -> None:
    assert asking(beat) == "it did not answer in 120 s"


def test_a_process_that_takes_no_order_is_lost() -> None:
    async def never(_: bytes) -> None:
        await trio.sleep(math.inf)

    assert asking(beat, never) == "it did not answer in 120 s"


def test_one_that_is_gone_says_why_when_its_output_has_ended() -> None:
    async def broken(_: bytes) -> None:
        raise trio.BrokenResourceError

    async def end(client: StageClient) -> None:
        await trio.sleep(1)
        client.lose("its process is gone: it was killed by SIGKILL")

    assert asking(end, broken) == "its process is gone: it was killed by SIGKILL"


def test_a_reader_who_goes_away_in_a_step_leaves_it_lost() -> None:
    sent = []

    async def send(data: bytes) -> None:
        sent.append(asked(data[:-1]))
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        client = StageClient(send, PATIENCE)
        with trio.move_on_after(1):
            await client.ask(ORDER)
        assert client.lost == "the reader went away in the middle of a step"
        with pytest.raises(StageGoneError, match="in the middle of a step"):
            await client.ask(ORDER)
        assert sent == [ORDER]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_was_said_while_this_process_was_stopped_is_heard() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def speak(client: StageClient) -> None:
        client.feed(ALIVE)
        await trio.sleep(5)
        clock.jump(600)
        # What is in the pipe is read after the clock has been looked at.
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        client.feed(line_of(DONE))

    async def main() -> None:
        client = StageClient(nothing, PATIENCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, client)
            assert await client.ask(ORDER) == DONE

    trio.run(main, clock=clock)
