# SPDX-License-Identifier: MIT
"""Stages in the lab, with a keeper that is a socket of the test's; and where a stage is opened."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.house import houses as houses_module
from pyvmm.demo.house import lab as lab_module
from pyvmm.demo.house.client import Patience, StageClient, StageGoneError
from pyvmm.demo.house.houses import open_houses
from pyvmm.demo.house.lab import LabHouse
from pyvmm.demo.house.lines import NoStage, OpenOn, asked, line_of
from pyvmm.demo.playing import playing_in
from pyvmm.demo.telling.acts import Look
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.orders import DoAct, NotDone, OpenStage, StageOpened
from pyvmm.demo.telling.outcomes import Observed, Staged, StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player
from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.lab import failures, starting
from pyvmm.lab.failures import LabError, LabLostError
from pyvmm.lab.protocol import (
    Decoder,
    Frame,
    FrameType,
    Request,
    StartFlag,
    Step,
    Stream,
    credit,
)
from pyvmm.lab.settings import SOCKET_NAME
from tests.process_state import unchanged

PATIENCE = Patience(start=60, silence=60, act=60, end=60)
OPEN = OpenStage(Setup(), frozenset(), (), 1)
ON_KVM = OpenOn(StageHost.KVM, OPEN)
OPENED = StageOpened(Staged(StageHost.KVM, "7.3.4"), Observed(), 1)
EXITED = Frame(FrameType.EXITED, payload=struct.pack("<II", 0, 0))


def says(data: bytes, stream: Stream = Stream.OUTPUT) -> Frame:
    return Frame(FrameType.DATA, stream, payload=data)


class Keeper:
    """The other end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._frames = Decoder()
        self._heard: list[Frame] = []

    async def hear(self, kind: FrameType) -> Frame:
        """The next frame of a kind; others before it are passed over."""
        while True:
            while self._heard:
                frame = self._heard.pop(0)
                if frame.type == kind:
                    return frame
            self._heard += self._frames.feed(bytes(await self._stream.receive_some(1 << 16)))

    async def say(self, *frames: Frame) -> None:
        await self._stream.send_all(b"".join(frame.encode() for frame in frames))

    async def close(self) -> None:
        await self._stream.aclose()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Keepers' ends of connections, as they are made."""
    made: list[socket.socket] = []

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        made.append(theirs)
        return ours

    monkeypatch.setattr(starting, "connect", connect)
    monkeypatch.setattr(LabHouse, "is_up", lambda self: True)
    return made


@asynccontextmanager
async def process(
    ends: list[socket.socket], patience: Patience = PATIENCE
) -> AsyncIterator[tuple[StageClient, Keeper, LabHouse]]:
    house = LabHouse(lambda told: None)
    async with house.process(patience) as client:
        keeper = Keeper(ends.pop())
        try:
            yield client, keeper, house
        finally:
            await keeper.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with unchanged():
        trio.run(main)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_orders_and_answers_go_by_frames(
    ends: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_module, "WINDOW", 100)

    async def answer(keeper: Keeper) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += (await keeper.hear(FrameType.DATA)).payload
            await keeper.say(credit(Stream.INPUT, 10))
        assert asked(line[:-1]) == ON_KVM
        said = line_of(OPENED)
        await keeper.say(says(b"a warning\n", Stream.ERROR), says(said[:9]), says(said[9:]))
        grants = [(await keeper.hear(FrameType.CREDIT)).words()[0] for _ in range(3)]
        assert grants == [10, 9, len(said) - 9]
        assert (await keeper.hear(FrameType.CLOSE)).stream == Stream.INPUT
        await keeper.say(EXITED)

    async def main() -> None:
        house = LabHouse(lambda told: None)
        async with trio.open_nursery() as nursery:
            async with house.process(PATIENCE) as client:
                keeper = Keeper(ends.pop())
                request = Request.decode((await keeper.hear(FrameType.START)).payload)
                assert request.arguments[1:] == (b"demo", b"--stage-process")
                assert request.flags == StartFlag.MAY_FORK
                assert request.token
                nursery.start_soon(answer, keeper)
                assert await client.ask(ON_KVM) == OPENED
                assert house.stages == 1
            await keeper.close()
        assert (house.stages, house.lost) == (0, "")

    run(main)


FAILED = failures.to_bytes(LabLostError("go on", "QEMU was killed by SIGKILL"))


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (
            [Frame(FrameType.FAILED, payload=FAILED)],
            "the lab was lost (QEMU was killed by SIGKILL)",
        ),
        ([], "the lab was lost (the process that keeps it has ended)"),
        ([EXITED], "its process is gone: it ended with exit code 0"),
        (
            [
                says(b"Traceback\noh no\n", Stream.ERROR),
                Frame(FrameType.EXITED, payload=struct.pack("<II", 1, 9)),
            ],
            "its process is gone: it was ended by signal 9 (oh no)",
        ),
        (
            [Frame(FrameType.REFUSED, payload=struct.pack("<II", Step.EXECUTE, errno.ENOENT))],
            "its process is gone: it could not be started: No such file or directory",
        ),
        ([says(b"hello\n")], "its process said nonsense: b'hello' is no JSON"),
    ],
)
def test_a_process_there_is_lost_with_a_reason(
    ends: list[socket.socket], frames: list[Frame], why: str
) -> None:
    async def main() -> None:
        async with process(ends) as (client, keeper, house):
            await keeper.say(*frames)
            if not why.startswith("its process said"):
                await keeper.close()
            with pytest.raises(StageGoneError) as caught:
                await client.ask(ON_KVM)
            assert caught.value.cause.startswith(why)
        assert house.lost == (why if why.startswith("the lab") else "")

    run(main)


def test_a_lab_that_says_nothing_is_lost(ends: list[socket.socket]) -> None:
    async def main() -> None:
        async with process(ends, replace(PATIENCE, start=0.2, end=0.2)) as (client, _, _):
            with pytest.raises(StageGoneError, match=r"the lab was lost \(nothing was heard of it"):
                await client.ask(ON_KVM)

    run(main)


def test_a_lab_that_does_other_things_is_heard(ends: list[socket.socket]) -> None:
    async def main() -> None:
        patience = replace(PATIENCE, silence=1, act=90)
        async with process(ends, patience) as (client, keeper, _):
            assert client._patience == replace(patience, silence=90)
            client._quiet = 50.0
            await keeper.say(credit(Stream.INPUT, 1))
            while client._quiet:
                await trio.sleep(0.01)

    run(main)


def test_what_is_no_frame_loses_the_lab(ends: list[socket.socket]) -> None:
    async def main() -> None:
        async with process(ends) as (client, keeper, _):
            await keeper._stream.send_all(b"\xff" * 12)
            with pytest.raises(StageGoneError, match="the lab was lost"):
                await client.ask(ON_KVM)

    run(main)


def test_a_start_that_nobody_waits_for_any_more_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_for, may_go_on = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()
    held, other = socket.socketpair()
    closed: list[bool] = []

    def share(_: object) -> tuple[socket.socket, socket.socket]:
        asked_for.set()
        assert may_go_on.wait(60)
        return ours, held

    monkeypatch.setattr(starting, "connect", lambda **_: None)
    monkeypatch.setattr(starting, "share", share)
    monkeypatch.setattr(lab_module, "LabWishes", FakeWishes)
    heard: list[str] = []

    async def main() -> None:
        house = LabHouse(heard.append)
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                async with house.process(PATIENCE):
                    closed.append(False)

            nursery.start_soon(start)
            await trio.to_thread.run_sync(asked_for.wait)
            nursery.cancel_scope.cancel()
        assert house.stages == 0

    with theirs, other:
        trio.run(main)
        may_go_on.set()
        for end in (theirs, other):
            end.settimeout(60)
            assert end.recv(1) == b""
    assert (closed, heard) == ([], ["starting a lab, which takes some seconds"])


def test_a_keeper_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All readers' tasks are on the thread that asks whether a lab is up."""
    monkeypatch.setattr(starting, "run_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.bind(SOCKET_NAME)
        keeper.listen(1)
        house = LabHouse(lambda told: None)
        # Each leaves a connection in the queue, which nobody takes from it.
        answers = [house.is_up() for _ in range(5)]
        assert (answers[0], answers[-1]) == (True, False)
        keeper.accept()[0].close()
        assert house.is_up()


class FakeWishes:
    """Wishes whose lab needs no kernel."""

    def settings(self) -> None:
        return None


# -- where a stage is opened --


class Speaking:
    """Processes that answer by a table, in the place of those here and in the lab."""

    def __init__(self, place: str, offers: dict[StageHost, frozenset[Need]]) -> None:
        self.place = place
        self.code = 69
        self.refused = 0
        self.offers = offers
        self.opened: list[StageHost] = []
        self.now = 0
        self.clients: list[StageClient] = []

    @asynccontextmanager
    async def process(self, patience: Patience) -> AsyncIterator[StageClient]:
        client = StageClient(self._answer, patience)
        self.clients.append(client)
        self.now += 1
        try:
            yield client
        finally:
            self.now -= 1
            self.clients.remove(client)

    async def _answer(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        order = asked(data[:-1])
        client = self.clients[-1]
        if isinstance(order, DoAct):
            client.feed(line_of(NotDone(self.place, order.ticket)))
            return
        wanted, ticket = order.order, order.order.ticket
        if order.host not in self.offers:
            client.feed(line_of(NoStage(self.code, "open", "there is none", "", ticket)))
        elif wanted.needs - self.offers[order.host]:
            self.refused += 1
            client.feed(line_of(NoStage(69, "open", "it lacks something", "", ticket)))
        else:
            self.opened.append(order.host)
            opened = StageOpened(Staged(order.host, "6.18"), Observed(), ticket)
            client.feed(line_of(opened))


ALL = frozenset(Need)
NONE = frozenset[Need]()
PRIVATE = frozenset({Need.PRIVATE})
IN_PLACE = frozenset({Need.IN_PLACE})
HERE = {StageHost.KVM: NONE, StageHost.MODEL: ALL}
NO_KVM = {StageHost.MODEL: ALL}


@pytest.mark.parametrize(
    ("wish", "here", "is_up", "needs", "host", "why"),
    [
        (None, HERE, True, NONE, "kvm", ""),
        (None, HERE, True, PRIVATE, "lab", "not on this machine's KVM: it lacks something"),
        (None, NO_KVM, True, NONE, "lab", "not on this machine's KVM: there is none"),
        (None, HERE, False, PRIVATE, "model", "not on this machine's KVM: it lacks something"),
        (
            None, HERE, True, IN_PLACE, "model",
            "not on this machine's KVM: it lacks something; not in the lab: it lacks something",
        ),
        (StageHost.LAB, HERE, True, NONE, "lab", ""),
        (StageHost.LAB, HERE, False, NONE, "lab", ""),
        (StageHost.LAB, HERE, True, IN_PLACE, "model", "not in the lab: it lacks something"),
        (StageHost.MODEL, HERE, True, PRIVATE, "model", ""),
        (StageHost.KVM, HERE, True, NONE, "kvm", ""),
        (StageHost.KVM, HERE, True, PRIVATE, HostLacksError, "it lacks something"),
        (StageHost.KVM, NO_KVM, True, NONE, HostLacksError, "there is none"),
    ],
)  # fmt: skip
def test_the_host_of_a_stage(
    monkeypatch: pytest.MonkeyPatch,
    wish: StageHost | None,
    here: dict[StageHost, frozenset[Need]],
    is_up: bool,
    needs: frozenset[Need],
    host: str | type[Exception],
    why: str,
) -> None:
    local, in_lab = Speaking("here", here), Speaking("lab", {StageHost.KVM: PRIVATE})
    monkeypatch.setattr(LabHouse, "is_up", lambda self: is_up)
    monkeypatch.setattr(LabHouse, "process", lambda self, patience: in_lab.process(patience))

    async def main() -> None:
        async with open_houses(wish, process=local.process) as houses, houses.reading() as reading:
            order = replace(OPEN, needs=needs)
            if not isinstance(host, str):
                with pytest.raises(host, match=why):
                    await reading.carry_out(order)
                assert await reading.carry_out(DoAct(Look(), 1)) == NotDone("there is no stage", 1)
                return
            told = await reading.carry_out(order)
            assert isinstance(told, StageOpened)
            assert (told.staged.host.value, told.staged.why) == (host, why)
            place = "lab" if host == "lab" else "here"
            assert await reading.carry_out(DoAct(Look(), 1)) == NotDone(place, 1)
            # A process in the lab is kept as long as the reader's stage is there.
            assert in_lab.now == (host == "lab")
        assert (local.now, in_lab.now) == (0, 0)

    run(main)


def test_a_reader_who_goes_on_elsewhere_leaves_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    local, in_lab = Speaking("here", HERE), Speaking("lab", {StageHost.KVM: PRIVATE})
    monkeypatch.setattr(LabHouse, "is_up", lambda self: True)
    monkeypatch.setattr(LabHouse, "process", lambda self, patience: in_lab.process(patience))

    async def main() -> None:
        async with open_houses(None, process=local.process) as houses, houses.reading() as reading:
            hosts = []
            for needs in (PRIVATE, PRIVATE, NONE, PRIVATE, IN_PLACE, IN_PLACE):
                told = await reading.carry_out(replace(OPEN, needs=needs))
                assert isinstance(told, StageOpened)
                hosts.append((told.staged.host.value, in_lab.now, local.now))
            on_lab = ("lab", 1, 1)
            assert hosts == [on_lab, on_lab, ("kvm", 0, 1), on_lab, *[("model", 0, 1)] * 2]
        assert len(in_lab.opened) == 3
        # What its kernel has not is not asked for again.
        assert in_lab.refused == 1

    run(main)


@pytest.mark.parametrize(("code", "is_next"), [(69, True), (77, True), (64, False), (71, False)])
def test_the_next_host_is_tried_only_where_one_is_not_there(
    monkeypatch: pytest.MonkeyPatch, code: int, is_next: bool
) -> None:
    local = Speaking("here", NO_KVM)
    local.code = code
    monkeypatch.setattr(LabHouse, "is_up", lambda self: False)

    async def main() -> None:
        async with open_houses(None, process=local.process) as houses, houses.reading() as reading:
            if is_next:
                assert isinstance(await reading.carry_out(OPEN), StageOpened)
                return
            with pytest.raises(PyvmmError, match="there is none") as caught:
                await reading.carry_out(OPEN)
            assert caught.value.exit_code == code

    run(main)


def test_a_lab_has_room_for_so_many_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    local, in_lab = Speaking("here", NO_KVM), Speaking("lab", {StageHost.KVM: ALL})
    monkeypatch.setattr(LabHouse, "is_up", lambda self: True)

    @asynccontextmanager
    async def counted(house: LabHouse, patience: Patience) -> AsyncIterator[StageClient]:
        house.stages += 1
        async with in_lab.process(patience) as client:
            yield client
        house.stages -= 1

    monkeypatch.setattr(LabHouse, "process", counted)
    monkeypatch.setattr(houses_module, "MOST_IN_LAB", 1)

    async def main() -> None:
        async with open_houses(StageHost.LAB, process=local.process) as houses:
            async with houses.reading() as first, houses.reading() as second:
                told = await first.carry_out(OPEN)
                again = await first.carry_out(OPEN)
                refused = await second.carry_out(OPEN)
                for one, host in ((told, "lab"), (again, "lab"), (refused, "model")):
                    assert isinstance(one, StageOpened)
                    assert one.staged.host.value == host
                assert isinstance(refused, StageOpened)
                assert refused.staged.why == "not in the lab: it has 1 stages, the most at once"
            async with houses.reading() as third:
                free = await third.carry_out(OPEN)
                assert isinstance(free, StageOpened)
                assert free.staged.host is StageHost.LAB

    run(main)


def test_a_lab_that_dies_in_a_chapter_is_told_and_the_chapter_goes_on_on_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local, in_lab = Speaking("here", HERE), Speaking("lab", {StageHost.KVM: ALL})
    is_up = [True]
    monkeypatch.setattr(LabHouse, "is_up", lambda self: is_up[0])
    monkeypatch.setattr(LabHouse, "process", lambda self, patience: in_lab.process(patience))

    async def main() -> None:
        async with open_houses(StageHost.LAB, process=local.process) as houses:
            async with playing_in(houses, Player(BOOK, BOOK.chapters[0].id)) as reader:
                await reader.begin()
                is_up[0] = False
                houses.lab.lost = "the lab was lost (its kernel panicked)"
                in_lab.clients[0].lose(houses.lab.lost)
                await reader.move(Plain.NEXT)
                view = reader.player.view
                assert (view.phase, view.notice) == (Phase.LOST, houses.lab.lost)
                await reader.move(Plain.RESTART)
                view = reader.player.view
                assert view.phase is Phase.ASKING
                assert view.staged is not None
                assert view.staged.host is StageHost.MODEL
                assert view.staged.why == f"not in the lab: {houses.lab.lost}"

    run(main)


def test_a_lab_that_cannot_be_started_is_an_error_at_first_and_a_lost_stage_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = Speaking("here", HERE)
    is_up = [True]
    in_lab = Speaking("lab", {StageHost.KVM: NONE})

    @asynccontextmanager
    async def failing(house: LabHouse, patience: Patience) -> AsyncIterator[StageClient]:
        if not is_up[0]:
            raise LabError("bring up a lab", "it took over 150 s")
        async with in_lab.process(patience) as client:
            yield client

    monkeypatch.setattr(LabHouse, "is_up", lambda self: is_up[0])
    monkeypatch.setattr(LabHouse, "process", failing)

    async def main() -> None:
        async with open_houses(StageHost.LAB, process=local.process) as houses:
            async with playing_in(houses, Player(BOOK, BOOK.chapters[0].id)) as reader:
                is_up[0] = False
                with pytest.raises(LabError, match="it took over 150 s"):
                    await reader.begin()
                is_up[0] = True
                await reader.move(Plain.RESTART)
                is_up[0] = False
                in_lab.clients[0].lose("the lab was lost (why)")
                await reader.move(Plain.NEXT)
                assert reader.player.view.notice == "the lab was lost (why)"
                await reader.move(Plain.RESTART)
                assert reader.player.view.phase is Phase.LOST
                assert reader.player.view.notice == "cannot bring up a lab: it took over 150 s"

    run(main)
