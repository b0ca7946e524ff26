# SPDX-License-Identifier: MIT
"""Driver of a guest under pyvmm itself: on the model, on KVM, and on the lab's KVM from inside."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import HostLacksError, InternalError, NoPermissionError, UsageError
from pyvmm.machine.config import HostChoice, MachineConfig, PrivateConfig
from pyvmm.machine.ending import EndingKind, RunResult
from pyvmm.machine.events import (
    AccessRefused,
    BreakpointHit,
    CaptureFailed,
    DiskFailed,
    Ended,
    LinkChanged,
    MachineEvent,
    NetworkEnded,
    Paused,
    PowerdownAsked,
    ReceiveFilterChanged,
    Resumed,
    Stepped,
    WasReset,
)
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.steering import MachineState
from pyvmm.machine.vcpus import MachineVcpu
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.testing.drivers.driver import (
    CannotError,
    Event,
    EventName,
    Feature,
    Outcome,
    OutcomeKind,
    Registers,
    VcpuState,
)
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.drivers.pyvmm_states import registers_of, state_of
from pyvmm.testing.failures import is_told
from pyvmm.testing.request import BootRequest

if TYPE_CHECKING:
    from pyvmm.machine.hardware import Hardware
    from pyvmm.machine.saved_machine import SavedMachine
    from pyvmm.testing.network.ports import Port

__tracebackhide__ = is_told

_CHOICES = {
    HostName.AUTO: HostChoice.AUTO,
    HostName.MODEL: HostChoice.MODEL,
    HostName.KVM: HostChoice.KVM,
    HostName.LAB: HostChoice.KVM,
}
_OUTCOMES = {
    EndingKind.EXITED: OutcomeKind.EXITED,
    EndingKind.RESET: OutcomeKind.RESET,
    EndingKind.PANICKED: OutcomeKind.PANICKED,
    EndingKind.TIME_LIMIT: OutcomeKind.TIME_LIMIT,
    EndingKind.INTERRUPTED: OutcomeKind.INTERRUPTED,
    EndingKind.CLOSED: OutcomeKind.INTERRUPTED,
}
"""All others are crashes."""


class PyvmmDriver:
    """A `Driver` on a machine of pyvmm's."""

    def __init__(self, machine: Machine, request: BootRequest) -> None:
        self.machine = machine
        self.host = _host(machine, request)
        self.by_hand = _by_hand(request, self.host)
        self.result: RunResult | None = None
        self._opened = trio.current_time()
        self._listeners: list[Callable[[Event], None]] = []

    # -- console and end --

    async def receive(self) -> bytes:
        """Take what the guest has said, at least a byte; b"" after the end."""
        return await self.machine.console.receive()

    async def send(self, data: bytes) -> None:
        """Type `data` at the console. Raises `InternalError` where the run is over."""
        self._require_running("type at the console")
        await self.machine.console.send(data)

    async def end_input(self) -> None:
        """End the console's input. Raises as `send`."""
        self._require_running("end the console's input")
        self.machine.console.end_input()

    async def wait(self) -> Outcome:
        """Wait for the end of the run."""
        self.result = await self.machine.control.wait()
        return outcome_of(self.result)

    # -- steering --

    async def stop(self) -> None:
        """Stop every vCPU between two instructions. Raises as `send`."""
        await self.machine.control.pause()
        self._require_running("stop the guest")

    async def resume(self) -> None:
        """Let the vCPUs run on. Raises as `send`."""
        self._require_running("let the guest run")
        self.machine.control.resume()

    def _require_running(self, attempt: str) -> None:
        if self.machine.control.state is MachineState.ENDED:
            raise InternalError(attempt, "the guest has ended")

    async def reset(self) -> None:
        """Put the machine back to its start."""
        if self.machine.config.private is not None:
            raise self._cannot(Feature.RESET, "private memory is launched and measured once")
        await self.machine.control.reset()

    async def powerdown(self) -> None:
        """Press the power button. Raises as `send`."""
        self._require_running("press the guest's power button")
        self.machine.control.powerdown()

    async def save(self) -> object:
        """State of the whole machine, for `restore`: a `SavedMachine`."""
        if self.machine.config.private is not None:
            raise self._cannot(Feature.SAVING, "the host cannot read private memory")
        return await self.machine.control.save()

    async def restore(self, saved: object) -> None:
        """Make the machine what `saved` is. Raises `UsageError` where that is of another kind."""
        await self.machine.control.restore(_own(saved))

    async def set_link(self, card: int, up: bool) -> None:
        """Have the guest told that a network card has a link, or none."""
        self.machine.network.set_link(self.machine.network.cards[card].name, up=up)

    # -- looking inside --

    async def registers(self, vcpu: int) -> Registers:
        """Read the registers of a vCPU."""
        known = await self._vcpu(vcpu).registers()
        return registers_of(known.regs, known.sregs)

    async def vcpu_states(self) -> Sequence[VcpuState]:
        """Look at every vCPU, while all of them stand still; after the end, as it was then."""
        if self.result is not None:
            return [state_of(report) for report in self.result.reports]
        from pyvmm.machine.report import collect

        machine = self.machine
        async with machine.control.freeze():
            return [
                state_of(await vcpu.call(partial(collect, vcpu.index, read=machine.memory.read)))
                for vcpu in machine.vcpus
            ]

    async def translate(self, vcpu: int, address: int) -> int | None:
        """GPA of a linear address by the vCPU's page tables; None where it is not mapped."""
        return await self._vcpu(vcpu).translate(address)

    def _vcpu(self, index: int) -> MachineVcpu:
        if not 0 <= index < len(self.machine.vcpus):
            raise UsageError(
                f"look at vCPU {index}", f"the machine has {len(self.machine.vcpus)}, from 0 on"
            )
        return self.machine.vcpus[index]

    async def read_memory(self, gpa: int, size: int) -> bytes:
        """Read guest memory. Raises `UsageError` for private pages and where there is no RAM."""
        attempt = f"read {size} bytes of guest memory at gpa {gpa:#x}"
        self._check(attempt, gpa, size)
        data = await trio.to_thread.run_sync(partial(self.machine.memory.read, gpa, size))
        if data is None:
            raise self._unseen(attempt, gpa, size)
        return data

    async def write_memory(self, gpa: int, data: bytes) -> None:
        """Write guest memory. Raises as `read_memory`."""
        attempt = f"write {len(data)} bytes of guest memory at gpa {gpa:#x}"
        self._check(attempt, gpa, len(data))
        if not await trio.to_thread.run_sync(partial(self.machine.memory.write, gpa, data)):
            raise self._unseen(attempt, gpa, len(data))

    def _check(self, attempt: str, gpa: int, size: int) -> None:
        if gpa < 0 or size < 0:
            raise UsageError(attempt, "addresses and sizes are not negative")

    def _unseen(self, attempt: str, gpa: int, size: int) -> UsageError:
        """Name the first page that the host does not see."""
        at = gpa
        for run in self.machine.memory.states.runs(GpaRange(gpa, gpa + size)):
            if run.range.start > at:
                break
            if run.state is not PageState.SHARED:
                return UsageError(
                    attempt,
                    f"the page at gpa {run.range.start & ~0xFFF:#x} is {run.state.value}, "
                    "and the host does not see it",
                    'let the guest share it, or vm.convert(..., "shared")',
                )
            at = run.range.end
        return UsageError(attempt, f"there is no RAM at gpa {at:#x}", "look at vm.memory.ranges")

    def memory_ranges(self) -> Sequence[tuple[int, int]]:
        """(GPA, size) of each range of RAM, ascending."""
        ranges: list[tuple[int, int]] = []
        for run in self.machine.memory.states.runs():
            if ranges and sum(ranges[-1]) == run.range.start:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + run.range.size)
            else:
                ranges.append((run.range.start, run.range.size))
        return ranges

    async def page_states(self) -> Sequence[tuple[int, int, str]]:
        """(GPA, size, "shared", "private" or "withheld"), ascending."""
        runs = await trio.to_thread.run_sync(self.machine.memory.states.runs)
        return [(run.range.start, run.range.size, run.state.value) for run in runs]

    async def convert(self, gpa: int, size: int, side: str) -> None:
        """Convert pages to "shared" or "private"."""
        if self.machine.config.private is None:
            raise self._cannot(Feature.PAGE_STATES, "the machine has no private memory")
        if side not in (Side.SHARED.value, Side.PRIVATE.value):
            raise UsageError(f"convert to {side!r}", 'a side is "shared" or "private"')
        convert = self.machine.memory.conversion.convert
        await trio.to_thread.run_sync(partial(convert, gpa, size, Side(side)))

    async def set_breakpoint(self, address: int) -> None:
        """Stop the machine, with an event, before it executes the linear address `address`."""
        try:
            await self.machine.control.set_breakpoint(address)
        except HostLacksError as error:
            raise self._cannot(Feature.BREAKPOINTS, error.cause) from error

    async def clear_breakpoint(self, address: int) -> None:
        """Take that breakpoint away."""
        await self.machine.control.clear_breakpoint(address)

    async def core(self, path: str) -> None:
        """Write the machine's state to `path` as an ELF core that gdb, crash and drgn read.

        The guest stands still meanwhile, or has ended. Private memory is in the headers only.
        """
        from pyvmm.testing.drivers.pyvmm_core import core_of_ended, core_of_running

        if self.result is not None:
            await core_of_ended(self.machine, self.result.reports, path)
        else:
            await core_of_running(self.machine, path)

    def _cannot(self, feature: Feature, reason: str) -> CannotError:
        return CannotError(self.host, feature, reason)

    # -- events --

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` told of each event, in the driver's loop; it does not wait or raise."""
        self._listeners.append(listener)

    def hear(self, event: MachineEvent) -> None:
        """Pass on an event of the machine's."""
        seconds = trio.current_time() - self._opened
        for name, detail in _told(event):
            vcpu = event.vcpu if isinstance(event, BreakpointHit) else None
            for listener in self._listeners:
                listener(Event(name, detail, vcpu, seconds))


def _told(event: MachineEvent) -> Sequence[tuple[EventName, str]]:
    match event:
        case Paused():
            return [(EventName.PAUSED, "")]
        case Resumed():
            return [(EventName.RESUMED, "")]
        case BreakpointHit(_, address):
            return [(EventName.BREAKPOINT, f"{address:#x}")]
        case WasReset(by_guest):
            return [(EventName.RESET, "by the guest" if by_guest else "")]
        case PowerdownAsked():
            return [(EventName.POWERDOWN, "")]
        case AccessRefused() | Stepped() | DiskFailed():
            return []  # The end says so; nobody steps in a boot test, or gives it a disk.
        case LinkChanged() | ReceiveFilterChanged() | NetworkEnded() | CaptureFailed():
            return []  # A test does that to its own network.
        case Ended(ending):
            ended = [(EventName.ENDED, ending.detail)]
            panicked = ending.kind is EndingKind.PANICKED
            return [(EventName.PANICKED, ending.detail), *ended] if panicked else ended


def outcome_of(result: RunResult) -> Outcome:
    """Outcome that a machine's result is."""
    ending = result.ending
    kind = _OUTCOMES.get(ending.kind, OutcomeKind.CRASHED)
    return Outcome(kind, ending.detail, ending.status, result.seconds, dict(result.exits))


def _host(machine: Machine, request: BootRequest) -> HostName:
    if request.host is not HostName.AUTO:
        return request.host
    return HostName.KVM if machine.host.choice is HostChoice.KVM else HostName.MODEL


def _by_hand(request: BootRequest, host: HostName) -> str:
    parts = ["pyvmm", "run", str(request.path or request.name)]
    mib, odd = divmod(request.memory, MIB)
    parts += ["--memory", f"{request.memory}B" if odd else f"{mib}M", "--cpus", str(request.cpus)]
    parts += ["--host", host.value]
    if request.append:
        parts += ["--append", request.append.decode("utf-8", "surrogateescape")]
    if request.initrd is not None:
        parts += ["--initrd", str(request.initrd_path or "initrd")]
    if request.private:
        parts.append("--private")
        if request.backing is not PrivateBacking.AUTO:
            parts += ["--private-backing", request.backing.value]
    for port in request.net:
        mtu = "" if port.told_mtu is None else f",mtu={port.told_mtu}"
        parts += ["--net", f"tap,mac={port.mac.hex(':')}{mtu}"]
    return shlex.join([*parts, "--timeout", f"{request.timeout:g}"])


def machine_config(request: BootRequest, taps: Sequence[tuple[int, ...]] = ()) -> MachineConfig:
    """The machine that a request asks for; `taps` are the descriptors of its ports' queues.

    Raises `UsageError` where it cannot be.
    """
    private = None
    if request.firmware is not None:
        private = PrivateConfig(request.firmware, backing=request.backing)
    hardware = None if not taps else _with_cards(request.net, taps)
    return MachineConfig(
        request.image,
        name=request.name,
        memory=request.memory,
        cpus=request.cpus,
        command_line=request.append,
        initrd=request.initrd,
        initrd_name=str(request.initrd_path or "initrd"),
        timeout=request.timeout,
        host=_CHOICES[request.host],
        private=private,
        report_always=True,
        hardware=hardware,
    )


def _with_cards(ports: Sequence[Port], taps: Sequence[tuple[int, ...]]) -> Hardware:
    from pyvmm.machine.hardware import DescriptorNet, Hardware, NetCard

    return Hardware(
        cards=tuple(
            NetCard(DescriptorNet(fds), mac=port.mac, mtu=port.told_mtu)
            for port, fds in zip(ports, taps, strict=True)
        )
    )


def _own(saved: object) -> SavedMachine:
    """Give `saved`. Raises `UsageError` where it is no state of such a machine."""
    from pyvmm.machine.saved_machine import SavedMachine

    if not isinstance(saved, SavedMachine):
        raise UsageError(
            f"restore {type(saved).__name__}", "it is no machine that pyvmm saved",
            "give what vm.save() gives on this host",
        )  # fmt: skip
    return saved


@asynccontextmanager
async def open_pyvmm_driver(request: BootRequest) -> AsyncIterator[PyvmmDriver]:
    """Boot the guest in a machine of pyvmm's inside of the block.

    Raises `CannotError` where the host is not here, or lacks what the machine needs.
    """
    saved = None if request.saved is None else _own(request.saved.machine)
    async with AsyncExitStack() as stack:
        taps = [stack.enter_context(port.taken()) for port in request.net]
        config = machine_config(request, taps)
        try:
            machine = await stack.enter_async_context(
                open_machine(config, paused=True, saved=saved)
            )
        except (HostLacksError, NoPermissionError) as error:
            feature = Feature.PRIVATE_MEMORY if request.private else None
            raise CannotError(
                request.host, feature, f"{error.cause} (to {error.attempt})"
            ) from error
        driver = PyvmmDriver(machine, request)
        stack.enter_context(machine.events.listen(driver.hear))
        # Not before somebody listens: a guest may end at once.
        if not request.paused:
            machine.control.resume()
        yield driver
