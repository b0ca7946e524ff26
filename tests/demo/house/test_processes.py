# SPDX-License-Identifier: MIT
"""Processes of stages on this machine: what they answer, and that nothing is left of them."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from pyvmm.cli import main as cli_main
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.house import client as client_module
from pyvmm.demo.house.client import Patience, StageGoneError
from pyvmm.demo.house.early import EarlyProcess
from pyvmm.demo.house.houses import HouseFullError, Houses, open_houses
from pyvmm.demo.house.lines import Alive, NoStage, OpenOn, line_of, said
from pyvmm.demo.house.local import local_process
from pyvmm.demo.playing import Playing, playing, playing_here, playing_in
from pyvmm.demo.telling.acts import Look, MakeVm
from pyvmm.demo.telling.chapter import Setup
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.orders import ActDone, DoAct, NotDone, OpenStage, StageLost, StageOpened
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player
from pyvmm.errors import SystemCallError
from tests.process_state import unchanged

PATIENCE = Patience(start=60, silence=60, act=60, end=60)
OPEN = OpenStage(Setup(), frozenset(), (), 1)
ON_MODEL = OpenOn(StageHost.MODEL, OPEN)


@contextmanager
def nothing_left() -> Iterator[None]:
    """No child, descriptor or other state of this process is another than before."""
    before = sorted(os.listdir("/proc/self/fd"))
    with unchanged():
        yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def run(main: Callable[[], Awaitable[None]]) -> None:
    with nothing_left():
        trio.run(main)


def script(text: str) -> tuple[str, ...]:
    """A process that does no more than this."""
    return (sys.executable, "-S", "-c", f"import os, signal, sys, time\n{text}")


async def play_through(reader: Playing) -> tuple[Moment, ...]:
    await reader.begin()
    while reader.player.view.phase not in {Phase.ENDED, Phase.LOST}:
        await reader.move(Plain.NEXT)
    assert reader.player.view.phase is Phase.ENDED, reader.player.view.notice
    return reader.player.moments


def told(moment: Moment) -> Moment:
    """A moment without what is another in every run: durations, and numbers of descriptors."""
    return replace(moment, outcome=replace(moment.outcome, calls=(), seconds=0.0))


@pytest.mark.slow
def test_a_chapter_in_a_process_is_told_as_one_in_this_process() -> None:
    async def main() -> None:
        name = BOOK.chapters[0].id
        async with playing(Player(BOOK, name), StageHost.MODEL) as reader:
            far = await play_through(reader)
        async with playing_here(Player(BOOK, name), StageHost.MODEL) as reader:
            near = await play_through(reader)
        assert [told(one) for one in far] == [told(one) for one in near]
        assert sum(len(one.outcome.calls) for one in far) > 3

    run(main)


@pytest.mark.slow
def test_orders_that_cannot_be_carried_out() -> None:
    async def main() -> None:
        async with local_process(PATIENCE) as client:
            answer = await client.ask(DoAct(Look(), 1))
            assert answer == NotDone("that cannot be tried: there is no stage", 1)
            make = DoAct(MakeVm(0), 1)
            for _ in range(2):
                # A new stage has nothing of the old one.
                assert isinstance(await client.ask(ON_MODEL), StageOpened)
                assert isinstance(await client.ask(make), ActDone)
            again = await client.ask(make)
            assert again == NotDone("that cannot be tried: there is VM 0 already", 1)
            lost = await client.ask(replace(ON_MODEL, order=replace(OPEN, replay=(make, make))))
            assert isinstance(lost, StageLost)
            assert lost.why == "not all could be carried out again: there is VM 0 already"
            none = await client.ask(replace(ON_MODEL, host=StageHost.LAB))
            assert isinstance(none, NoStage)
            assert none.code == 69

    run(main)


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("sys.exit('oh no')", r"its process is gone: it ended with exit code 1 \(oh no\)"),
        ("os.kill(os.getpid(), 9)", "its process is gone: it was killed by SIGKILL"),
        ("print('hello', flush=True)\nsys.stdin.read()", "its process said nonsense: b'hello'"),
        ("os.write(1, b' ' * (4 << 20))\nsys.stdin.read()", "its process said a line of more than"),
        ("os.close(0)\nos.close(1)\ntime.sleep(0.1)", "its process is gone: it ended with"),
    ],
)
def test_a_process_that_is_no_stage_is_lost_with_a_reason(does: str, why: str) -> None:
    async def main() -> None:
        async with local_process(PATIENCE, script(does)) as client:
            with pytest.raises(StageGoneError, match=why):
                await client.ask(ON_MODEL)

    run(main)


def test_one_that_hangs_is_lost_and_killed() -> None:
    hangs = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(9)"

    async def main() -> None:
        impatient = replace(PATIENCE, start=0.2, end=0.2)
        async with local_process(impatient, script(hangs)) as client:
            with pytest.raises(StageGoneError, match=r"nothing was heard of it for 0\.2 s"):
                await client.ask(ON_MODEL)

    run(main)


def test_a_reader_who_goes_away_in_a_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is not killed, since it has things to free, if it ends with its input."""
    monkeypatch.setattr(client_module, "_LOST_END", 60.0)
    freed = tmp_path / "freed"
    hangs = f"sys.stdin.read()\nopen({str(freed)!r}, 'w').close()"

    async def main() -> None:
        async with open_houses(
            StageHost.MODEL,
            patience=PATIENCE,
            process=lambda patience: local_process(patience, script(hangs)),
        ) as houses:
            async with playing_in(houses, Player(BOOK, BOOK.chapters[0].id)) as reader:
                with trio.move_on_after(0.2) as scope:
                    await reader.begin()
                assert scope.cancelled_caught
            assert houses.readers == 0

    run(main)
    assert freed.exists()


def children() -> frozenset[int]:
    """The numbers of this process's children; other tests' labs and browsers may be among them."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return frozenset(map(int, found))


def process_of(others: frozenset[int] = frozenset()) -> int:
    """The number of the only child of this process but for `others`."""
    (child,) = children() - others
    return child


@pytest.mark.slow
def test_a_stage_that_is_killed_is_lost_for_its_reader_and_a_restart_opens_another() -> None:
    others = children()

    async def main() -> None:
        async with playing(Player(BOOK, BOOK.chapters[0].id), StageHost.MODEL) as reader:
            await reader.begin()
            os.kill(process_of(others), signal.SIGKILL)
            await reader.move(Plain.NEXT)
            view = reader.player.view
            assert view.phase is Phase.LOST
            assert view.notice == "its process is gone: it was killed by SIGKILL"
            await reader.move(Plain.RESTART)
            assert reader.player.view.notice == ""
            # A terminal's Ctrl-C is not for it, wherever it comes from.
            os.kill(process_of(others), signal.SIGINT)
            await reader.move(Plain.NEXT)
            assert reader.player.view.phase is Phase.SHOWING

    run(main)


@pytest.mark.slow
def test_one_that_is_started_early_is_the_first_and_ends_if_nobody_takes_it() -> None:
    others = children()

    async def main() -> None:
        with EarlyProcess() as early:
            first = process_of(others)
            async with local_process(PATIENCE, early=early) as client:
                assert isinstance(await client.ask(ON_MODEL), StageOpened)
                assert process_of(others) == first
            async with local_process(PATIENCE, early=early):
                assert process_of(others) != first

    run(main)
    with nothing_left(), EarlyProcess():
        assert process_of(others)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [(("no-such-chapter",), 64), (("--list",), 0)])
def test_a_command_that_plays_nothing_leaves_nothing(
    words: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with nothing_left():
        assert cli_main.main(["demo", *words]) == code
    assert capsys.readouterr().out or code


PATIENT = """
from pyvmm.demo.house import process
process.LAST_PATIENCE = 60.0
raise SystemExit(process.main())
"""


def speak(*data: bytes, does: str = PATIENT) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        (sys.executable, "-c", does),
        check=False,
        input=b"".join(data),
        capture_output=True,
        timeout=60,
    )


@pytest.mark.slow
def test_a_process_ends_with_its_input() -> None:
    opens = line_of(ON_MODEL)
    ended = speak(opens, line_of(DoAct(Look(), 1)))
    assert (ended.returncode, ended.stderr) == (0, b"")
    # What it has not come to when its input ends is not done any more.
    for line in ended.stdout.splitlines():
        said(line)
    told_nonsense = speak(b"hello\n", opens)
    assert told_nonsense.returncode == 1
    # It may end before the first heartbeat, and behind the second.
    assert {said(line) for line in told_nonsense.stdout.splitlines()} <= {Alive()}
    assert told_nonsense.stderr.startswith(b"the process of a stage was told nonsense: b'hello'")


HANGING = """
import time
from pyvmm.demo.house import process, serving
def hang(*_):
    time.sleep(1000)
serving.open_stage = hang
process.LAST_PATIENCE = 0.1
raise SystemExit(process.main())
"""


@pytest.mark.slow
def test_a_process_whose_stage_hangs_ends_with_its_input_all_the_same() -> None:
    ended = speak(line_of(ON_MODEL), does=HANGING)
    assert ended.returncode == -signal.SIGKILL
    assert {said(line) for line in ended.stdout.splitlines()} <= {Alive()}


PARENT = """
import sys, trio
from pyvmm.demo.house.local import local_process
from pyvmm.demo.house import client as client_module
from pyvmm.demo.house.client import Patience
from pyvmm.demo.house.lines import line_of
from tests.demo.house.test_processes import ON_MODEL, process_of
async def main():
    async with local_process(Patience()) as client:
        await client.ask(ON_MODEL)
        print(process_of(), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_by_a_reader_side_that_is_killed(number: signal.Signals) -> None:
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
    )
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(number)
            assert parent.wait(60) != 0
            assert select.select([child], [], [], 60)[0] == [child]
        finally:
            os.close(child)


@pytest.mark.slow
def test_there_are_so_many_readers_and_one_more_is_told_so() -> None:
    async def main() -> None:
        echo = "sys.stdin.read()"
        process = partial(local_process, command=script(echo))
        async with open_houses(StageHost.MODEL, most=32, process=process) as houses:
            async with trio.open_nursery() as nursery:
                entered = [trio.Event() for _ in range(32)]

                async def stay(here: trio.Event) -> None:
                    async with houses.reading():
                        here.set()
                        await trio.sleep_forever()

                for one in entered:
                    nursery.start_soon(stay, one)
                for one in entered:
                    await one.wait()
                with pytest.raises(HouseFullError, match="there are 32 of them, the most at once"):
                    async with houses.reading():
                        pytest.fail("there was room")
                nursery.cancel_scope.cancel()
            assert houses.readers == 0
            async with houses.reading():
                assert houses.readers == 1

    run(main)


@pytest.mark.slow
def test_without_descriptors_a_reader_is_told_so_and_the_next_one_is_served() -> None:
    """With each number of descriptors left, from none to enough; others are not harmed."""
    ends = partial(local_process, command=script("sys.exit()"))

    async def failure_of(houses: Houses) -> str:
        try:
            async with houses.reading() as reading:
                await reading.carry_out(OPEN)
        except (SystemCallError, StageGoneError) as error:
            return error.cause
        return ""

    async def main() -> None:
        name = BOOK.chapters[0].id
        async with (
            playing(Player(BOOK, name), StageHost.MODEL) as other,
            open_houses(StageHost.MODEL, process=ends) as houses,
        ):
            await other.begin()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            open_now = set(map(int, os.listdir("/proc/self/fd")))
            # The first that are free, whatever gaps there are.
            free = [fd for fd in range(max(open_now) + 20) if fd not in open_now]
            causes = []
            for left in range(16):
                with nothing_left():
                    resource.setrlimit(resource.RLIMIT_NOFILE, (free[left], hard))
                    try:
                        causes.append(await failure_of(houses))
                    finally:
                        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await other.move(Plain.NEXT)
            assert other.player.view.phase is Phase.SHOWING
        served = "its process is gone: it ended with exit code 0"
        enough = causes.index(served)
        assert enough > 3
        assert all("Too many open files" in cause for cause in causes[:enough])
        assert causes[enough:] == [served] * (16 - enough)

    run(main)
