# SPDX-License-Identifier: MIT
"""A stage's process on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pyvmm.demo.house.client import Patience, StageClient
from pyvmm.demo.house.early import PROCESS, EarlyProcess
from pyvmm.errors import SystemCallError
from pyvmm.qmp.child import Child

_LAST_WORDS = 1.0
"""Seconds for what is still in the pipes of a process that has ended."""
_TAIL = 2048


@asynccontextmanager
async def local_process(
    patience: Patience,
    command: tuple[str, ...] = PROCESS,
    early: EarlyProcess | None = None,
) -> AsyncIterator[StageClient]:
    """A process of stages; behind the block it has ended and is reaped.

    The one that was started `early` is taken if it is still there. Used on a thread that lives as
    long as the block (`Child`). Raises `SystemCallError`.
    """
    started = None if early is None else early.take()
    child, to_child = _start(command) if started is None else _adopted(*started)
    client = StageClient(to_child.send_all, patience)
    errors = bytearray()
    read = trio.Event()

    async def listen() -> None:
        try:
            await child.pump("stdout", client.feed)
        except SystemCallError as error:
            client.lose(f"it cannot be listened to: {error.cause}")
        read.set()

    async def listen_to_errors() -> None:
        def keep(data: bytes) -> None:
            errors[:] = (errors + data)[-_TAIL:]

        try:
            await child.pump("stderr", keep)
        except SystemCallError as error:
            client.lose(f"it cannot be listened to: {error.cause}")

    async def watch() -> None:
        await child.wait()
        with trio.move_on_after(_LAST_WORDS):
            await read.wait()
        last = bytes(errors).decode("utf-8", "replace").strip().rpartition("\n")[2]
        client.lose(f"its process is gone: {child.ending()}" + (f" ({last})" if last else ""))

    async with trio.open_nursery() as nursery:
        try:
            for task in (listen, listen_to_errors, watch):
                nursery.start_soon(task)
            yield client
        finally:
            with trio.CancelScope(shield=True):
                await to_child.aclose()
                with trio.move_on_after(client.end_patience):
                    await child.wait()
                child.kill()
                await child.end()
            nursery.cancel_scope.cancel()


def _start(command: tuple[str, ...]) -> tuple[Child, trio.lowlevel.FdStream]:
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise SystemCallError(
            "start a stage's process", error.errno or 0, error.strerror or str(error)
        ) from error
    try:
        child = Child.start(command, stdin=reading, own_session=True, core_files=True)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return child, trio.lowlevel.FdStream(writing)


def _adopted(
    process: subprocess.Popen[bytes], to_process: int
) -> tuple[Child, trio.lowlevel.FdStream]:
    try:
        return Child(process, PROCESS), trio.lowlevel.FdStream(to_process)
    except OSError as error:
        os.close(to_process)
        process.kill()
        process.communicate()
        raise SystemCallError(
            "watch a stage's process", error.errno or 0, error.strerror or str(error)
        ) from error
