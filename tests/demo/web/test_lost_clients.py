# SPDX-License-Identifier: MIT
"""Clients that are lost, slow or hostile: their machines are freed, and nobody else notices."""

from __future__ import annotations

import gc
import os
import random
import socket
import warnings
from contextlib import suppress

import pytest
import trio

from pyvmm.demo.web import admission, site, visitors, websocket
from pyvmm.demo.web.admission import Head, Role
from pyvmm.demo.web.messages import MESSAGE_LIMIT, Story
from pyvmm.demo.web.site import MOST_READERS
from pyvmm.demo.web.websocket import WebSocket
from tests.demo.web import client
from tests.demo.web.client import CONTINUED, LINKS, PING, TEXT, Server, Tab, frame, reset, run


def no_grace() -> None:
    """From here on machines are freed with their last tab."""
    visitors.GRACE = 0


async def works(server: Server) -> None:
    """Another reader comes, makes a step, and leaves."""
    async with server.tab(await server.enter()) as tab:
        await tab.until("@phase", "asking")
        await tab.send(move="next")
        await tab.until("@phase", "showing")
        await tab.send(leave="machine")
        assert await tab.closed_with() == 1001


def test_a_reset_in_the_middle_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    # A response beyond all buffers, so that it is on its way when its reader goes.
    monkeypatch.setattr("pyvmm.demo.web.connection.document", lambda *_: "x" * (16 << 20))

    async def main(server: Server) -> None:
        alone = trio.lowlevel.current_statistics().tasks_living
        for _ in range(3):
            stream = await server.connect()
            await stream.send_all(server.head("GET", "/"))
            assert await stream.receive_some(1000)
            reset(stream)
        await works(server)
        while trio.lowlevel.current_statistics().tasks_living > alone:
            await trio.sleep(0.01)

    run(main)


def test_a_closed_and_a_reset_tab_free_their_machines() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            assert server.site.visitors == 1
            no_grace()
        await server.until_visitors(0)
        visitors.GRACE = 60
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            await tab.send(move="next")
            no_grace()
            tab.reset()
        await server.until_visitors(0)
        # Entered, and never came.
        await server.enter()
        await server.until_visitors(0)

    run(main)


def test_a_reload_keeps_the_machine_and_leaving_frees_it_at_once() -> None:
    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as tab:
            await tab.until("@phase", "asking")
            await tab.send(move="next")
            await tab.until("@phase", "showing")
            outcome = tab.parts["outcome"]
        async with server.tab(cookie) as tab:
            await tab.message()
            assert tab.parts["outcome"] == outcome
            await tab.send(leave="machine")
            assert await tab.closed_with() == 1001
        await server.until_visitors(0)

    run(main)


def test_who_comes_back_before_the_machine_left_is_freed_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(server: Server) -> None:
        monkeypatch.setattr(client, "may_end", may_end := trio.Event())
        try:
            await comes_back(server, may_end)
        finally:
            may_end.set()

    async def comes_back(server: Server, may_end: trio.Event) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as tab:
            await tab.until("@phase", "asking")
            await tab.send(leave="machine")
            while not any(one.is_leaving for one in server.site.living):
                await trio.sleep(0.01)
            async with server.tab(cookie) as again:
                await again.until("@phase", "asking")
                assert server.site.visitors == 2
                may_end.set()
                assert await tab.closed_with() == 1001
                await server.until_visitors(1)
                await again.send(move="next")
                await again.until("@phase", "showing")

    run(main)


def test_bytes_that_are_broken_harm_nobody() -> None:
    async def main(server: Server) -> None:
        cookie = await server.enter()
        whole = (
            server.head("GET", "/", cookie),
            server.head("POST", "/enter", f"Origin: {server.origin}", "Content-Length: 3") + b"abc",
            server.upgrade(cookie) + frame(TEXT, b'{"move": "next"}'),
            server.upgrade(cookie) + frame(TEXT, b"{", is_last=False) + frame(PING, b"x"),
        )
        async with server.tab(cookie) as tab:
            for seed in range(200):
                chance = random.Random(seed)
                data = bytearray(chance.choice(whole))
                for _ in range(chance.randrange(1, 6)):
                    at = chance.randrange(len(data))
                    data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
                async with await server.connect() as stream:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(data[: chance.randrange(len(data) + 1)])
                        await stream.send_eof()
                        async for _ in stream:
                            pass
            await tab.send(jump=LINKS[0])
            await tab.until("@phase", "asking")

    run(main)


def test_a_half_open_connection_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT", 0.02)

    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            no_grace()
            while (await tab.frame())[0] != PING:
                pass
            # From here on it is impatient, and gets no answer.
            monkeypatch.setattr(websocket, "STALLED", 0.2)
            with pytest.raises(EOFError):
                while True:
                    await tab.frame()
            await server.until_visitors(0)

    run(main)


def test_a_tab_that_answers_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT", 0.01)

    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            for _ in range(20):
                kind, _ = await tab.frame()
                assert kind in {TEXT, PING}

    run(main)


@pytest.mark.parametrize("behind", [b"X", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", frame(3, b"")])
def test_stray_bytes_behind_the_upgrade(behind: bytes) -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter(), behind) as tab:
            await tab.stream.send_eof()
            with pytest.raises(EOFError):
                while True:
                    await tab.frame()
            await works(server)

    run(main)


def test_a_message_behind_the_upgrade_is_taken() -> None:
    async def main(server: Server) -> None:
        behind = frame(TEXT, b'{"move": "no"}')
        async with server.tab(await server.enter(), behind) as tab:
            while "notice" not in await tab.message():
                pass

    run(main)


def test_a_cancelled_server_leaves_no_socket_and_no_task() -> None:
    before = set(os.listdir("/proc/self/fd"))
    left: list[socket.socket] = []

    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            # These outlive the server: in the middle of a head, with a response, with a tab.
            upgrade = server.upgrade(await server.enter())
            for data in (b"GET / HT", server.head("GET", "/"), upgrade):
                stream = await server.connect()
                await stream.send_all(data)
                left.append(socket.socket(fileno=os.dup(stream.socket.fileno())))
                stream.socket.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        run(main)
        gc.collect()
    for one in left:
        one.settimeout(60)
        while True:
            try:
                if not one.recv(1 << 16):
                    break
            except ConnectionResetError:
                break
        one.close()
    # Less where earlier tests had left something to be collected.
    assert len(os.listdir("/proc/self/fd")) <= len(before)


FRAGMENT = b"z" * 4000


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"z" * (1 << 20)),
        frame(TEXT, b"z" * (MESSAGE_LIMIT + 1)),
        frame(TEXT, FRAGMENT, is_last=False)
        + b"".join(frame(CONTINUED, FRAGMENT, is_last=False) for _ in range(262)),
    ],
    ids=["1 MiB", "a byte too many", "1 MiB in fragments"],
)
def test_a_message_beyond_the_limit_closes_with_1009(data: bytes) -> None:
    async def main(server: Server) -> None:
        for behind in (b"", data):
            async with server.tab(await server.enter(), behind) as tab:
                if not behind:
                    await tab.stream.send_all(data)
                assert await tab.closed_with() == 1009
                await works(server)

    run(main)


def test_a_message_of_the_limit_is_taken() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.stream.send_all(frame(TEXT, b"[" * MESSAGE_LIMIT))
            while "notice" not in await tab.message():
                pass

    run(main)


def test_a_slow_reader_holds_up_nobody_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [1]
    monkeypatch.setattr(websocket, "HEARTBEAT", client.BOUND)
    monkeypatch.setattr(Story, "since", lambda _self, _number: "x" * sizes[-1])

    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as tab:
            await tab.frame()
            no_grace()
            # From here on it takes nothing, and messages are beyond all buffers.
            monkeypatch.setattr(websocket, "STALLED", 0.2)
            sizes.append(16 << 20)
            visitor = server.site.visitor(cookie.partition("=")[2], Role.READER)
            assert visitor is not None
            visitor.tell({"mine": "something new"})
            # What others are told is as large, so it is another route that is asked.
            status, _, _ = await server.ask(server.head("GET", "/"))
            assert status == 200
            await server.until_visitors(0)

    run(main)


def test_a_goodbye_comes_behind_a_message_that_was_interrupted() -> None:
    async def main(server: Server) -> None:
        text = "x" * (16 << 20)  # Beyond all buffers.
        lines = server.upgrade().decode().split("\r\n")[1:-2]
        pairs = (one.split(": ", 1) for one in lines)
        head = Head("GET", "/live", tuple((name.lower(), value) for name, value in pairs))
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            near = await trio.open_tcp_stream("127.0.0.1", port)
            far = await listener.accept()
        async with near, far:
            socket = WebSocket(far, server.origin)
            assert await socket.shake_hands(head)
            with trio.move_on_after(0.05) as scope:
                await socket.send(text)
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(socket.close, 1001, "left")
                data = b""
                while b"\r\n\r\n" not in data:
                    data += await near.receive_some(1000)
                tab = Tab(near, data.partition(b"\r\n\r\n")[2])
                assert await tab.frame() == (TEXT, text.encode())
                assert await tab.closed_with() == 1001
                await near.send_eof()

    run(main)


def test_a_reader_who_was_away_gets_what_is_new_in_one_message() -> None:
    story = Story()
    for number in range(1000):
        story.tell({"says": str(number), "calls": "same"})
    assert '"calls"' not in story.since(999)
    assert '"says": "999"' in story.since(1)
    assert '"whole": true' in story.since(0)
    assert '"whole": true' in story.since(1001)
    story.tell({"says": "x"})
    assert '"calls": ""' in story.since(1000)


def test_a_defect_that_a_message_finds_ends_that_connection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: str) -> None:
        raise ZeroDivisionError("oh no")

    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as other, server.tab(cookie) as tab:
            await tab.until("@phase", "asking")
            with monkeypatch.context() as patch:
                patch.setattr("pyvmm.demo.web.connection.read_asked", fails)
                await tab.send(move="next")
                with pytest.raises(EOFError):
                    while True:
                        await tab.frame()
            # The tab is closed first, and what ended it is said behind that.
            while not client.said:
                await trio.sleep(0.01)
            assert client.said == ["a defect of pyvmm ended a connection: ZeroDivisionError: oh no"]
            await other.send(move="next")
            await other.until("@phase", "showing")

    run(main)


def test_a_page_is_open_so_many_times_and_one_more_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(visitors, "MOST_TABS", 2)

    async def main(server: Server) -> None:
        cookie = await server.enter()
        async with server.tab(cookie) as tab:
            async with server.tab(cookie):
                for data in (server.upgrade(cookie), server.head("GET", "/live", cookie)):
                    status, _, body = await server.ask(data)
                    assert (status, b"already: close one" in body) == (503, True)
            await works(server)
            while (await server.ask(server.head("GET", "/live", cookie)))[0] == 503:
                await trio.sleep(0.01)
            async with server.tab(cookie):
                await tab.send(move="next")
                await tab.until("@phase", "showing")

    run(main)


def test_many_who_find_no_place_do_not_drive_out_who_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "_COOKIES_KEPT", 2)
    monkeypatch.setattr(site, "MOST_READERS", 2)

    async def main(server: Server) -> None:
        cookies = [await server.enter() for _ in range(2)]
        for _ in range(3):
            assert (await server.try_to_enter())[0] == 503
        assert len(server.site.admission._cookies) == 2
        for cookie in cookies:
            assert (await server.ask(server.head("GET", "/live", cookie)))[0] == 204
        monkeypatch.setattr(site, "MOST_READERS", 3)
        # The oldest goes.
        third = await server.enter()
        for cookie, status in zip((*cookies, third), (403, 204, 204), strict=True):
            assert (await server.ask(server.head("GET", "/live", cookie)))[0] == status

    run(main)


def test_the_33rd_reader_is_told_so_and_the_first_to_leave_makes_room() -> None:
    async def main(server: Server) -> None:
        cookies = [await server.enter() for _ in range(MOST_READERS)]
        status, _, body = await server.try_to_enter()
        assert (status, b"places are taken" in body) == (503, True)
        async with server.tab(cookies[0]) as tab:
            await tab.send(leave="machine")
            await tab.closed_with()
        await server.until_visitors(MOST_READERS - 1)
        await server.enter()
        # Whose cookie is known has no more right to a place than a newcomer.
        for path in ("/", "/live"):
            status, _, body = await server.ask(server.head("GET", path, cookies[0]))
            assert (status, b"places are taken" in body) == (503, True)

    run(main)


def test_what_is_no_step_is_told_and_the_third_closes_with_1008() -> None:
    async def main(server: Server) -> None:
        async with server.tab(await server.enter()) as tab:
            await tab.until("@phase", "asking")
            for data in (b'{"move": "sideways"}', b"\xff\xfe"):
                await tab.stream.send_all(frame(TEXT, data))
                assert (await tab.message())["notice"] == "this is no step"
            await tab.send(move="next")
            await tab.until("@phase", "showing")
            await tab.send(jump=3)
            assert (await tab.message())["notice"] == "this is no step"
            assert await tab.closed_with() == 1008
        await works(server)

    run(main)
