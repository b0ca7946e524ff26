# SPDX-License-Identifier: MIT
"""The blocking twins of a machine's objects. Made by `generate_blocking`: not to be edited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.console import Console
from pyvmm.machine.ending import Ending, Requester, RunResult
from pyvmm.machine.events import E, Events, Listener
from pyvmm.machine.loop_thread import LoopTask
from pyvmm.machine.machine import Machine
from pyvmm.machine.machine_host import MachineHost
from pyvmm.machine.machine_memory import MachineMemory
from pyvmm.machine.machine_network import MachineNetwork
from pyvmm.machine.steering import Control, MachineState
from pyvmm.machine.vcpus import MachineVcpu, T

if TYPE_CHECKING:
    from pyvmm.machine.monitor.register_lines import VcpuRegisters
    from pyvmm.machine.network.cards import CardState, FilterState
    from pyvmm.machine.saved_machine import SavedMachine


class BlockingControl:
    """Control over a running guest."""

    def __init__(self, task: LoopTask[Machine], inner: Control) -> None:
        self._task = task
        self._inner = inner

    @property
    def state(self) -> MachineState:
        """State of the machine now."""
        return self._inner.state

    @property
    def ending(self) -> Ending | None:
        """Ending of the guest; None while it has not ended."""
        return self._inner.ending

    def wait(self, *, timeout: float | None = None) -> RunResult:
        """Wait for the guest's end and for its console to be passed on; say how it went.

        Raises what made the run fail, where it was not the guest: a `PyvmmError`.
        """
        return self._task.call(self._inner.wait, timeout)

    def pause(self, *, timeout: float | None = None) -> None:
        """Stop every vCPU between two instructions; returns when all have stopped."""
        self._task.call(self._inner.pause, timeout)

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Linear addresses that have a breakpoint, in the order in which they were set."""
        return self._inner.breakpoints

    def set_breakpoint(self, address: int, *, timeout: float | None = None) -> None:
        """Pause the machine, with `BreakpointHit`, before a vCPU executes what is at `address`.

        It is a linear address, on every vCPU whatever its page tables are; the guest's memory is
        not changed. `resume` goes on past it. Breakpoints stay through a reset and are no part of
        what is saved. One that repeats itself (REP, a jump to itself) is told once, until it is
        left. Raises `UsageError` for what is no address, `HostLacksError` where the host has no
        (more) breakpoints, `InternalError` where the guest has ended; then nothing has changed.
        """
        self._task.call(partial(self._inner.set_breakpoint, address), timeout)

    def clear_breakpoint(self, address: int, *, timeout: float | None = None) -> None:
        """Take one away again. Raises `UsageError` where there is none, and as setting one."""
        self._task.call(partial(self._inner.clear_breakpoint, address), timeout)

    def step(
        self, vcpu: int, *, others: Collection[int] = (), timeout: float | None = None
    ) -> bool:
        """Have one vCPU of a paused machine execute one instruction, and pause again then.

        No interrupt comes before it, where the host can keep them out. Meanwhile the vCPUs `others`
        run; what is left out of them stands still. `Stepped` is told after `Paused`. False where
        something else has paused the machine before, or it ended; who is cancelled leaves it
        running. Raises `UsageError` where it is not paused, `HostLacksError` where the host cannot.
        """
        return self._task.call(partial(self._inner.step, vcpu, others=others), timeout)

    def resume(self, only: Collection[int] | None = None) -> None:
        """Let a paused guest run on, or a new one run; nothing where it has ended.

        `only`: these of the vCPUs of a paused guest; the others stand still.
        """
        self._task.now(partial(self._inner.resume, only))

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Inside of it no vCPU executes an instruction, whatever `resume` says meanwhile.

        Nobody is told of it. It nests, and does not keep the run from ending. `reset` waits until
        nobody is inside: who calls it there waits for itself until the run ends.
        """
        with self._task.entered(self._inner.freeze()) as value:
            yield value

    def reset(self, *, timeout: float | None = None) -> None:
        """Start the guest again: vCPUs, devices and memory as they were when it started.

        RAM is zero but for the image, as after switching a PC off and on. What the guest said is
        kept, and what it was sent, but for the bytes in the UART's receive FIFO (16 at the most).
        So is a pause. It waits until nobody is inside of `freeze`: not to be called there. Raises
        `UsageError` on a machine with private memory, `InternalError` where the guest has ended, or
        ends while this waits.
        """
        self._task.call(self._inner.reset, timeout)

    def save(self, *, timeout: float | None = None) -> SavedMachine:
        """Save all of the machine: vCPUs, controllers, devices, memory, input not yet taken.

        The guest stands still meanwhile and goes on then; a pause stays one. What it said is not in
        it. Waits for the leases of its memory, a second at the most (`LeaseHeldError`). Raises
        `UsageError` for a machine with private memory, which the host cannot read, and
        `InternalError` where the guest has ended or has just reset its machine.
        """
        return self._task.call(self._inner.save, timeout)

    def restore(self, saved: SavedMachine, *, timeout: float | None = None) -> None:
        """Make the machine what `saved` is; it goes on from there, or stays paused.

        Input that was sent and not yet taken by the UART comes behind what was saved. Waits, as
        `reset` does: not to be called inside of `freeze`. Raises, before anything has changed,
        `HostLacksError` for a state of another host, version or processor, `UsageError` for one of
        another configuration (each names both sides), `LeaseHeldError` and `InternalError` as
        `save`. If the host fails in the middle, the run fails too.
        """
        self._task.call(partial(self._inner.restore, saved), timeout)

    def powerdown(self) -> None:
        """Press the power button: a guest with ACPI is told by an interrupt, if it wants to be.

        Listeners hear of it in any case. Nobody does where the guest has ended.
        """
        self._task.now(self._inner.powerdown)

    def interrupt(
        self, detail: str = "interrupted by its owner", requester: Requester = Requester.OWNER
    ) -> None:
        """End the run from outside, as Ctrl-C does. A second call changes nothing."""
        self._task.now(partial(self._inner.interrupt, detail, requester))


class BlockingConsole:
    """Serial console of a guest.

    Its owner reads it, unless an attachment does: then that is who gets what the guest says. A
    guest whose output nobody takes waits once `OUTPUT_LIMIT` bytes (1 MiB) have piled up.
    """

    def __init__(self, task: LoopTask[Machine], inner: Console) -> None:
        self._task = task
        self._inner = inner

    def receive(self, *, timeout: float | None = None) -> bytes:
        """Take what the guest has said, at least a byte; b"" after the end. One reader at a time.

        When it is cancelled, nothing has been taken. Raises `UsageError` where an attachment
        serves the console.
        """
        return self._task.call(self._inner.receive, timeout)

    def wait_for(self, text: bytes, *, timeout: float | None = None) -> bool:
        """Take what the guest says until `text` is in `output`; False where it ends before.

        Raises `UsageError` where another attachment than a `Collector` serves the console.
        """
        return self._task.call(partial(self._inner.wait_for, text), timeout)

    def read_all(self, *, timeout: float | None = None) -> bytes:
        """Take what the guest says until it ends; return `output`. Raises as `wait_for` does."""
        return self._task.call(self._inner.read_all, timeout)

    @property
    def output(self) -> bytes:
        """All that `wait_for` and `read_all` have taken, or a `Collector` has."""
        return self._inner.output

    @property
    def total(self) -> int:
        """Count of the bytes that the guest has said so far."""
        return self._inner.total

    @property
    def unread(self) -> int:
        """Count of the bytes of them that nobody has taken."""
        return self._inner.unread

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Type `data`; waits while much is queued that the guest has not taken (64 KiB)."""
        self._task.call(partial(self._inner.send, data), timeout)

    def end_input(self) -> None:
        """End the input, as Ctrl-D on an empty line does: the guest sees the carrier drop."""
        self._task.now(self._inner.end_input)


class BlockingMachineVcpu:
    """One vCPU of a machine."""

    def __init__(self, task: LoopTask[Machine], inner: MachineVcpu) -> None:
        self._task = task
        self._inner = inner

    @property
    def index(self) -> int:
        """Number of the vCPU, from 0 on."""
        return self._inner.index

    @property
    def thread_id(self) -> int | None:
        """The system's number of the vCPU's thread; None before it has begun."""
        return self._inner.thread_id

    def call(self, function: Callable[[Vcpu], T], *, timeout: float | None = None) -> T:
        """Call `function` with the host's vCPU, on its thread, between two instructions.

        Who is cancelled before that has not had it called. Raises what `function` raises, and
        `InternalError` when the run ends first.
        """
        return self._task.call(partial(self._inner.call, function), timeout)

    def registers(self, *, timeout: float | None = None) -> VcpuRegisters:
        """Read the registers. Raises `InternalError` when the run ends first."""
        return self._task.call(self._inner.registers, timeout)

    def translate(self, address: int, *, timeout: float | None = None) -> int | None:
        """Translate a linear address by the vCPU's page tables to a GPA.

        None where it is not mapped, or the host cannot see the tables. Raises `InternalError` when
        the run ends first.
        """
        return self._task.call(partial(self._inner.translate, address), timeout)


class BlockingEvents:
    """Events of a machine, as they come."""

    def __init__(self, task: LoopTask[Machine], inner: Events) -> None:
        self._task = task
        self._inner = inner

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Have `listener` called with each event inside of the block.

        It is called in the machine's own thread, and neither waits nor raises.
        """
        with self._task.entered(self._inner.listen(listener)) as value:
            yield value

    def wait_for(self, kind: type[E], *, timeout: float | None = None) -> E | None:
        """Wait for the next event of `kind`; None where the run is over and none will come.

        `Ended` is told to whoever asks later, too.
        """
        return self._task.call(partial(self._inner.wait_for, kind), timeout)


class BlockingMachineNetwork:
    """Network cards of a guest, and their links."""

    def __init__(self, task: LoopTask[Machine], inner: MachineNetwork) -> None:
        self._task = task
        self._inner = inner

    @property
    def cards(self) -> tuple[CardState, ...]:
        """State of each card now, in their order. Any thread."""
        return self._inner.cards

    def find(self, card: str) -> CardState | None:
        """Find the state of the card of this name now; None: there is none. Any thread."""
        return self._task.now(partial(self._inner.find, card))

    def set_link(self, card: str, *, up: bool) -> None:
        """Have the guest told that the card of this name has a link, or none.

        No frame goes either way without one. Raises `UsageError` where there is no such card, and
        for a link of a card whose network has ended.
        """
        self._task.now(partial(self._inner.set_link, card, up=up))

    def receive_filter(self, card: str) -> FilterState | None:
        """Find which frames the guest wants to get by the card of this name; None: there is none.

        The next change is told then (`ReceiveFilterChanged`), and no other until this is called
        again. Any thread.
        """
        return self._task.now(partial(self._inner.receive_filter, card))


@dataclass(frozen=True, slots=True, eq=False)
class BlockingMachine:
    """A machine that has been opened: whole, until its block is left."""

    config: MachineConfig
    host: MachineHost
    control: BlockingControl
    console: BlockingConsole
    memory: MachineMemory
    vcpus: tuple[BlockingMachineVcpu, ...]
    events: BlockingEvents
    network: BlockingMachineNetwork


def blocking(task: LoopTask[Machine]) -> BlockingMachine:
    """The twin of the machine that `task` holds."""
    machine = task.value
    return BlockingMachine(
        machine.config,
        machine.host,
        BlockingControl(task, machine.control),
        BlockingConsole(task, machine.console),
        machine.memory,
        tuple(BlockingMachineVcpu(task, one) for one in machine.vcpus),
        BlockingEvents(task, machine.events),
        BlockingMachineNetwork(task, machine.network),
    )
