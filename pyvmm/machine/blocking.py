# SPDX-License-Identifier: MIT
"""Machines for programs that do not use trio.

::

    completed = run(MachineConfig(image), given=b"typed ahead")

    with BlockingMachine(config) as machine:
        machine.wait_for_output(b"login:")
        machine.send(b"root\\n")
        result = machine.wait()

Both have a trio loop of their own on a thread of their own, so they work within any other event
loop (which they block) and change nothing of the calling thread or the process: no signal handler,
no wakeup descriptor, no loop policy. Leaving the block, by an exception or Ctrl-C too, ends the
guest and gives everything back.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import trio

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import RunResult
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.machine import Machine
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.vcpu_thread import Allow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished run: its result, and everything that the guest said."""

    result: RunResult
    output: bytes


def run(config: MachineConfig, given: bytes = b"", *, allow: Allow | None = None) -> Completed:
    """Run a guest to its end; `given` is its console input, ended after the last byte.

    `allow` is `Machine`'s. Raises a `PyvmmError` where the host or pyvmm failed. What the guest
    does wrong is in the result's ending.
    """
    with BlockingMachine(config, given, allow=allow) as machine:
        result = machine.wait()
    return Completed(result, machine.output)


class BlockingMachine:
    """A running guest that is steered by ordinary calls, from any thread but its own.

    `given` is sent to its console at once, which then is at its end (None: `send` does that).
    `allow` is `Machine`'s.
    """

    def __init__(
        self, config: MachineConfig, given: bytes | None = None, *, allow: Allow | None = None
    ) -> None:
        self._config = config
        self._allow = allow
        self._collector = Collector(given)
        self._ready: Future[tuple[Machine, trio.lowlevel.TrioToken]] = Future()
        self._result: Future[RunResult] = Future()
        self._closing: trio.Event | None = None
        self._thread = threading.Thread(target=self._main, name="machine", daemon=True)
        self._entered = False

    def __enter__(self) -> Self:
        if self._entered:
            raise InternalError("enter a machine", "it has been entered before", "make a new one")
        self._entered = True
        self._thread.start()
        try:
            self._machine, self._token = self._ready.result()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        # Setting up is short, and until it is done there is nothing that could be told to end.
        if self._ready.exception() is None:
            _machine, token = self._ready.result()
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._close_now)
        self._thread.join()

    def _close_now(self) -> None:
        assert self._closing is not None
        self._closing.set()

    def _main(self) -> None:
        outcome: BaseException = InternalError("give a run's result", "the machine was closed")
        try:
            trio.run(self._live)
        except BaseException as failure:  # noqa: BLE001 - handed to the caller's thread
            outcome = failure
        if not self._ready.done():
            self._ready.set_exception(outcome)
        # Whoever still waits must not wait for ever.
        if not self._result.done():
            self._result.set_exception(outcome)

    async def _live(self) -> None:
        self._closing = trio.Event()
        async with Machine(self._config, self._collector, allow=self._allow) as machine:
            self._ready.set_result((machine, trio.lowlevel.current_trio_token()))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_result, machine)
                await self._closing.wait()
                nursery.cancel_scope.cancel()

    async def _await_result(self, machine: Machine) -> None:
        try:
            self._result.set_result(await machine.wait())
        except Exception as failure:  # noqa: BLE001 - handed to who waits
            self._result.set_exception(failure)

    def _in_trio(self, action: Callable[[Machine], Awaitable[T]]) -> T:
        """Await `action` in the machine's own loop. Raises `InternalError` outside its life."""
        attempt = "steer a machine"
        if not self._entered:
            raise InternalError(attempt, "it has not been entered", "use it in a with block")
        try:
            return trio.from_thread.run(action, self._machine, trio_token=self._token)
        except trio.RunFinishedError as error:
            raise InternalError(attempt, "it has been closed") from error

    def _now(self, action: Callable[[Machine], None]) -> None:
        """The same for what does not wait."""

        async def act(machine: Machine) -> None:
            action(machine)

        self._in_trio(act)

    # -- what the caller does with it --

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the guest's end. Raises `TimeoutError` after `timeout` seconds."""
        return self._result.result(timeout)

    @property
    def output(self) -> bytes:
        """All that the guest has said so far."""
        return self._collector.output

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory page by page, until the machine is closed; no detour by its loop."""
        return self._machine.memory

    @property
    def ram(self) -> GuestRam:
        """Memory that the guest's RAM is made of, until the machine is closed."""
        return self._machine.ram

    def wait_for_output(self, text: bytes, timeout: float | None = None) -> bool:
        """Wait until the guest has said `text`; False when it ends or time runs out first."""
        return self._collector.wait_for(text, timeout)

    def send(self, data: bytes) -> None:
        """Type `data` on the guest's console."""
        self._in_trio(lambda machine: machine.console.send(data))

    def end_input(self) -> None:
        """End the console's input, as Ctrl-D on an empty line does for a program."""
        self._now(lambda machine: machine.console.end_input())

    def pause(self) -> None:
        """Stop every vCPU between two instructions."""
        self._in_trio(Machine.pause)

    def resume(self) -> None:
        """Let a paused guest run on."""
        self._now(Machine.resume)

    def on_vcpu(self, index: int, function: Callable[[Vcpu], T]) -> T:
        """Call `function` with a vCPU, on its thread, between two instructions."""
        return self._in_trio(lambda machine: machine.on_vcpu(index, function))

    def interrupt(self) -> None:
        """End the run from outside."""
        self._now(lambda machine: machine.interrupt("interrupted by its owner"))
