# SPDX-License-Identifier: MIT
"""Steering a machine from outside: pause, reset, saving, power button, end."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import HostLacksError, InternalError, PyvmmError, UsageError
from pyvmm.hosts.breakpoints import require_breakpoints
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import Hit, RunControl
from pyvmm.machine.ending import Ending, EndingKind, Requester, RunResult
from pyvmm.machine.events import (
    Audience,
    BreakpointHit,
    Events,
    MachineEvent,
    Paused,
    PowerdownAsked,
    Resumed,
    Stepped,
    WasReset,
)
from pyvmm.machine.outcome import Outcome
from pyvmm.machine.reset import reset
from pyvmm.machine.vcpus import MachineVcpu

if TYPE_CHECKING:  # Most machines are never saved.
    from pyvmm.machine.saved_machine import SavedMachine
    from pyvmm.machine.saving import Inside


_Change = Callable[[tuple[int, ...]], tuple[int, ...]]


class MachineState(enum.Enum):
    """State of a machine."""

    NEW = "new"
    """Its guest has not executed an instruction, and waits for `Control.resume`."""
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    """No vCPU runs, or will run any more."""


class Control:
    """Control over a running guest."""

    def __init__(
        self,
        control: RunControl,
        *,
        config: MachineConfig,
        port: ConsolePort,
        outcome: Outcome,
        audience: Audience,
        assembly: Assembly,
        vcpus: Sequence[MachineVcpu],
    ) -> None:
        self._config = config
        self._control = control
        self._port = port
        self._outcome = outcome
        self._audience = audience
        self._assembly = assembly
        self._vcpus = vcpus
        self._told_paused = False
        self._breakpoints: tuple[int, ...] = ()
        control.tell_breakpoints(self._hit)

    @property
    def state(self) -> MachineState:
        """State of the machine now."""
        if self._control.is_over:
            return MachineState.ENDED
        if self._outcome.first_run is None:
            return MachineState.NEW
        return MachineState.PAUSED if self._control.is_paused else MachineState.RUNNING

    @property
    def ending(self) -> Ending | None:
        """Ending of the guest; None while it has not ended."""
        return self._control.ending

    async def wait(self) -> RunResult:
        """Wait for the guest's end and for its console to be passed on; say how it went.

        Raises what made the run fail, where it was not the guest: a `PyvmmError`.
        """
        return await self._outcome.wait()

    async def pause(self) -> None:
        """Stop every vCPU between two instructions; returns when all have stopped."""
        await self._control.pause()
        if self._control.is_paused and not self._control.is_over:
            self._tell_paused()

    def _tell_paused(self) -> None:
        if not self._told_paused:
            self._told_paused = True
            self._audience.tell(Paused())

    def _hit(self, hits: Sequence[Hit]) -> None:
        self._tell_paused()
        for vcpu, address, stepped in hits:
            self._audience.tell((Stepped if stepped else BreakpointHit)(vcpu, address))

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Linear addresses that have a breakpoint, in the order in which they were set."""
        return self._breakpoints

    async def set_breakpoint(self, address: int) -> None:
        """Pause the machine, with `BreakpointHit`, before a vCPU executes what is at `address`.

        It is a linear address, on every vCPU whatever its page tables are; the guest's memory is
        not changed. `resume` goes on past it. Breakpoints stay through a reset and are no part of
        what is saved. One that repeats itself (REP, a jump to itself) is told once, until it is
        left. Raises `UsageError` for what is no address, `HostLacksError` where the host has no
        (more) breakpoints, `InternalError` where the guest has ended; then nothing has changed.
        """
        if address in self._breakpoints:
            return
        wanted = (*self._breakpoints, address)
        most = await trio.to_thread.run_sync(self._assembly.system.most_breakpoints)
        require_breakpoints(wanted, most)
        await self._change_breakpoints(_with(address), _without(address))

    async def clear_breakpoint(self, address: int) -> None:
        """Take one away again. Raises `UsageError` where there is none, and as setting one."""
        if address not in self._breakpoints:
            raise UsageError(f"clear the breakpoint at {address:#x}", "there is none")
        await self._change_breakpoints(_without(address), _with(address))

    async def _change_breakpoints(self, change: _Change, undo: _Change) -> None:
        """Let every vCPU have them. A vCPU takes what they are then: changes may overlap.

        Where one cannot have them `undo` puts things back, on the others, too.
        """
        if self._control.is_over:
            raise InternalError("change the breakpoints", "the guest has ended")
        self._breakpoints = change(self._breakpoints)
        # Not half of them. Bounded: a vCPU that does not answer ends the run.
        with trio.CancelScope(shield=True):
            try:
                for vcpu in self._vcpus:
                    await vcpu.call(self._give_breakpoints)
            except BaseException:
                self._breakpoints = undo(self._breakpoints)
                for vcpu in self._vcpus:
                    with suppress(PyvmmError):
                        await vcpu.call(self._give_breakpoints)
                raise

    def _give_breakpoints(self, vcpu: Vcpu) -> None:
        vcpu.set_breakpoints(self._breakpoints)

    async def step(self, vcpu: int, *, others: Collection[int] = ()) -> bool:
        """Have one vCPU of a paused machine execute one instruction, and pause again then.

        No interrupt comes before it, where the host can keep them out. Meanwhile the vCPUs `others`
        run; what is left out of them stands still. `Stepped` is told after `Paused`. False where
        something else has paused the machine before, or it ended; who is cancelled leaves it
        running. Raises `UsageError` where it is not paused, `HostLacksError` where the host cannot.
        """
        attempt = f"step vCPU {vcpu}"
        if self._control.is_over:
            raise InternalError(attempt, "the guest has ended")
        if not self._control.is_paused:
            raise UsageError(attempt, "the machine is not paused", "pause it first")
        if not await trio.to_thread.run_sync(self._assembly.system.can_step):
            cause = "a step stops no guest on this host: its KVM, tried with one, ran past it"
            raise HostLacksError(attempt, cause, "use the model (--host model)")
        await self._vcpus[vcpu].call(self._ask_step)
        try:
            stepped = await self._until_paused(lambda: self.resume({vcpu, *others}), vcpu)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._take_step_back(vcpu)
            raise
        if not stepped:
            await self._take_step_back(vcpu)
        return stepped

    async def _until_paused(self, go: Callable[[], None], vcpu: int) -> bool:
        """Wait for the pause, or the end, after `go`; tell whether it was for the vCPU's step."""
        heard: list[MachineEvent] = []
        stop = trio.Event()

        def hear(event: MachineEvent) -> None:
            heard.append(event)
            if isinstance(event, Paused):
                stop.set()

        with Events(self._audience).listen(hear):
            async with trio.open_nursery() as nursery:

                async def until_over() -> None:
                    await self._audience.over.wait()
                    stop.set()

                nursery.start_soon(until_over)
                go()
                await stop.wait()
                nursery.cancel_scope.cancel()
        return any(isinstance(one, Stepped) and one.vcpu == vcpu for one in heard)

    async def _take_step_back(self, vcpu: int) -> None:
        with suppress(PyvmmError):  # The guest may have ended.
            await self._vcpus[vcpu].call(self._give_breakpoints)

    def _ask_step(self, vcpu: Vcpu) -> None:
        vcpu.set_breakpoints(self._breakpoints, step=True)

    def resume(self, only: Collection[int] | None = None) -> None:
        """Let a paused guest run on, or a new one run; nothing where it has ended.

        `only`: these of the vCPUs of a paused guest; the others stand still.
        """
        if self._control.is_over:
            return
        if self._outcome.first_run is None:
            self._outcome.first_run = trio.current_time()
        self._control.resume(only)
        if self._told_paused:
            self._told_paused = False
            self._audience.tell(Resumed())

    @asynccontextmanager
    async def freeze(self) -> AsyncIterator[None]:
        """Inside of it no vCPU executes an instruction, whatever `resume` says meanwhile.

        Nobody is told of it. It nests, and does not keep the run from ending. `reset` waits until
        nobody is inside: who calls it there waits for itself until the run ends.
        """
        async with self._control.frozen():
            yield

    async def reset(self) -> None:
        """Start the guest again: vCPUs, devices and memory as they were when it started.

        RAM is zero but for the image, as after switching a PC off and on. What the guest said is
        kept, and what it was sent, but for the bytes in the UART's receive FIFO (16 at the most).
        So is a pause. It waits until nobody is inside of `freeze`: not to be called there. Raises
        `UsageError` on a machine with private memory, `InternalError` where the guest has ended, or
        ends while this waits.
        """
        await reset(self._control, self._assembly, self._vcpus)
        if not self._control.is_over:
            self._audience.tell(WasReset())

    async def save(self) -> SavedMachine:
        """Save all of the machine: vCPUs, controllers, devices, memory, input not yet taken.

        The guest stands still meanwhile and goes on then; a pause stays one. What it said is not in
        it. Waits for the leases of its memory, a second at the most (`LeaseHeldError`). Raises
        `UsageError` for a machine with private memory, which the host cannot read, and
        `InternalError` where the guest has ended or has just reset its machine.
        """
        from pyvmm.machine.saving import save

        return await save(self._inside())

    async def restore(self, saved: SavedMachine) -> None:
        """Make the machine what `saved` is; it goes on from there, or stays paused.

        Input that was sent and not yet taken by the UART comes behind what was saved. Waits, as
        `reset` does: not to be called inside of `freeze`. Raises, before anything has changed,
        `HostLacksError` for a state of another host, version or processor, `UsageError` for one of
        another configuration (each names both sides), `LeaseHeldError` and `InternalError` as
        `save`. If the host fails in the middle, the run fails too.
        """
        from pyvmm.machine.saving import restore

        await restore(self._inside(), saved)

    def _inside(self) -> Inside:
        from pyvmm.machine.saving import Inside

        return Inside(self._config, self._control, self._assembly, self._port, self._vcpus)

    def powerdown(self) -> None:
        """Press the power button: a guest with ACPI is told by an interrupt, if it wants to be.

        Listeners hear of it in any case. Nobody does where the guest has ended.
        """
        if not self._control.is_over:
            button = self._assembly.power_button
            if button is not None:
                button.press()
            self._audience.tell(PowerdownAsked())

    def interrupt(
        self,
        detail: str = "interrupted by its owner",
        requester: Requester = Requester.OWNER,
    ) -> None:
        """End the run from outside, as Ctrl-C does. A second call changes nothing."""
        self._outcome.end(Ending(EndingKind.INTERRUPTED, detail, requester=requester))


def _with(address: int) -> _Change:
    return lambda now: (*_without(address)(now), address)


def _without(address: int) -> _Change:
    return lambda now: tuple(one for one in now if one != address)
