# SPDX-License-Identifier: MIT
"""Driver of a guest under QEMU: microvm by TCG or KVM, spoken to over QMP.

The machine is the one of `pyvmm compare` (`pyvmm.compare.qemu_command`). Its RAM is a file in
memory that is shared with us, its console are two pipes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.unpacking import unpacked
from pyvmm.compare import qemu_command
from pyvmm.compare.choosing import DEFAULT_QEMU, find_qemu
from pyvmm.compare.guest_files import GuestRequest, guest_files
from pyvmm.compare.qemu_boot import qemu_protocol, refusal
from pyvmm.compare.subjects import QemuAccelerator, QemuMachine, QemuSubject
from pyvmm.errors import HostLacksError, NoPermissionError, PyvmmError, UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.qmp.accelerators import Accelerators
from pyvmm.qmp.peer import QemuError
from pyvmm.testing.drivers.console_pipes import ConsolePipes
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
from pyvmm.testing.drivers.gdb_stub import GdbStubError
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.drivers.qemu_guest import QemuGuest, card_name, qemu_cards
from pyvmm.testing.drivers.qemu_process import QemuProcess
from pyvmm.testing.drivers.qemu_registers import parse_registers, parse_translation
from pyvmm.testing.drivers.qemu_saving import MigrationFailedError, QemuSaved, contents_of, fill
from pyvmm.testing.drivers.vcpu_states import read_states
from pyvmm.testing.request import BootRequest

ACCELERATORS = {HostName.QEMU_TCG: QemuAccelerator.TCG, HostName.QEMU_KVM: QemuAccelerator.KVM}
MEMORY_STEP = 8192
"""Granularity to which QEMU rounds a machine's memory up, in bytes."""
_KNOWN: trio.lowlevel.RunVar[Accelerators] = trio.lowlevel.RunVar("pyvmm_accelerators")
"""Probes of QEMU that were made in this run of trio: a session's boots share one."""
_DUMP_PATIENCE = 600.0
_NO_PRIVATE = "QEMU's microvm has no private memory"


class QemuDriver:
    """A guest under QEMU: a `Driver`. Made by `open_qemu_driver`."""

    def __init__(
        self, request: BootRequest, guest: QemuGuest, console: ConsolePipes, nursery: trio.Nursery
    ) -> None:
        self.host = request.host
        self.by_hand = _by_hand(request, guest)
        self._guest = guest
        self._console = console
        self._nursery = nursery
        self._map = AddressMap.of(request.memory)
        self._booted = trio.current_time()
        self._listeners: list[Callable[[Event], None]] = []
        self._told: list[Event] = []
        """All events: the guest runs, and may end, before anybody listens."""
        self._last_states: Sequence[VcpuState] = ()
        self._over = trio.Event()
        self._process = self._new_process()

    async def receive(self) -> bytes:
        """Take what the guest has said, at least a byte; b"" after the end."""
        return await self._console.receive()

    async def send(self, data: bytes) -> None:
        """Type `data`. Raises `InternalError` where the run was over before."""
        if self._over.is_set():
            raise self._process.ended("type at the console")
        await self._console.send(data)

    async def end_input(self) -> None:
        """Raise `CannotError`: QEMU's serial port has a carrier whatever its other side does."""
        raise CannotError(
            self.host,
            Feature.END_OF_INPUT,
            "QEMU's serial port always has a carrier; let the guest end at a byte, such as \\x04",
        )

    async def wait(self) -> Outcome:
        """Wait for the end of the run. Raises `QemuError` where QEMU itself failed."""
        await self._over.wait()
        if self._process.outcome is None:
            raise self._process.ended("run the guest under QEMU")
        return self._process.outcome

    async def stop(self) -> None:
        """Stop every vCPU between two instructions."""
        await self._process.stop()

    async def resume(self) -> None:
        """Let the vCPUs run on."""
        await self._process.resume()

    async def reset(self) -> None:
        """Put the machine back to its start: the image is loaded anew, RAM beside it stays."""
        await self._process.reset("reset the guest")

    async def powerdown(self) -> None:
        """Press the power button."""
        await self._process.ask("press the guest's power button", "system_powerdown")

    async def set_link(self, card: int, up: bool) -> None:
        """Have the guest told that a network card has a link, or none."""
        asked = {"name": card_name(card), "up": up}
        await self._process.ask("set the link of a network card", "set_link", asked)

    async def save(self) -> object:
        """State of the whole machine (`QemuSaved`), which goes on as it was."""
        attempt = "save the guest"
        request = self._guest.files.request
        async with self._process.standing_still(attempt) as ran:
            devices = await self._process.devices(attempt)
            ram = contents_of(self._process.ram)
            said = self._console.said
        return QemuSaved(self._guest.subject, request.memory, request.cpus, ran, said, devices, ram)

    async def restore(self, saved: object) -> None:
        """Make the machine what `saved` is: another QEMU takes the place of this one.

        It runs afterwards if it ran when it was saved. Raises `UsageError` for what is not the
        state of such a machine. Where it fails otherwise, or is cancelled, the guest is gone.
        """
        attempt = "restore the guest"
        alike = self.alike(attempt, saved)
        if self._over.is_set():
            raise self._process.ended(attempt)
        new = self._new_process()
        old, self._process = self._process, new
        try:
            with trio.CancelScope(shield=True):
                await old.end()
            old.close()
            await self.start(alike)
            for address in sorted(old.breakpoints.addresses):
                await self.set_breakpoint(address)
        except BaseException:
            # There is no guest any more, or not the one that was asked for.
            new.failure = new.failure or MigrationFailedError(attempt, "its restore was given up")
            await new.give_up()
            self._end()
            raise

    def alike(self, attempt: str, saved: object) -> QemuSaved:
        """Give `saved`. Raises `UsageError` where it is not of a machine like this one."""
        request = self._guest.files.request
        if isinstance(saved, QemuSaved):
            theirs = (saved.subject, saved.memory, saved.cpus)
            if theirs == (self._guest.subject, request.memory, request.cpus):
                return saved
        raise UsageError(
            attempt,
            "the state was not saved from a machine like this one",
            "boot it with the same host, memory and CPUs",
        )

    async def registers(self, vcpu: int) -> Registers:
        """Read the registers of a vCPU; of one that is not in 64-bit code without r8..r15."""
        attempt = f"read the registers of vCPU {vcpu}"
        async with self._process.standing_still(attempt):
            said = await self._process.ask_human(attempt, "info registers", vcpu)
        return parse_registers(said)

    async def vcpu_states(self) -> Sequence[VcpuState]:
        """Look at every vCPU, while all stand still.

        After the end: as they were then. None are left of a guest that has ended with a status.
        """
        if not self._over.is_set():
            await self._look()
        return self._last_states

    async def translate(self, vcpu: int, address: int) -> int | None:
        """GPA of a linear address by the vCPU's page tables; None where it is not mapped."""
        attempt = f"translate the address {address:#x}"
        async with self._process.standing_still(attempt):
            said = await self._process.ask_human(attempt, f"gva2gpa {address:#x}", vcpu)
        return parse_translation(said)

    async def read_memory(self, gpa: int, size: int) -> bytes:
        """Read guest memory, after the end of the run, too. Raises `UsageError` beside RAM."""
        return os.pread(self._process.ram, size, self._offset("read", gpa, size))

    async def write_memory(self, gpa: int, data: bytes) -> None:
        """Write guest memory. Raises `UsageError` beside RAM."""
        fill(self._process.ram, ((self._offset("write", gpa, len(data)), data),))

    def memory_ranges(self) -> Sequence[tuple[int, int]]:
        """(GPA, size) of each range of RAM, ascending."""
        return [(one.range.start, one.range.size) for one in self._map.ram]

    async def page_states(self) -> Sequence[tuple[int, int, str]]:
        """Raise `CannotError`."""
        raise CannotError(self.host, Feature.PAGE_STATES, _NO_PRIVATE)

    async def convert(self, gpa: int, size: int, side: str) -> None:  # noqa: ARG002
        """Raise `CannotError`."""
        raise CannotError(self.host, Feature.PAGE_STATES, _NO_PRIVATE)

    async def set_breakpoint(self, address: int) -> None:
        """Stop the machine, with an event, before it executes the linear address `address`.

        By QEMU's gdbstub. Raises `CannotError` where it, or the processor, has no (more) of them.
        """
        try:
            await self._process.set_breakpoint(address)
        except GdbStubError as error:
            raise CannotError(self.host, Feature.BREAKPOINTS, error.cause) from error

    async def clear_breakpoint(self, address: int) -> None:
        """Take that breakpoint away. Raises `UsageError` where there is none."""
        await self._process.clear_breakpoint(address)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` told of each event, those that there have been at once."""
        for event in self._told:
            listener(event)
        self._listeners.append(listener)

    async def core(self, path: str) -> None:
        """Write an ELF core: QEMU's dump-guest-memory, during which the guest stands still."""
        attempt = f"write the core file {path}"
        where = {"paging": False, "protocol": f"file:{Path.cwd() / path}"}
        async with self._process.standing_still(attempt):
            await self._process.ask(attempt, "dump-guest-memory", where, _DUMP_PATIENCE)

    async def start(self, saved: QemuSaved | None = None) -> None:
        """Start a QEMU, at the beginning or at `saved`. Raises what keeps it from running."""
        try:
            await self._nursery.start(self._live, self._process, saved)
        except PyvmmError as error:
            self._process.failure = error
            self._end()
            if isinstance(error, QemuError) and error.returncode == 1:
                why = refusal(error.last_lines)
                if why is not None:
                    raise CannotError(self.host, None, f"QEMU refuses it: {why}") from error
            if isinstance(error, HostLacksError):
                raise CannotError(self.host, None, f"{error.cause}; {error.remedy}") from error
            raise

    def close(self) -> None:
        """Give RAM back."""
        self._process.close()

    async def _live(
        self,
        process: QemuProcess,
        saved: QemuSaved | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await process.run(saved, task_status)
        if process is self._process:
            self._end()

    async def _look(self) -> None:
        async with self._process.standing_still("look at the vCPUs"):
            self._last_states = await read_states(self, self._guest.files.request.cpus)

    def _end(self) -> None:
        if not self._over.is_set():
            outcome = self._process.outcome
            if outcome is None or outcome.kind is OutcomeKind.EXITED:
                self._last_states = ()
            self._console.end()
            self._over.set()
            if outcome is not None:
                self._tell(Event(EventName.ENDED, outcome.detail, None, outcome.seconds))

    def _tell(self, event: Event) -> None:
        self._told.append(event)
        for listener in self._listeners:
            listener(event)

    def _new_process(self) -> QemuProcess:
        return QemuProcess(self._guest, self._console, self._tell, self._look, self._booted)

    def _offset(self, word: str, gpa: int, size: int) -> int:
        offset = self._map.file_offset(gpa, size) if size >= 0 else None
        if offset is None:
            ranges = ", ".join(f"{start:#x}..{start + n:#x}" for start, n in self.memory_ranges())
            raise UsageError(
                f"{word} {size} bytes of guest memory at {gpa:#x}",
                "they are not all in RAM",
                f"it is at {ranges}",
            )
        return offset


@asynccontextmanager
async def open_qemu_driver(request: BootRequest) -> AsyncIterator[QemuDriver]:
    """Boot `request` under QEMU, on its host; QEMU has ended and is reaped after the block.

    Raises `CannotError` where this machine, or QEMU, cannot do it; `ImageError` and `UsageError`
    for what is wrong with the request; `QemuError` where QEMU fails.
    """
    guest = GuestRequest(
        request.name, None, request.image, request.append, request.initrd, b"",
        request.memory, request.cpus, request.timeout,
    )  # fmt: skip
    _check(request)
    subject = await _subject(request.host)
    problem: BaseException | None = None
    with ExitStack() as stack:
        files = stack.enter_context(guest_files(guest))
        console = ConsolePipes()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(console.pump)
                try:
                    taps = [stack.enter_context(port.taken()) for port in request.net]
                    known = QemuGuest(
                        subject, files, request.timeout, request.paused,
                        qemu_cards(request.net, taps), tuple(fd for fds in taps for fd in fds),
                    )  # fmt: skip
                    driver = QemuDriver(request, known, console, nursery)
                    stack.callback(driver.close)
                    await driver.start(_beginning(driver, request))
                    yield driver
                except BaseException as error:  # noqa: BLE001 - raised again, without a group
                    problem = error
                nursery.cancel_scope.cancel()
        finally:
            await console.close()
    if problem is not None:
        raise problem


def _beginning(driver: QemuDriver, request: BootRequest) -> QemuSaved | None:
    """State that the guest goes on from, unless it waits; None where it is booted."""
    if request.saved is None:
        return None
    saved = driver.alike(f"restore {request.name}", request.saved.machine)
    return replace(saved, running=not request.paused)


def _check(request: BootRequest) -> None:
    """Raise `CannotError` for what QEMU cannot do, and what is wrong with the guest itself."""
    attempt = f"boot {request.name}"
    if request.private:
        raise CannotError(request.host, Feature.PRIVATE_MEMORY, _NO_PRIVATE)
    if request.memory % MEMORY_STEP:
        raise CannotError(
            request.host,
            None,
            f"QEMU's machines have whole multiples of {MEMORY_STEP} bytes of RAM",
        )
    plan = plan_boot(
        request.image, AddressMap.of(request.memory), request.append, request.initrd, request.name
    )
    try:
        qemu_protocol(unpacked(memoryview(request.image), attempt).image, plan.protocol, attempt)
    except UsageError as error:
        raise CannotError(request.host, None, error.cause) from error


async def _subject(host: HostName) -> QemuSubject:
    """Find the QEMU for `host`. Raises `CannotError` where there is none."""
    try:
        known = _KNOWN.get()
    except LookupError:
        known = Accelerators()
        _KNOWN.set(known)
    try:
        subject, why = await find_qemu(known, DEFAULT_QEMU, ACCELERATORS[host], QemuMachine.MICROVM)
    except (HostLacksError, NoPermissionError) as error:
        raise CannotError(host, None, f"{error.cause}; {error.remedy}") from error
    if subject is None:
        raise CannotError(host, None, f"{DEFAULT_QEMU} does not run so here: {why}")
    return subject


def _by_hand(request: BootRequest, guest: QemuGuest) -> str:
    initrd = request.initrd_path or ("initrd" if request.initrd is not None else None)
    command = qemu_command.timed(
        guest.subject,
        guest.files.request,
        str(request.path or request.name),
        None if initrd is None else str(initrd),
    )
    return shlex.join([*command, *qemu_cards(request.net)])
