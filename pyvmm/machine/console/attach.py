"""What can be attached to a console: standard input and output, a file, a socket, nothing.

Each is an `Attachment` (`pyvmm.machine.machine`): called with the machine's `ConsolePort`, it runs
until the output has ended and all of it has been passed on.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from pyvmm.errors import NoPermissionError, SystemCallError, UsageError
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.console.streams import InputDescriptor, OutputDescriptor

InputFilter = Callable[[bytes], Awaitable[bytes]]
"""What typed bytes go through on their way: returns what is left for the guest."""


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
        if keys is not None:
            data = await keys(data)
        await port.send(data)
    port.end_input()


class Stdio:
    """Two file descriptors, which stay the caller's; `keys` sees the input first.

    A descriptor that is not open counts as one at its end.
    """

    def __init__(self, source: int = 0, output: int = 1, keys: InputFilter | None = None) -> None:
        self._source = source
        self._output = output
        self._keys = keys

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_input, port)
            with OutputDescriptor(self._output) as output:
                await _copy_out(port, output)
            nursery.cancel_scope.cancel()

    async def _serve_input(self, port: ConsolePort) -> None:
        try:
            source = InputDescriptor(self._source)
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
    """``--console file:PATH``: output to a file, made anew; the input is at its end."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK, 0o666
            )
        except OSError as error:
            raise _open_error(f"write the guest's console to {path}", error) from error

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        port.end_input()
        with OutputDescriptor(self._fd) as output:
            await _copy_out(port, output)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ToUnixSocket:
    """``--console unix:PATH``: listens there (mode 0600); one client at a time has the console.

    Output waits for a client as it waits for any reader that stalls. When a client goes, the next
    one may come. A socket that nobody listens on any more is replaced, any other file is not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = _listen(path)

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        listener = trio.socket.from_stdlib_socket(self._socket)
        while port.unread or not port.output_ended:
            client = await self._accept(listener, port)
            if client is None:
                return
            async with client:
                await self._serve_client(port, client)

    async def _accept(
        self, listener: trio.socket.SocketType, port: ConsolePort
    ) -> trio.SocketStream | None:
        """The next client; None when the output ends first."""
        accepted: trio.SocketStream | None = None
        waited = trio.Event()
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                nonlocal accepted
                connection, _address = await listener.accept()
                accepted = trio.SocketStream(connection)
                waited.set()

            async def end_of_output() -> None:
                await port.wait_output_ended()
                waited.set()

            nursery.start_soon(accept)
            nursery.start_soon(end_of_output)
            await waited.wait()
            nursery.cancel_scope.cancel()
        return accepted

    async def _serve_client(self, port: ConsolePort, client: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with suppress(trio.BrokenResourceError):
                    while data := await client.receive_some():
                        await port.send(data)
                        await trio.lowlevel.checkpoint()

            nursery.start_soon(receive)
            while data := await port.receive():
                try:
                    await client.send_all(data)
                except trio.BrokenResourceError:
                    # How much of it arrived is unknown: the next client sees it again.
                    port.put_back(data)
                    break
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._socket.close()
        with suppress(OSError):
            self._path.unlink()


def _listen(path: Path) -> socket.socket:
    attempt = f"listen for the guest's console on {path}"
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise UsageError(attempt, "a file of that name exists", "name another path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path, attempt)
        old_mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(old_mask)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise _open_error(attempt, error) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path, attempt: str) -> None:
    """Remove a socket file that nobody listens on; raises `UsageError` where somebody does."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise UsageError(attempt, "another program listens there", "name another path")


def _open_error(attempt: str, error: OSError) -> SystemCallError | NoPermissionError | UsageError:
    cause = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NoPermissionError(attempt, cause, "choose a path that you may write to")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return UsageError(attempt, cause, "choose a path in a directory that exists")
    return SystemCallError(attempt, error.errno or 0, cause)
