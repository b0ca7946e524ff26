# SPDX-License-Identifier: MIT
"""QEMU as a managed peer: started, spoken to over QMP, ended and reaped, whatever happens.

The protocol is the qemu.qmp library's, which lives in asyncio: in a loop of its own, on a thread
beside trio (`asyncio_thread`).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from pyvmm.errors import ExitCode, PyvmmError, SystemCallError, sole_error
from pyvmm.qmp.child import Child

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

    from pyvmm.qmp.asyncio_thread import AsyncioThread

_TAIL_LINES = 5
_TAIL_BYTES = 8192
_QUIT_PATIENCE = 2.0
_LAST_WORDS_PATIENCE = 0.5
_ALL_WORDS_PATIENCE = 10.0
"""Seconds for what an ended QEMU has said, which is all there, to be read on a busy machine."""
PATIENCE = 30.0
"""Seconds that QEMU may take to greet us, or to answer."""


class QemuError(PyvmmError):
    """QEMU could not be started, died, or does not answer.

    `command` is its command line, `returncode` as `subprocess` has it (None: it still ran),
    `last_lines` what it wrote last on standard error.
    """

    exit_code = ExitCode.SYSTEM_CALL

    def __init__(
        self, attempt: str, cause: str, command: str, returncode: int | None, last_lines: str
    ) -> None:
        said = f", saying: {last_lines}" if last_lines else ""
        super().__init__(attempt, f"{cause}{said}", f"its command line was: {command}")
        self.command = command
        self.returncode = returncode
        self.last_lines = last_lines


class QmpRefusalError(PyvmmError):
    """QEMU answered a QMP command with an error."""

    exit_code = ExitCode.SYSTEM_CALL


@dataclass(frozen=True, slots=True)
class QemuEvent:
    """Event that QEMU sent: QMP's name of it, and its data."""

    name: str
    data: Mapping[str, Any]


class QemuPeer:
    """A QEMU that runs and answers. Made by `open_qemu`."""

    def __init__(
        self,
        child: Child,
        library: AsyncioThread,
        on_event: Callable[[QemuEvent], object] = lambda _: None,
    ) -> None:
        self.child = child
        self._library = library
        self._on_event = on_event
        self._told = 0
        self._tail = b""
        self._client: QMPClient | None = None
        self._heard_all = trio.Event()

    @property
    def last_lines(self) -> str:
        """Last lines that it wrote on standard error, in one line."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        return " | ".join(line.strip() for line in lines[-_TAIL_LINES:] if line.strip())

    def failure(self, attempt: str, cause: str = "") -> QemuError:
        """The error for a QEMU that failed while `attempt` was tried."""
        return QemuError(
            attempt,
            cause or self.child.ending(),
            self.child.command,
            self.child.returncode,
            self.last_lines,
        )

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        patience: float = PATIENCE,
    ) -> Any:
        """Run a QMP command and return what it returns.

        Raises `QmpRefusalError` for QMP's own errors, `QemuError` where QEMU is gone or silent.
        """
        from qemu.qmp import ExecuteError, QMPError

        attempt = f"ask QEMU to {command}"
        if self._client is None or self.child.returncode is not None:
            raise self.failure(attempt)
        try:
            with trio.fail_after(patience):
                return await self._library.run(self._client.execute, command, dict(arguments or {}))
        except ExecuteError as error:
            raise QmpRefusalError(attempt, str(error)) from error
        except trio.TooSlowError as error:
            raise self.failure(attempt, f"no answer in {patience:g} s") from error
        except (QMPError, EOFError, OSError) as error:
            await self._hear_last_words()
            raise self.failure(
                attempt, "" if self.child.returncode is not None else _reason(error)
            ) from error

    async def wait(self) -> int:
        """Wait until it has ended by itself, and all that it said is here; `Child.returncode`."""
        from qemu.qmp import Runstate

        code = await self.child.wait()
        client = self._client

        async def until_disconnected() -> None:
            # Looked at there: a change between the look and the wait would be waited for in vain.
            if client is not None and client.runstate is Runstate.RUNNING:
                await client.runstate_changed()

        with trio.move_on_after(_ALL_WORDS_PATIENCE):
            await self._library.run(until_disconnected)
            await self._heard_all.wait()
        self.tell_events()
        return code

    def events(self) -> tuple[QemuEvent, ...]:
        """Those that have arrived so far; all there ever were, after `wait`."""
        if self._client is None:
            return ()
        return tuple(
            QemuEvent(str(one.get("event")), _mapping(one.get("data")))
            for one in self._client.events.history
        )

    async def query_status(self) -> str:
        """The run state: "running", "paused", "shutdown", ... (QMP's RunState)."""
        return str((await self.execute("query-status"))["status"])

    async def _listen(self, on_output: Callable[[bytes], object] | None) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.child.pump, "stderr", self._keep_tail)
            if on_output is not None:
                nursery.start_soon(self.child.pump, "stdout", on_output)
        self._heard_all.set()

    async def _watch_events(self) -> None:
        """Tell of each event as it arrives, until cancelled."""
        assert self._client is not None
        while True:
            await self._library.run(self._client.events.get)
            self.tell_events()

    def tell_events(self) -> None:
        """Tell of the events that have arrived, those before the last answer among them."""
        new = self.events()[self._told :]
        self._told += len(new)
        for event in new:
            self._on_event(event)

    def _keep_tail(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    async def _hear_last_words(self) -> None:
        # The connection breaks before the process is reaped and its last output read.
        with trio.move_on_after(_LAST_WORDS_PATIENCE):
            await self.child.wait()
            await self._heard_all.wait()

    async def _greet(self, end: socket.socket, patience: float) -> None:
        from qemu.qmp import QMPClient, QMPError

        attempt = "start QEMU"

        async def make_client() -> QMPClient:
            # The name is that of a logger, which others in this process must not share.
            return QMPClient("pyvmm-peer")

        client = await self._library.run(make_client)  # There: it asks which loop runs.
        client.logger.disabled = True
        ended = False
        problem: Exception | None = None
        with trio.move_on_after(patience) as limit:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal ended
                    await self.child.wait()
                    ended = True
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                try:
                    await self._library.run(client.connect, end)
                except (QMPError, EOFError, OSError) as error:
                    problem = error
                nursery.cancel_scope.cancel()
        if ended or problem is not None:
            await self._hear_last_words()
        if self.child.returncode is not None:
            raise self.failure(attempt) from problem
        if limit.cancelled_caught:
            raise self.failure(attempt, f"it did not greet us over QMP in {patience:g} s")
        if problem is not None:
            raise self.failure(attempt, f"it does not speak QMP ({_reason(problem)})")
        self._client = client

    async def _close(self) -> None:
        """`quit`, if it still listens, and the end of the connection. Bounded."""
        if self._client is None:
            return
        from qemu.qmp import QMPError

        with trio.CancelScope(deadline=trio.current_time() + _QUIT_PATIENCE, shield=True):
            if self.child.returncode is None:
                with suppress(PyvmmError):
                    await self.execute("quit", patience=_QUIT_PATIENCE)
                await self.child.wait()
        with trio.CancelScope(deadline=trio.current_time() + _QUIT_PATIENCE, shield=True):
            # After `quit` the library reports the end of the connection as an error.
            with suppress(QMPError, EOFError, OSError):
                await self._library.run(self._client.disconnect)


def _mapping(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def socket_pair(attempt: str) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. Raises `SystemCallError` where the kernel has none left."""
    try:
        return socket.socketpair()
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error


@asynccontextmanager
async def open_qemu(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stdin: int | None = None,
    stdout: int | None = None,
    on_output: Callable[[bytes], object] = lambda _: None,
    on_event: Callable[[QemuEvent], object] | None = None,
    patience: float = PATIENCE,
) -> AsyncIterator[QemuPeer]:
    """Start `command`, a QEMU without a monitor of its own, and connect to it.

    `pass_fds` are descriptors that it inherits, `stdin` (None: empty) its standard input;
    `on_output` gets what it writes to standard output, unless that is the descriptor `stdout`;
    `on_event` gets each event when it arrives, and all of them before `QemuPeer.wait` returns.
    When the block is left QEMU has ended and is reaped. Raises `HostLacksError` where it is not
    installed, `QemuError` where it dies, prints rubbish, or does not greet us within `patience`
    seconds.
    """
    ours, theirs = socket_pair("connect to QEMU")
    with ours, theirs:
        ours.setblocking(False)
        child = Child.start(
            [
                *command,
                "-chardev",
                f"socket,id=pyvmm-qmp,fd={theirs.fileno()}",
                "-mon",
                "chardev=pyvmm-qmp,mode=control",
            ],
            (*pass_fds, theirs.fileno()),
            stdin,
            stdout,
        )
        try:
            theirs.close()
            heard = None if stdout is not None else on_output
            async with _spoken_to(child, ours, heard, on_event, patience) as peer:
                yield peer
        finally:
            await child.end()


@asynccontextmanager
async def _spoken_to(
    child: Child,
    end: socket.socket,
    on_output: Callable[[bytes], object] | None,
    on_event: Callable[[QemuEvent], object] | None,
    patience: float,
) -> AsyncIterator[QemuPeer]:
    # Imported while QEMU already starts.
    from pyvmm.qmp.asyncio_thread import open_asyncio

    try:
        async with open_asyncio() as library, trio.open_nursery() as nursery:
            peer = QemuPeer(child, library, on_event or (lambda _: None))
            nursery.start_soon(peer._listen, on_output)
            try:
                await peer._greet(end, patience)
                if on_event is not None:
                    nursery.start_soon(peer._watch_events)
                yield peer
            finally:
                await peer._close()
                child.kill()
                with trio.CancelScope(
                    deadline=trio.current_time() + _LAST_WORDS_PATIENCE, shield=True
                ):
                    await child.wait()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
