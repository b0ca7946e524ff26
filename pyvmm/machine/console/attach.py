# SPDX-License-Identifier: MIT
"""Endpoints for a console: standard input and output, a file, a socket, nothing.

Each is an `Attachment` (`pyvmm.machine.running`): called with the machine's `ConsolePort`, it runs
until the output has ended and all of it has been passed on.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from pyvmm.errors import SystemCallError
from pyvmm.machine.console.output_file import OutputFile
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.console.streams import READ_SIZE, InputDescriptor, OutputDescriptor
from pyvmm.machine.unix_listener import UnixListener

InputFilter = Callable[[bytes], Awaitable[bytes]]
"""Filter that typed bytes go through on their way: returns what is left for the guest."""

_GONE_PAUSE = 0.1
"""Seconds between two looks whether a client that has ended its input is still there."""


async def discard(port: ConsolePort) -> None:
    """``--console none``: nobody reads, nothing is kept, the input is at its end."""
    port.end_input()
    while await port.receive():
        pass


async def _copy_out(port: ConsolePort, output: OutputDescriptor) -> None:
    while data := await port.receive():
        view = memoryview(data)
        try:
            while view:
                view = view[await output.write_some(view) :]
        except BaseException:
            port.put_back(bytes(view))
            raise


async def _copy_in(port: ConsolePort, source: InputDescriptor, keys: InputFilter | None) -> None:
    while data := await source.read_some():
        if keys is None:
            await port.send(data)
        else:
            # Never waits for the guest: the user's keys for us come by the same way.
            port.offer(await keys(data))
    port.end_input()


class Stdio:
    """Two file descriptors, which stay the caller's; `keys` sees the input first.

    A descriptor that is not open counts as one at its end. `may_read` returns when input may be
    taken: the terminal of a job in the background belongs to others.
    """

    def __init__(
        self,
        source: int = 0,
        output: int = 1,
        keys: InputFilter | None = None,
        may_read: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._source = source
        self._output = output
        self._keys = keys
        self._may_read = may_read

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console. Raises `SystemCallError` when nobody reads the output any more."""
        failure: SystemCallError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_input, port)
            with OutputDescriptor(self._output) as output:
                try:
                    await _copy_out(port, output)
                except SystemCallError as error:
                    failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:  # Raised in there it would come out in a group.
            raise failure

    async def _serve_input(self, port: ConsolePort) -> None:
        try:
            source = InputDescriptor(self._source, self._may_read)
        except OSError:
            port.end_input()
            return
        with source:
            # Input that breaks (a terminal that hung up) ends, as a file does.
            with suppress(SystemCallError):
                await _copy_in(port, source, self._keys)
                return
            port.end_input()


class ToFile:
    """``--console file:PATH``: output to a file, made anew; the input is at its end.

    With `append` what the file has already stays.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self._name = str(path)
        self.file = OutputFile(path, f"write the guest's console to {path}", append=append)

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        port.end_input()
        with OutputDescriptor(self.file.use(), self._name) as output:
            await _copy_out(port, output)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class ToUnixSocket:
    """``--console unix:PATH``: listens there (mode 0600); one client at a time has the console.

    Output waits for a client as it waits for any reader that stalls. When a client goes, the next
    one may come; what the guest has not taken by then of the first one's input, beyond what the
    console keeps, is lost. A socket that nobody listens on any more is replaced, any other file is
    not.
    """

    def __init__(self, path: Path) -> None:
        self._listener = UnixListener(path, f"listen for the guest's console on {path}")

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        listener = trio.socket.from_stdlib_socket(self._listener.socket)
        while port.unread or not port.output_ended:
            client = await self._accept(listener, port)
            if client is None:
                return
            with client:
                await self._serve_client(port, client, listener)

    async def _accept(
        self, listener: trio.socket.SocketType, port: ConsolePort
    ) -> trio.socket.SocketType | None:
        """The next client; None when the output ends first."""
        accepted: trio.socket.SocketType | None = None
        waited = trio.Event()
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                nonlocal accepted
                accepted, _address = await listener.accept()
                waited.set()

            async def end_of_output() -> None:
                await port.wait_output_ended()
                waited.set()

            nursery.start_soon(accept)
            nursery.start_soon(end_of_output)
            await waited.wait()
            nursery.cancel_scope.cancel()
        return accepted

    async def _serve_client(
        self, port: ConsolePort, client: trio.socket.SocketType, listener: trio.socket.SocketType
    ) -> None:
        """Until the output has ended or the client is gone."""
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with suppress(OSError):
                    while data := await client.recv(READ_SIZE):
                        if not await _send_until_replaced(port, data, client, listener):
                            break
                    # Its input is at its end, but it may still read.
                    while not _is_gone(client):  # noqa: ASYNC110 - no event tells of it
                        await trio.sleep(_GONE_PAUSE)
                nursery.cancel_scope.cancel()

            nursery.start_soon(receive)
            while data := await port.receive():
                view = memoryview(data)
                try:
                    while view:
                        view = view[await client.send(view) :]
                except OSError:
                    # The next client sees what this one's socket did not take.
                    port.put_back(bytes(view))
                    break
                except BaseException:
                    port.put_back(bytes(view))
                    raise
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._listener.close()


async def _send_until_replaced(
    port: ConsolePort,
    data: bytes,
    client: trio.socket.SocketType,
    listener: trio.socket.SocketType,
) -> bool:
    """Send `data`; False where it was given up, because `client` is gone and another one waits."""
    sent = False
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            while not (_is_gone(client) and _has_caller(listener)):  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(_GONE_PAUSE)
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        await port.send(data)
        sent = True
        nursery.cancel_scope.cancel()
    return sent


def _has_caller(listener: trio.socket.SocketType) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _is_gone(client: trio.socket.SocketType) -> bool:
    """Tell whether the other end is closed altogether, rather than only for writing."""
    poll = select.poll()
    poll.register(client, 0)
    return bool(poll.poll(0))
