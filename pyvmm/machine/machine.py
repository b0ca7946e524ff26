# SPDX-License-Identifier: MIT
"""A machine: one guest, from its configuration to its result.

::

    async with Machine(config) as machine:
        result = await machine.wait()

Everything that a machine has is owned by that ``async with``: one nursery, one thread per vCPU,
the VM, its memory. Leaving the block ends the guest, whatever it is doing, and gives everything
back; so does cancelling it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self, TypeVar

import trio

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.background import pump_posted, serve_backend
from pyvmm.machine.config import MachineConfig, RebootPolicy
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind, Requester, RunResult
from pyvmm.machine.events import (
    AccessRefused,
    Ended,
    Listener,
    MachineEvent,
    Paused,
    PowerdownAsked,
    Resumed,
    WasReset,
)
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.halt_watch import watch_for_halt
from pyvmm.machine.hosts import OpenedHost
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.reset import reset, serve_resets
from pyvmm.machine.result import make_result
from pyvmm.machine.vcpu_thread import Allow, VcpuThread
from pyvmm.machine.vcpu_threads import VcpuThreads, allow_by_policy

FLUSH_GRACE = 0.05
"""Seconds that a reader gets to take the last output of a guest that was stopped."""

Attachment = Callable[[ConsolePort], Awaitable[None]]
"""Function that serves a machine's console until the output has ended and is all passed on.

When cancelled it puts back what it could not pass on (`ConsolePort.put_back`)."""

T = TypeVar("T")


class Machine:
    """One guest. An asynchronous context manager that can be entered once.

    `attach` serves the console. Without it the owner reads `console` (`ConsolePort.receive`): a
    guest whose output nobody reads waits once `OUTPUT_LIMIT` bytes have piled up. `allow` decides
    on conversions that the guest did not announce where the policy is `ImplicitPolicy.ASK`; it is
    called on a vCPU's thread, which waits for it. Raises `UsageError` when it is missing there.
    With `paused` the guest waits for `resume` before its first instruction; its time limit does not
    wait.
    """

    def __init__(
        self,
        config: MachineConfig,
        attach: Attachment | None = None,
        *,
        allow: Allow | None = None,
        paused: bool = False,
    ) -> None:
        self.config = config
        self._starts_paused = paused
        self._listeners: list[Listener] = []
        self._told_paused = False
        self._first_run: float | None = None
        self._attach = attach
        self._allow = allow_by_policy(config.private, allow)
        self._lifetime: AbstractAsyncContextManager[None] | None = None
        self._result: RunResult | None = None
        self._failure_told = False
        self._overruling: Ending | None = None
        self._flush_scope: trio.CancelScope | None = None

    # -- what the owner does with it --

    @property
    def console(self) -> ConsolePort:
        """Console port: the guest's output comes out of it and its input goes in."""
        return self._console

    @property
    def ram(self) -> GuestRam:
        """Memory that the guest's RAM is made of, as the host has it mapped."""
        return self._assembly.ram

    @property
    def host(self) -> OpenedHost:
        """Host that the guest runs on."""
        return self._assembly.host

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory page by page: which side it is on, conversions, what is resident."""
        return self._assembly.memory

    @property
    def assembly(self) -> Assembly:
        """Parts that it consists of: VM, memory, devices. Nothing in it is the caller's."""
        return self._assembly

    @property
    def vcpu_thread_ids(self) -> tuple[int, ...]:
        """The system's numbers of the vCPUs' threads, of those that have been started."""
        return tuple(thread.native_id for thread in self._vcpus.threads if thread.native_id)

    @property
    def is_paused(self) -> bool:
        """True while `pause` is in force."""
        return self._control.is_paused

    async def wait(self) -> RunResult:
        """Wait for the guest's end and for its console to be passed on; say how it went.

        Raises what made the run fail, where it was not the guest: a `PyvmmError`.
        """
        await self._finished.wait()
        self._tell_failure()
        if self._result is None:
            raise InternalError("give a run's result", "the machine was cancelled")
        return self._result

    @property
    def ending(self) -> Ending | None:
        """Ending of the guest; None while it has not ended."""
        return self._control.ending

    @property
    def has_run(self) -> bool:
        """True once the guest has been let run at all (see `paused`)."""
        return self._first_run is not None

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Have `listener` called with each `MachineEvent` inside of the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def tell(self, event: MachineEvent) -> None:
        """Tell those who listen, in the machine's trio thread."""
        for listener in tuple(self._listeners):
            listener(event)

    async def pause(self) -> None:
        """Stop every vCPU between two instructions; returns when all have stopped."""
        await self._control.pause()
        if self._control.is_paused and not self._told_paused and not self._control.is_over:
            self._told_paused = True
            self.tell(Paused())

    def resume(self) -> None:
        """Let a paused guest run on."""
        if self._first_run is None:
            self._first_run = trio.current_time()
        self._control.resume()
        if self._told_paused:
            self._told_paused = False
            self.tell(Resumed())

    def beside(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task`, which must not raise, until it returns or the machine is closed."""
        self._nursery.start_soon(task)

    def frozen(self) -> AbstractAsyncContextManager[None]:
        """Inside of it no vCPU executes an instruction, whatever `resume` says meanwhile.

        Nobody is told of it. It does not keep the run from ending.
        """
        return self._control.frozen()

    async def reset(self) -> None:
        """Start the guest again: vCPUs, devices and memory as they were when it started.

        RAM is zero but for the image, as after switching a PC off and on. What the guest said and
        what it was sent but had not read are kept; so is a pause. Raises `UsageError` on a machine
        with private memory, `InternalError` where the guest has ended.
        """
        await reset(self, self._control, self._assembly)
        if not self._control.is_over:
            self.tell(WasReset())

    def powerdown(self) -> None:
        """Press the power button. There is no ACPI to tell the guest: only listeners hear of it."""
        self.tell(PowerdownAsked())

    async def on_vcpu(self, index: int, function: Callable[[Vcpu], T]) -> T:
        """Call `function` with a vCPU, on its thread, between two instructions of the guest's.

        Raises what `function` raises, `UsageError` for a vCPU that the machine does not have, and
        `InternalError` when the run ends first.
        """
        if not 0 <= index < self.config.cpus:
            raise UsageError(
                f"look at vCPU {index}",
                f"the machine has {self.config.cpus}",
                "count from 0",
            )
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        outcome: list[tuple[T | None, BaseException | None]] = []

        def call(vcpu: Vcpu) -> None:
            try:
                outcome.append((function(vcpu), None))
            except BaseException as failure:  # noqa: BLE001 - handed to the one who asked
                outcome.append((None, failure))
            token.run_sync_soon(done.set)

        self._control.call(index, call)
        async with trio.open_nursery() as nursery:

            async def give_up_at_the_end() -> None:
                await self._stopped.wait()
                done.set()

            nursery.start_soon(give_up_at_the_end)
            await done.wait()
            nursery.cancel_scope.cancel()
        if not outcome:
            raise InternalError(f"look at vCPU {index}", "the guest has ended")
        value, failure = outcome[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    def interrupt(self, detail: str, requester: Requester = Requester.OWNER) -> None:
        """End the run from outside, as Ctrl-C does. A second call changes nothing."""
        ending = Ending(EndingKind.INTERRUPTED, detail, requester=requester)
        if self._control.is_over and self._flush_scope is not None:
            self._overrule(ending)
        self._control.end(ending)

    # -- life --

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            raise InternalError("enter a machine", "it has been entered before", "make a new one")
        self._lifetime = self._live()
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._lifetime is None:
            raise InternalError("leave a machine", "it has not been entered")
        swallowed = await self._lifetime.__aexit__(kind, value, traceback)
        if value is None and not self._failure_told:
            self._tell_failure()
        return swallowed

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        self._finished = trio.Event()
        self._stopped = trio.Event()
        self._console = ConsolePort()
        self._control = RunControl(
            self.config.cpus,
            self._console.release,
            self._console.rearm,
            paused=self._starts_paused,
            reboots=self.config.reboot is RebootPolicy.AGAIN,
        )
        body_failure: BaseException | None = None
        with Assembly(self.config, self._control, self._console) as assembly:
            self._assembly = assembly
            self._vcpus = VcpuThreads(
                self.config, self._control, assembly, self._console, self._allow
            )
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._conduct, nursery)
                try:
                    yield
                except BaseException as failure:  # noqa: BLE001 - raised again, without a group
                    body_failure = failure
                self._control.end(Ending(EndingKind.CLOSED, "the machine was closed"))
                nursery.cancel_scope.cancel()
        if body_failure is not None:
            raise body_failure

    def _tell_failure(self) -> None:
        failure = self._control.failure
        if failure is not None:
            self._failure_told = True
            raise failure

    # -- the run --

    async def _conduct(self, nursery: trio.Nursery) -> None:
        """Run the vCPUs to their end; what serves them meanwhile goes into `nursery`."""
        vcpus = self._vcpus
        console_done = trio.Event()
        console_scope = trio.CancelScope()
        nursery.start_soon(pump_posted, self._control, self._assembly, self._console)
        nursery.start_soon(serve_resets, self, self._control, self._assembly)
        for backend in self._assembly.board.backends:
            nursery.start_soon(serve_backend, self._control, backend)
        if self._attach is None:
            console_done.set()
        else:
            nursery.start_soon(self._serve_console, self._attach, console_scope, console_done)
        if self._assembly.has_interrupts:
            nursery.start_soon(watch_for_halt, self, self._control)
        started = trio.current_time()
        if not self._starts_paused:
            self._first_run = started
        deadline = started + (self.config.timeout or float("inf"))
        try:
            try:
                await vcpus.run(deadline)
            finally:
                self._stopped.set()
            ended = trio.current_time()
            seconds = ended - (ended if self._first_run is None else self._first_run)
            self._assembly.board.drain_posted()
            self._tell_end(vcpus.threads)
            self._console.end_output()
            await self._flush(console_done, deadline)
            console_scope.cancel()
            # Until then the console may still put back what it could not pass on.
            await console_done.wait()
            ending = self._overruling or self._control.ending
            if ending is not None:
                self._result = make_result(
                    self.config,
                    self._assembly,
                    self._console,
                    vcpus.threads,
                    ending=ending,
                    seconds=seconds,
                    resets=self._control.resets,
                )
        except Exception as failure:  # noqa: BLE001 - told by `wait`
            self._control.fail(failure)
        finally:
            self._finished.set()

    async def _serve_console(
        self, attach: Attachment, scope: trio.CancelScope, done: trio.Event
    ) -> None:
        try:
            with scope:
                await attach(self._console)
        except Exception as failure:  # noqa: BLE001 - told by `wait`
            self._control.fail(failure)
        finally:
            done.set()

    # -- the end --

    def _tell_end(self, threads: Sequence[VcpuThread]) -> None:
        for thread in threads:
            if thread.refused is not None:
                self.tell(AccessRefused(thread.index, thread.refused))
        if self._control.ending is not None:
            self.tell(Ended(self._control.ending))

    def _overrule(self, ending: Ending) -> None:
        """Replace the ending of a guest that is over while its output is not."""
        self._overruling = ending
        if self._flush_scope is not None:
            self._flush_scope.cancel()

    async def _flush(self, console_done: trio.Event, deadline: float) -> None:
        """Wait until the console's reader has taken everything, as long as that makes sense."""
        if console_done.is_set():
            return
        ending = self._control.ending
        stopped = ending is None or ending.kind in {
            EndingKind.INTERRUPTED,
            EndingKind.TIME_LIMIT,
            EndingKind.CLOSED,
        }
        with trio.CancelScope(deadline=deadline) as self._flush_scope:
            if stopped:
                self._flush_scope.deadline = trio.current_time() + FLUSH_GRACE
            await console_done.wait()
        if self._flush_scope.cancelled_caught and not stopped and self._overruling is None:
            self._overruling = Ending(
                EndingKind.TIME_LIMIT,
                f"the guest had ended, but nobody read its output within {self.config.timeout:g} s",
            )
