# SPDX-License-Identifier: MIT
"""Boots in the trio loop of an asynchronous test.

The guest is held open by a task of its own: a test that forgets to leave the block, in whatever
fixture, does not take the loop's nurseries along, and the guest is gone with the test all the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, TypeVar, Unpack

import trio

from pyvmm.errors import InternalError, UsageError
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import is_told
from pyvmm.testing.request import BootArguments, BootRequest, Defaults, make_request, merged
from pyvmm.testing.vm import AsyncVm, examine, excuse, open_vm

__tracebackhide__ = is_told


T = TypeVar("T", bound="AsyncBoot")


class AsyncBoot:
    """A boot to be: ``async with async_boot(...) as vm`` boots it, and leaving that is its end."""

    def __init__(self, request: BootRequest, witness: Witness | None = None) -> None:
        self.request = request
        self._witness = witness
        self._vm: AsyncVm | None = None
        self._failure: Exception | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._ready = trio.Event()
        self._closing = trio.Event()
        self._closed = trio.Event()

    async def __aenter__(self) -> AsyncVm:
        if self._token is not None:
            raise UsageError(
                f"boot {self.request.name} again", "this boot has been", "call the fixture again"
            )
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.spawn_system_task(self._hold, name=f"boot of {self.request.name}")
        try:
            await self._ready.wait()
        except BaseException:
            await self._close()
            raise
        if self._vm is None:
            self._raise_failure()
            raise InternalError(f"boot {self.request.name}", "its loop has ended")
        return self._vm

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if failure is not None and self._vm is not None:
            excuse(self._vm)
            if self._witness is not None and self._witness.cares(failure):
                await examine(self._vm)
        await self._close()
        if failure is None:
            self._raise_failure()

    async def _close(self) -> None:
        """End the guest, and wait until it is gone, which is bounded."""
        self._closing.set()
        with trio.CancelScope(shield=True):
            await self._closed.wait()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None) from self._failure.__cause__

    async def _hold(self) -> None:
        scope = trio.CancelScope()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_opening, scope)
                try:
                    with scope:
                        async with open_vm(self.request, self._witness) as self._vm:
                            self._ready.set()
                            await self._closing.wait()
                except Exception as failure:  # noqa: BLE001 - told in the test's task
                    self._failure = failure
                nursery.cancel_scope.cancel()
        finally:
            self._ready.set()
            self._closed.set()

    async def _cancel_opening(self, scope: trio.CancelScope) -> None:
        await self._closing.wait()
        if not self._ready.is_set():
            scope.cancel()

    def forget(self) -> None:
        """End the guest, where its block has not been left. From any thread; does not wait."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # Then it is gone.
                self._token.run_sync_soon(self._closing.set)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"async_boot(...) is to be entered: async with async_boot(...) as vm: vm.{name}"
        )


class AsyncBoots:
    """Factory of boots in the trio loop of an asynchronous test."""

    def __init__(self, defaults: Defaults | None = None, witness: Witness | None = None) -> None:
        """`defaults` are arguments of the boots that do not say them."""
        self._defaults = defaults
        self._witness = witness
        self._made: list[AsyncBoot] = []

    def __call__(
        self, image: str | os.PathLike[str] | bytes, **arguments: Unpack[BootArguments]
    ) -> AsyncBoot:
        """A boot, to be entered in a trio task.

        Raises as `make_request`, and `UsageError` outside of trio.
        """
        request = make_request(image, **merged(arguments, self._defaults))
        return self._keep(AsyncBoot(request, self._witness))

    def _keep(self, made: T) -> T:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            raise UsageError(
                "boot a guest in this event loop",
                "pyvmm's machines live in trio",
                "have the test run on trio (pytest-trio, or anyio_backend = 'trio'), "
                "or use the fixture boot in a synchronous test",
            ) from None
        self._made.append(made)
        return made

    def close(self) -> None:
        """End every guest whose block has not been left. Outside of the loop; does not wait."""
        for boot in self._made:
            boot.forget()
