# SPDX-License-Identifier: MIT
"""Boots of synchronous tests, in the loop that all of a session share."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import NoReturn, TypeVar, Unpack

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.machine.loop_thread import LoopTask, LoopThread
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boot_task import BootTask
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import is_told, says_all
from pyvmm.testing.request import BootArguments, BootRequest, Defaults, make_request, merged
from pyvmm.testing.vm import AsyncVm, examine, excuse, open_vm

__tracebackhide__ = is_told


class Boot:
    """A boot to be: ``with boot(...) as vm`` boots it, and leaving the block is its end."""

    def __init__(
        self, loop: LoopThread, request: BootRequest, witness: Witness | None = None
    ) -> None:
        self.request = request
        self._loop = loop
        self._witness = witness
        self._task: LoopTask[AsyncVm] | None = None
        self._stack = ExitStack()
        self._inner: AsyncVm | None = None

    def __enter__(self) -> Vm:
        if self._inner is not None:
            raise UsageError(
                f"boot {self.request.name} again", "this boot has been", "call the fixture again"
            )
        try:
            task = self._stack.enter_context(
                self._loop.holding(open_vm(self.request, self._witness))
            )
        except BaseException as failure:
            if not says_all(failure):
                raise
            raise failure.with_traceback(None) from failure.__cause__
        self._task = task
        self._inner = task.value
        if self._witness is not None:
            self._witness.still_open.append(self.examine)
        return Vm(BootTask(task), task.value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if failure is not None and self._inner is not None:
                excuse(self._inner)
                if self._witness is not None and self._witness.cares(failure):
                    self.examine()
        finally:
            self.close()

    def examine(self) -> None:
        """Have the test's witness look at the guest, if its block has not been left."""
        if self._task is not None and self._inner is not None:
            with suppress(PyvmmError):  # The loop has ended.
                self._task.call(partial(examine, self._inner))

    def close(self) -> None:
        """End the guest, if it was booted and its block has not been left.

        Raises `GuestFailedError` as the end of the block does.
        """
        self._task = None
        if self._witness is not None and self.examine in self._witness.still_open:
            self._witness.still_open.remove(self.examine)
        try:
            self._stack.close()
        except BaseException as failure:
            if not says_all(failure):
                raise
            raise failure.with_traceback(None) from failure.__cause__

    @property
    def is_over(self) -> bool:
        """True once its block has been left."""
        return self._inner is not None and self._task is None

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"boot(...) is to be entered: with boot(...) as vm: vm.{name}")


T = TypeVar("T", bound=Boot)


class Boots:
    """Factory of synchronous boots; what it has made is gone when it is closed."""

    def __init__(
        self,
        loop: LoopThread,
        defaults: Defaults | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`defaults` are arguments of the boots that do not say them."""
        self._loop = loop
        self._defaults = defaults
        self._witness = witness
        self._made: list[Boot] = []

    def __call__(
        self, image: str | os.PathLike[str] | bytes, **arguments: Unpack[BootArguments]
    ) -> Boot:
        """A boot, to be entered. Raises as `make_request`, whose arguments these are."""
        request = make_request(image, **merged(arguments, self._defaults))
        return self._keep(Boot(self._loop, request, self._witness))

    def _keep(self, made: T) -> T:
        # A session may boot thousands: of those that are over nothing is kept here.
        self._made = [one for one in self._made if not one.is_over] + [made]
        return made

    def close(self) -> None:
        """End every guest whose block has not been left, the last one first."""
        with ExitStack() as stack:
            for boot in self._made:
                stack.callback(boot.close)
