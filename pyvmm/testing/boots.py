# SPDX-License-Identifier: MIT
"""Factories that tests boot guests with: synchronous ones, and in a trio task of the test's."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import NoReturn

import trio

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.machine.loop_thread import LoopThread
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boot_task import BootTask
from pyvmm.testing.failures import is_told
from pyvmm.testing.monitors import HostName
from pyvmm.testing.request import DEFAULT_MEMORY, DEFAULT_TIMEOUT, BootRequest, make_request
from pyvmm.testing.vm import AsyncVm, excuse, open_vm

__tracebackhide__ = is_told


class Boot:
    """A boot to be: ``with boot(...) as vm`` boots it, and leaving the block is its end."""

    def __init__(self, loop: LoopThread, request: BootRequest) -> None:
        self.request = request
        self._loop = loop
        self._stack = ExitStack()
        self._inner: AsyncVm | None = None

    def __enter__(self) -> Vm:
        if self._inner is not None:
            raise UsageError(
                f"boot {self.request.name} again", "this boot has been", "call the fixture again"
            )
        try:
            task = self._stack.enter_context(self._loop.holding(open_vm(self.request)))
        except PyvmmError as failure:
            raise failure.with_traceback(None) from failure.__cause__
        self._inner = task.value
        return Vm(BootTask(task), task.value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if failure is not None and self._inner is not None:
            excuse(self._inner)
        self.close()

    def close(self) -> None:
        """End the guest, if it was booted and its block has not been left.

        Raises `GuestFailedError` as the end of the block does.
        """
        try:
            self._stack.close()
        except (AssertionError, PyvmmError) as failure:
            raise failure.with_traceback(None) from failure.__cause__

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"boot(...) is to be entered: with boot(...) as vm: vm.{name}")


class Boots:
    """Factory of synchronous boots; what it has made is gone when it is closed."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._made: list[Boot] = []

    def __call__(
        self,
        image: str | os.PathLike[str] | bytes,
        *,
        append: str | bytes = "",
        memory: str | int = DEFAULT_MEMORY,
        cpus: int = 1,
        private: bool = False,
        host: str | HostName = HostName.AUTO,
        initrd: str | os.PathLike[str] | bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        crash: bool = False,
        symbols: str | os.PathLike[str] | None = None,
        paused: bool = False,
    ) -> Boot:
        """A boot, to be entered. Raises as `make_request`, whose arguments these are."""
        made = Boot(
            self._loop,
            make_request(
                image,
                append=append,
                memory=memory,
                cpus=cpus,
                private=private,
                host=host,
                initrd=initrd,
                timeout=timeout,
                crash=crash,
                symbols=symbols,
                paused=paused,
            ),
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        """End every guest whose block has not been left, the last one first."""
        with ExitStack() as stack:
            for boot in self._made:
                stack.callback(boot.close)


class AsyncBoots:
    """Factory of boots in the trio loop of an asynchronous test."""

    def __call__(
        self,
        image: str | os.PathLike[str] | bytes,
        *,
        append: str | bytes = "",
        memory: str | int = DEFAULT_MEMORY,
        cpus: int = 1,
        private: bool = False,
        host: str | HostName = HostName.AUTO,
        initrd: str | os.PathLike[str] | bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        crash: bool = False,
        symbols: str | os.PathLike[str] | None = None,
        paused: bool = False,
    ) -> AbstractAsyncContextManager[AsyncVm]:
        """A boot, to be entered in a trio task.

        Raises as `make_request`, and `UsageError` outside of trio.
        """
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            raise UsageError(
                "boot a guest in this event loop",
                "pyvmm's machines live in trio",
                "have the test run on trio (pytest-trio, or anyio_backend = 'trio'), "
                "or use the fixture boot in a synchronous test",
            ) from None
        return open_vm(
            make_request(
                image,
                append=append,
                memory=memory,
                cpus=cpus,
                private=private,
                host=host,
                initrd=initrd,
                timeout=timeout,
                crash=crash,
                symbols=symbols,
                paused=paused,
            )
        )
