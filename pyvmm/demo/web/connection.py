# SPDX-License-Identifier: MIT
"""One TCP connection: a request, read by h11, and its response; or the upgrade to a WebSocket.

Each connection serves one request: on loopback a new one costs nothing, and no idle one is kept.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import h11
import trio

from pyvmm.demo.page.static_files import script, style
from pyvmm.demo.web.admission import HEAD_LIMIT, HEADERS, TOKEN_LIMIT, Head, Refusal
from pyvmm.demo.web.document import STATIC, document, sentence_page
from pyvmm.demo.web.messages import Consider, notice, read_asked, trial
from pyvmm.demo.web.parts import parts_of
from pyvmm.demo.web.site import FULL, Site
from pyvmm.demo.web.visitors import MOST_TABS
from pyvmm.demo.web.websocket import WebSocket
from pyvmm.errors import UsageError

PATIENCE = 10.0
"""Seconds within which a request has to be there, and a response taken."""
_BAD_MESSAGES = 3
_CHUNK = 16 << 10
_HTML = "text/html; charset=utf-8"
_NO_ROUTE = Refusal(404, "There is nothing of this name.")
_STRANGER = Refusal(403, "Open the page by the URL that pyvmm demo printed.")


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: bytes = b""
    kind: str = _HTML
    extra: tuple[tuple[str, str], ...] = ()


async def serve_connection(stream: trio.SocketStream, site: Site) -> None:
    """Serve it, and close it. Whatever the other side does ends this connection alone."""
    async with stream:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await _serve(stream, site)


async def _serve(stream: trio.SocketStream, site: Site) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    head: Head | None = None
    response: _Response | None = _refused(Refusal(408, "No request came."))
    with trio.move_on_after(PATIENCE):
        try:
            event = await _next_event(connection, stream)
            if not isinstance(event, h11.Request):
                return
            head = _head(event)
            if head.size > HEAD_LIMIT:  # h11's limit is for heads that do not come in one piece.
                raise h11.RemoteProtocolError("too long", 431)
            response = await _answer(connection, stream, site, head)
        except h11.RemoteProtocolError as error:
            says = "This is no request that this server takes."
            response = _refused(Refusal(error.error_status_hint, says))
    if response is not None:
        await _send(connection, stream, head, response)
    elif head is not None:
        await _converse(connection, stream, site, head)


def _head(event: h11.Request) -> Head:
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in event.headers)
    return Head(event.method.decode(), event.target.decode("latin-1"), headers)


async def _answer(
    connection: h11.Connection, stream: trio.SocketStream, site: Site, head: Head
) -> _Response | None:
    """The response; None for an upgrade that is to be."""
    refusal = site.admission.refusal(head)
    if refusal is None and head.target == "/live":
        known = site.admission.role(head)
        visitor = None if known is None else site.visitor(*known)
        if known is None:
            refusal = _STRANGER
        elif visitor is None:
            refusal = Refusal(503, FULL)
        elif not visitor.has_room:
            refusal = Refusal(503, f"This page is open {MOST_TABS} times already: close one.")
        elif not head.wants_websocket:
            # A page asks so before it connects: the status of a refused upgrade is kept from it.
            return _Response(204)
        else:
            return None
    if refusal is not None:
        return _refused(refusal)
    return _respond(site, head, await _body(connection, stream))


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await stream.receive_some(_CHUNK))


async def _body(connection: h11.Connection, stream: trio.SocketStream) -> bytes | None:
    """The request's body; None for one beyond `TOKEN_LIMIT`."""
    body = b""
    while isinstance(event := await _next_event(connection, stream), h11.Data):
        body += bytes(event.data)
        if len(body) > TOKEN_LIMIT:
            return None
    return body


# -- routes --


def _respond(site: Site, head: Head, body: bytes | None) -> _Response:
    if body is None:
        return _refused(Refusal(413, "This is too long for a token."))
    path = head.target
    if path == "/enter":
        return _enter(site, head, body)
    if head.method == "POST":
        return _refused(Refusal(405, "Nothing is to be posted here."))
    if path == "/":
        return _page(site, head)
    name = path.removeprefix("/static/")
    if path.startswith("/static/") and name in STATIC:
        return _Response(200, _static(name), STATIC[name])
    return _refused(_NO_ROUTE)


def _enter(site: Site, head: Head, body: bytes) -> _Response:
    if head.method != "POST":
        return _refused(Refusal(405, "A token is to be posted."))
    fresh = secrets.token_urlsafe(24)
    entered = site.admission.enter(head, body, fresh)
    if isinstance(entered, Refusal):
        return _refused(entered)
    cookie, role = entered
    if site.visitor(cookie, role) is None:
        # Kept, those of many who find no place would drive out those of the ones who have one.
        site.admission.forget(fresh)
        return _refused(Refusal(503, FULL))
    return _Response(204, extra=(site.admission.keep(cookie),))


def _page(site: Site, head: Head) -> _Response:
    known = site.admission.role(head)
    parts = parts_of(site.first)
    if known is not None:
        visitor = site.visitor(*known)
        if visitor is None:
            return _refused(Refusal(503, FULL))
        parts = visitor.story.parts or parts
    return _Response(200, document(site.telling.book, parts).encode())


@cache
def _static(name: str) -> bytes:
    return (style() if name == "app.css" else script(name)).encode()


def _refused(refusal: Refusal) -> _Response:
    return _Response(refusal.status, sentence_page(refusal.says).encode())


async def _send(
    connection: h11.Connection, stream: trio.SocketStream, head: Head | None, response: _Response
) -> None:
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = [
        *HEADERS,
        *response.extra,
        ("Connection", "close"),
        ("Content-Type", response.kind),
        ("Content-Length", str(len(response.body))),
    ]
    if response.status == 204:
        headers = headers[:-2]
    data = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if head is None or head.method != "HEAD":
        data += connection.send(h11.Data(data=response.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    with trio.move_on_after(PATIENCE):
        await stream.send_all(data)
        await stream.send_eof()
        # A request that was not read to its end would reset the connection, answer and all.
        while await stream.receive_some(_CHUNK):
            pass


# -- the WebSocket --


async def _converse(
    connection: h11.Connection, stream: trio.SocketStream, site: Site, head: Head
) -> None:
    known = site.admission.role(head)
    visitor = None if known is None else site.visitor(*known)
    if known is None or visitor is None:
        return
    cookie, _ = known
    first, _ = connection.trailing_data
    socket = WebSocket(stream, site.admission.origin)
    code, why = 1000, ""
    bad = 0

    async def take(text: str) -> None:
        nonlocal bad, code, why
        try:
            asked = read_asked(text)
            says = site.take(cookie, visitor, asked)
            if not says and isinstance(asked.wish, Consider):
                await socket.send(trial(asked.wish.act))
        except UsageError as error:
            bad += 1
            says = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
        if says:
            await socket.send(notice(says))
        if bad == _BAD_MESSAGES:
            code, why = 1008, "three messages were no step"
            nursery.cancel_scope.cancel()

    async def talk() -> None:
        await socket.serve(first, take)
        nursery.cancel_scope.cancel()

    async def tell() -> None:
        number = 0
        try:
            while True:
                message = await visitor.beyond(number)
                number = visitor.story.number
                await socket.send(message)
        except trio.BrokenResourceError:
            nursery.cancel_scope.cancel()

    async def leave() -> None:
        nonlocal code, why
        await visitor.left.wait()
        code, why = 1001, "left"
        nursery.cancel_scope.cancel()

    async with visitor.tab():
        if not await socket.shake_hands(head):
            return
        async with trio.open_nursery() as nursery:
            for task in (talk, tell, leave):
                nursery.start_soon(task)
    await socket.close(code, why)
