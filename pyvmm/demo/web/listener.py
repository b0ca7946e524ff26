# SPDX-License-Identifier: MIT
"""The server: a port of loopback, its connections and visitors, all in one nursery."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from errno import EADDRINUSE

import trio

from pyvmm.demo.house.houses import Houses, Say, open_houses, unheard
from pyvmm.demo.playing import playing_in
from pyvmm.demo.telling.beginning import Telling
from pyvmm.demo.telling.player import View
from pyvmm.demo.web.admission import ADDRESS, Admission, Role
from pyvmm.demo.web.connection import serve_connection
from pyvmm.demo.web.site import MOST_READERS, Site
from pyvmm.errors import SystemCallError

_MOST_CONNECTIONS = 256
_TOKEN_BYTES = 24


async def serve(
    telling: Telling,
    port: int,
    *,
    is_lecture: bool,
    tell: Callable[[Site], None],
    say: Say = unheard,
) -> None:
    """Serve until cancelled; `port` 0: any. `tell` is called once readers can come.

    `say` is told how the start of a lab goes, and of a connection that a defect has ended.

    Raises `SystemCallError` for a port that is taken, and what opening a first stage raises.
    """
    async with (
        _listening(port) as socket,
        open_houses(telling.wish, say, most=MOST_READERS + 1) as houses,
    ):
        first = await _first_view(telling, houses)
        async with trio.open_nursery() as nursery:
            tokens = (secrets.token_urlsafe(_TOKEN_BYTES) for _ in range(2))
            readers = next(tokens)
            admission = Admission(
                socket.getsockname()[1], readers, next(tokens) if is_lecture else None
            )
            site = Site(telling, houses, admission, first, nursery, is_lecture=is_lecture)
            tell(site)
            await _accept(socket, site, nursery, say)


@asynccontextmanager
async def _listening(port: int) -> AsyncIterator[trio.socket.SocketType]:
    socket = trio.socket.socket()
    try:
        # A connection of an earlier server that is still being wound up does not hold the port.
        socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await socket.bind((ADDRESS, port))
        socket.listen(_MOST_CONNECTIONS)
    except OSError as error:
        socket.close()
        taken = error.errno == EADDRINUSE
        cause = "somebody listens there already" if taken else error.strerror or str(error)
        raise SystemCallError(
            f"listen on port {port} of {ADDRESS}",
            error.errno or 0,
            cause,
            "another one: --port N, or leave it out",
        ) from None
    with socket:
        yield socket


async def _first_view(telling: Telling, houses: Houses) -> View:
    """The book's beginning for who has no machine yet; a host that cannot be is told by now."""
    async with playing_in(houses, telling.player()) as reader:
        await reader.begin()
        return reader.player.view


async def _accept(
    socket: trio.socket.SocketType, site: Site, nursery: trio.Nursery, say: Say
) -> None:
    room = trio.Semaphore(_MOST_CONNECTIONS)

    async def one(accepted: trio.socket.SocketType) -> None:
        try:
            await serve_connection(trio.SocketStream(accepted), site)
        except Exception as error:  # noqa: BLE001 - said here: others are unharmed
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            say(f"a defect of pyvmm ended a connection: {type(error).__name__}: {error}")
        finally:
            room.release()

    while True:
        await room.acquire()
        try:
            accepted, _ = await socket.accept()
        except OSError:
            # Gone again before it was taken, or no descriptor is left: a moment, and again.
            room.release()
            await trio.sleep(0.1)
            continue
        nursery.start_soon(one, accepted)


def urls(site: Site, *, is_lecture: bool) -> str:
    """The lines to print: where to go with a browser."""
    if is_lecture:
        return (
            f"teacher:   {site.admission.url(Role.TEACHER)}\n"
            f"followers: {site.admission.url(Role.READER)}"
        )
    return site.admission.url(Role.READER)
