# SPDX-License-Identifier: MIT
"""The life of a machine: one nursery, a thread for each vCPU, from assembling to the last close.

::

    async with open_machine(config) as machine:
        result = await machine.control.wait()

Everything that a machine has is owned by that ``async with``. Leaving the block ends the guest,
whatever it is doing, and gives everything back; so does cancelling it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import trio

from pyvmm.machine.assembly import Assembly
from pyvmm.machine.background import pump_posted, serve_backend
from pyvmm.machine.config import MachineConfig, RebootPolicy
from pyvmm.machine.console.console import Console
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.events import AccessRefused, Audience, Ended, Events
from pyvmm.machine.machine import Machine
from pyvmm.machine.machine_host import MachineHost
from pyvmm.machine.machine_memory import MachineMemory
from pyvmm.machine.machine_network import MachineNetwork
from pyvmm.machine.outcome import Outcome
from pyvmm.machine.reset import serve_resets
from pyvmm.machine.result import make_result
from pyvmm.machine.steering import Control
from pyvmm.machine.vcpu_thread import Allow
from pyvmm.machine.vcpu_threads import VcpuThreads, allow_by_policy
from pyvmm.machine.vcpus import MachineVcpu

if TYPE_CHECKING:  # Most machines are made of their configuration alone.
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.raw_exits import OnUnknown
    from pyvmm.machine.saved_machine import SavedMachine
    from pyvmm.net.frames import Wire

Attachment = Callable[[ConsolePort], Awaitable[None]]
"""Function that serves a machine's console until the output has ended and is all passed on.

When cancelled it puts back what it could not pass on (`ConsolePort.put_back`)."""


class Running:
    """Parts of a machine that is assembled. Made in a trio task.

    `machine` is what its owner gets; everything else is the inside's.
    """

    def __init__(
        self,
        config: MachineConfig,
        control: RunControl,
        port: ConsolePort,
        assembly: Assembly,
        *,
        attach: Attachment | None,
        allow: Allow,
        unknown: OnUnknown | None,
        paused: bool,
    ) -> None:
        self.control = control
        self.port = port
        self.assembly = assembly
        self._started = trio.current_time()
        self.outcome = Outcome(control, None if paused else self._started)
        self.audience = Audience()
        self.threads = VcpuThreads(config, control, assembly, port, allow, unknown=unknown)
        self._attach = attach
        self.may_attach = trio.Event()
        self._console_done = trio.Event()
        self._console_scope = trio.CancelScope()
        vcpus = tuple(
            MachineVcpu(
                thread.index,
                thread,
                control=control,
                stopped=self.outcome.stopped,
                read=assembly.memory.read,
            )
            for thread in self.threads.threads
        )
        self.machine = Machine(
            config,
            MachineHost(assembly),
            Control(
                control,
                config=config,
                port=port,
                outcome=self.outcome,
                audience=self.audience,
                assembly=assembly,
                vcpus=vcpus,
            ),
            Console(port, attach),
            MachineMemory(assembly.memory, assembly.board.backends),
            vcpus,
            Events(self.audience),
            MachineNetwork(assembly.cards),
        )
        if assembly.disks is not None:
            assembly.disks.attach(
                self.machine.control.pause, lambda: control.is_paused, self.audience
            )
        if assembly.cards is not None:
            assembly.cards.attach(self.audience)

    def serve(self, nursery: trio.Nursery) -> None:
        """Start in `nursery` what serves the vCPUs while they run."""
        control, assembly = self.control, self.assembly
        nursery.start_soon(pump_posted, control, assembly, self.port)
        if self.machine.config.reboot is RebootPolicy.AGAIN:
            nursery.start_soon(serve_resets, control, assembly, self.machine.vcpus, self.audience)
        for backend in assembly.board.backends:
            nursery.start_soon(serve_backend, control, backend)
        if assembly.has_interrupts:
            self._watch_for_halt(nursery)
        if self._attach is None:
            self._console_done.set()
        else:
            nursery.start_soon(self._serve_console, self._attach)

    async def conduct(self) -> None:
        """Run the vCPUs to their end, and collect the result."""
        port, assembly, outcome = self.port, self.assembly, self.outcome
        config, console_done = self.machine.config, self._console_done
        deadline = self._started + (config.timeout or float("inf"))
        try:
            try:
                # What serves them waits by then. Otherwise it and the vCPUs' threads, which begin
                # with many short system calls, hand each other the interpreter lock at each.
                await trio.lowlevel.checkpoint()
                await self.threads.run(deadline)
            finally:
                outcome.stopped.set()
            seconds = outcome.seconds()
            assembly.board.drain_posted()
            self._tell_end()
            port.end_output()
            await outcome.flush(console_done, deadline, config.timeout)
            if not console_done.is_set():
                self._console_scope.cancel()
                # Until then the console may still put back what it could not pass on.
                await console_done.wait()
            if outcome.ending is not None:
                outcome.result = make_result(
                    config,
                    assembly,
                    port,
                    self.threads.threads,
                    ending=outcome.ending,
                    seconds=seconds,
                    resets=self.control.resets,
                )
        except Exception as failure:  # noqa: BLE001 - told by `Control.wait`
            self.control.fail(failure)
        finally:
            self.audience.close()
            outcome.finished.set()

    def _watch_for_halt(self, nursery: trio.Nursery) -> None:
        from pyvmm.machine.halt_watch import Watched, watch_for_halt  # Without, HLT exits.

        nursery.start_soon(
            watch_for_halt,
            Watched(
                self.control,
                self.machine.vcpus,
                self.assembly.vm.can_send_unmaskable,
                lambda: self.port.is_full,
            ),
        )

    async def _serve_console(self, attach: Attachment) -> None:
        try:
            with self._console_scope:
                if not self.may_attach.is_set():
                    await self.may_attach.wait()
                await attach(self.port)
        except Exception as failure:  # noqa: BLE001 - told by `Control.wait`
            self.control.fail(failure)
        finally:
            self._console_done.set()

    def _tell_end(self) -> None:
        for thread in self.threads.threads:
            if thread.refused is not None:
                self.audience.tell(AccessRefused(thread.index, thread.refused))
        if self.control.ending is not None:
            self.audience.tell(Ended(self.control.ending))


def _wires(config: MachineConfig) -> AbstractAsyncContextManager[Sequence[Wire]]:
    """The wires of the machine's cards, opened inside of the block; most have none."""
    if config.hardware is None or not config.hardware.cards:
        return nullcontext(())
    from pyvmm.machine.network.opening import opened_wires

    return opened_wires(config.hardware.cards)


@asynccontextmanager
async def running(
    config: MachineConfig,
    attach: Attachment | None = None,
    *,
    allow: Allow | None = None,
    unknown: OnUnknown | None = None,
    paused: bool = False,
    saved: SavedMachine | None = None,
    recorder: Recorder | None = None,
) -> AsyncIterator[Running]:
    """As `open_machine`, with the machine's inside.

    `recorder` is told of every call and exit, from the opening of the host on.
    """
    waits = paused or saved is not None
    allowed = allow_by_policy(config.private, allow)
    port = ConsolePort()
    control = RunControl(
        config.cpus,
        port.release,
        port.rearm,
        paused=waits,
        reboots=config.reboot is RebootPolicy.AGAIN,
    )
    body_failure: BaseException | None = None
    async with _wires(config) as wires:
        with Assembly(config, control, port, recorder, wires) as assembly:
            inside = Running(
                config,
                control,
                port,
                assembly,
                attach=attach,
                allow=allowed,
                unknown=unknown,
                paused=waits,
            )
            with inside.threads:
                async with trio.open_nursery() as nursery:
                    inside.serve(nursery)
                    nursery.start_soon(inside.conduct)
                    try:
                        if saved is not None:
                            await inside.machine.control.restore(saved)
                        # Not before: what it sends comes behind the input that was saved.
                        inside.may_attach.set()
                        if waits and not paused:
                            inside.machine.control.resume()
                        yield inside
                    except BaseException as failure:  # noqa: BLE001 - raised again, alone
                        body_failure = failure
                    control.end(Ending(EndingKind.CLOSED, "the machine was closed"))
                    nursery.cancel_scope.cancel()
    if body_failure is not None:
        raise body_failure
    if not inside.outcome.failure_told:
        inside.outcome.tell_failure()


@asynccontextmanager
async def open_machine(
    config: MachineConfig,
    attach: Attachment | None = None,
    *,
    allow: Allow | None = None,
    unknown: OnUnknown | None = None,
    paused: bool = False,
    saved: SavedMachine | None = None,
) -> AsyncIterator[Machine]:
    """Make a machine and run its guest inside of the block, in a trio task.

    `attach` serves the console; without it the owner reads `Machine.console`: a guest whose output
    nobody reads waits once 1 MiB has piled up. `allow` decides on conversions that the guest did
    not announce where the policy is `ImplicitPolicy.ASK`; it is called on a vCPU's thread, which
    waits for it. So is `unknown`, with every exit whose reason is not known here, and every memory
    fault with flags that are not: where it gives False, the run ends as without it. With `paused`
    the guest waits for `Control.resume` before its first instruction; its time limit does not wait.
    With `saved` it is that machine and goes on from there: then `config` may differ from the one
    saved in what the guest does not see, such as the time limit.

    Raises a `PyvmmError`: `UsageError` where nobody answers for ASK, `ImageError`, `HostLacksError`
    and others, for `saved` as `Control.restore`, before the guest starts, and at the end of the
    block what made the run fail, unless `Control.wait` has raised it.
    """
    async with running(
        config, attach, allow=allow, unknown=unknown, paused=paused, saved=saved
    ) as inside:
        yield inside.machine
