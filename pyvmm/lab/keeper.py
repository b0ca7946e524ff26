# SPDX-License-Identifier: MIT
"""The keeper: the process that owns a lab's QEMU. ``python -m pyvmm.lab.keeper`` starts it.

One for a single command (``pyvmm lab run`` without a lab that is up): its only client is the one
that started it, over an inherited socket, and the lab ends with that connection. One for a lab that
stays up: it listens on a Unix socket, and tells the one that started it when the lab is ready. One
that is shared: the same, and the lab ends when the one that started it and all others have gone.

QEMU dies with the keeper (`pyvmm.qmp.child`), whatever the keeper dies of.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import trio

from pyvmm.errors import PyvmmError
from pyvmm.lab import failures
from pyvmm.lab.failures import LabBusyError, LabError
from pyvmm.lab.nested import KernelLog, open_lab
from pyvmm.lab.protocol import Frame, FrameType
from pyvmm.lab.settings import LOCK_NAME, LOG_NAME, SOCKET_NAME, LabSettings
from pyvmm.lab.switchboard import Switchboard

_BACKLOG = 64
_LOOK_INTERVAL = 0.1
_FAREWELL = 2.0


class _Keeper:
    def __init__(self, settings: LabSettings, directory: Path, starter: socket.socket) -> None:
        self._settings = settings
        self._directory = directory
        self._is_booted = False
        self._failure: PyvmmError | None = None
        self._starter = trio.SocketStream(trio.socket.from_stdlib_socket(starter))

    async def for_one_command(self) -> None:
        """A lab for the client at the other end of `starter`."""
        log = KernelLog(self._directory / f"run-{os.getpid()}.log")
        try:
            await self._while_wanted(log, self._serve_starter)
        finally:
            log.close()
        if self._failure is None:
            log.path.unlink(missing_ok=True)

    async def listening(self, *, shared: bool) -> None:
        """A lab that stays up until it is told to go down; or, `shared`, until nobody uses it."""
        with ExitStack() as stack:
            if not self._take_lock(stack):
                await self._tell_failure(LabBusyError("start a lab", "another one is starting"))
                return
            log = KernelLog(self._directory / LOG_NAME)
            stack.callback(log.close)

            async def serve(board: Switchboard) -> None:
                listener = self._listen(stack)
                if not shared:
                    await board.preload()
                await self._starter.send_all(Frame(FrameType.READY).encode())

                async def accept() -> None:
                    async with trio.open_nursery() as nursery:
                        if shared:
                            nursery.start_soon(board.stop_when_unused, self._starter)
                        await trio.serve_listeners(board.serve, [listener])

                await self._until_end(board, accept)

            await self._while_wanted(log, serve)

    async def _while_wanted(
        self, log: KernelLog, serve: Callable[[Switchboard], Awaitable[None]]
    ) -> None:
        """Boot a lab and `serve`, unless the one who wants it goes away first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_gone, nursery.cancel_scope)
            try:
                async with open_lab(self._settings, log) as lab:
                    self._is_booted = True
                    await serve(Switchboard(lab))
            except PyvmmError as error:
                self._failure = error
                with trio.CancelScope(shield=True):
                    await self._tell_failure(error)
            nursery.cancel_scope.cancel()

    async def _end_when_gone(self, scope: trio.CancelScope) -> None:
        # The client's first frame may be waiting, so that reading would not tell.
        poll = select.poll()
        poll.register(self._starter.socket, select.POLLRDHUP)
        while not self._is_booted:
            if poll.poll(0):
                scope.cancel()
                return
            await trio.sleep(_LOOK_INTERVAL)

    async def _serve_starter(self, board: Switchboard) -> None:
        await self._until_end(board, lambda: board.serve(self._starter))

    async def _until_end(self, board: Switchboard, serve: Callable[[], Awaitable[None]]) -> None:
        """Serve until that ends by itself, the lab is lost, or somebody says stop."""
        async with trio.open_nursery() as nursery:

            async def watch_lab() -> None:
                self._failure = await board.listen_to_lab()
                await board.fail(self._failure)
                nursery.cancel_scope.cancel()

            async def watch_stop() -> None:
                await board.stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_lab)
            nursery.start_soon(watch_stop)
            await serve()
            nursery.cancel_scope.cancel()

    def _take_lock(self, stack: ExitStack) -> bool:
        """Held for the keeper's life: whoever has it may replace the socket."""
        path = self._directory / LOCK_NAME
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _listen(self, stack: ExitStack) -> trio.SocketListener:
        path = self._directory / SOCKET_NAME
        # One that a killed keeper left behind: the lock is ours, so nobody serves it.
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stack.callback(path.unlink, missing_ok=True)
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's address is short; a folder's name need not be.
            listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listener))

    async def _tell_failure(self, error: PyvmmError) -> None:
        frame = Frame(FrameType.FAILED, payload=failures.to_bytes(error))
        with trio.CancelScope(deadline=trio.current_time() + 2, shield=True):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._starter.send_all(frame.encode())


async def _keep(mode: str, keeper: _Keeper) -> None:
    async with trio.open_nursery() as nursery:

        async def watch_signals() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(watch_signals)
        if mode == "once":
            await keeper.for_one_command()
        else:
            await keeper.listening(shared=mode == "shared")
        nursery.cancel_scope.cancel()


def main() -> int:
    """``keeper.py listen|shared|once DIRECTORY FD SETTINGS``: see `pyvmm.lab.starting`."""
    mode, directory, fd, settings = sys.argv[1:]
    starter = socket.socket(fileno=int(fd))
    starter.set_inheritable(False)
    starter.setblocking(False)
    try:
        trio.run(_keep, mode, _Keeper(LabSettings.from_json(settings), Path(directory), starter))
    except Exception as error:
        # Its traceback goes to the log.
        _tell_at_the_end(starter, error)
        raise
    return 0


def _tell_at_the_end(starter: socket.socket, error: Exception) -> None:
    """Tell who waits for the lab why there is none any more."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    failure = LabError("keep the lab", str(error) or type(error).__name__)
    with suppress(OSError):
        starter.settimeout(_FAREWELL)
        starter.sendall(Frame(FrameType.FAILED, payload=failures.to_bytes(failure)).encode())


if __name__ == "__main__":
    sys.exit(main())
