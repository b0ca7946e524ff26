# SPDX-License-Identifier: MIT
"""A booted guest for asynchronous tests, under whatever monitor, and its opening.

::

    async with open_vm(make_request("echo")) as vm:
        await vm.console.send_line("hello")
        await vm.console.expect("hello")

`blocking_vm` is its twin, made of this (`generate_blocking`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import UsageError
from pyvmm.testing.console import AsyncConsole
from pyvmm.testing.drivers.driver import (
    CannotError,
    Driver,
    Feature,
    Outcome,
    OutcomeKind,
    Registers,
)
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.drivers.presence import is_in_lab
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import ExpectError, GuestFailedError, is_told
from pyvmm.testing.images.symbols import Symbols
from pyvmm.testing.life import TOLD, Life
from pyvmm.testing.request import BootRequest
from pyvmm.testing.vm_events import AsyncEvents
from pyvmm.testing.vm_memory import AsyncMemory

if TYPE_CHECKING:
    from pyvmm.testing.saved_boot import SavedBoot

__tracebackhide__ = is_told

_FAILED = frozenset({OutcomeKind.PANICKED, OutcomeKind.CRASHED})


class AsyncVm:
    """A guest that has been booted, until its block is left.

    A method that the monitor cannot do raises `CannotError`; each takes a `timeout` in seconds,
    and none goes on for longer than the boot's own: `ExpectError`.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._console = AsyncConsole(life)
        self._memory = AsyncMemory(life)
        self._events = AsyncEvents(life)

    @property
    def console(self) -> AsyncConsole:
        """Its serial console."""
        return self._console

    @property
    def memory(self) -> AsyncMemory:
        """Its memory, as the host sees it."""
        return self._memory

    @property
    def events(self) -> AsyncEvents:
        """Things that have become of it."""
        return self._events

    @property
    def request(self) -> BootRequest:
        """The boot that was asked for."""
        return self._life.request

    @property
    def host(self) -> HostName:
        """Host that it runs on: never `HostName.AUTO`."""
        return self._life.driver.host

    @property
    def by_hand(self) -> str:
        """Command line that repeats the run by hand."""
        return self._life.driver.by_hand

    @property
    def outcome(self) -> Outcome | None:
        """Outcome of its run; None while it runs. Looking at it is not taking it (`wait`)."""
        return self._life.outcome

    async def wait(self, *, timeout: float | None = None) -> Outcome:
        """Wait for its end; however it was, the test has taken it then.

        Raises `ExpectError` where it has not ended when `timeout` seconds, or the boot's time
        limit, have passed, and a `PyvmmError` where the run failed and it was not the guest.
        """
        life = self._life
        attempt = "wait for the guest's end"
        life.require_open(attempt)
        with life.deadline.limit(timeout) as limit:
            await life.over()
        if not limit.passed and life.end():
            assert life.outcome is not None
            life.is_taken = True
            return life.outcome
        name = limit.name if limit.passed else life.deadline.name
        raise ExpectError(attempt, life.not_in_time(name), life.expectation())

    # -- steering --

    async def stop(self, *, timeout: float | None = None) -> None:
        """Stop every vCPU between two instructions."""
        await self._life.do("stop the guest", self._life.driver.stop, timeout)

    async def resume(self, *, timeout: float | None = None) -> None:
        """Let the vCPUs run on."""
        await self._life.do("resume the guest", self._life.driver.resume, timeout)
        self._life.was_resumed = True

    async def reset(self, *, timeout: float | None = None) -> None:
        """Put the machine back to its start; what was said and not matched yet stays so."""
        await self._life.do("reset the guest", self._life.driver.reset, timeout)

    async def powerdown(self, *, timeout: float | None = None) -> None:
        """Press the power button."""
        await self._life.do("press the power button", self._life.driver.powerdown, timeout)

    async def set_link(self, up: bool, card: int = 0, *, timeout: float | None = None) -> None:
        """Put the cable into a network card, or pull it out, which the guest is told.

        Raises `UsageError` where the guest has no such card.
        """
        attempt = f"set the link of network card {card} {'up' if up else 'down'}"
        count = len(self.request.net)
        if not 0 <= card < count:
            raise UsageError(attempt, f"the guest has {count} of them", "boot it with net=")
        await self._life.do(attempt, partial(self._life.driver.set_link, card, up), timeout)

    async def save(self, *, timeout: float | None = None) -> object:
        """Save the whole machine, for `restore`; it goes on, or stays stopped."""
        return await self._life.do("save the guest", self._life.driver.save, timeout)

    async def restore(self, saved: object, *, timeout: float | None = None) -> None:
        """Make the machine what `saved` is; it goes on from there, or stays stopped."""
        await self._life.do("restore it", partial(self._life.driver.restore, saved), timeout)

    # -- looking inside --

    async def registers(self, cpu: int = 0, *, timeout: float | None = None) -> Registers:
        """Read the registers of vCPU `cpu`, between two of its instructions."""
        read = partial(self._life.driver.registers, cpu)
        return await self._life.do(f"read the registers of vCPU {cpu}", read, timeout)

    async def translate(
        self, address: int, cpu: int = 0, *, timeout: float | None = None
    ) -> int | None:
        """GPA of a linear address by the page tables of vCPU `cpu`; None where it is not mapped."""
        walk = partial(self._life.driver.translate, cpu, address)
        return await self._life.do(f"translate {address:#x}", walk, timeout)

    async def page_states(
        self, *, timeout: float | None = None
    ) -> tuple[tuple[int, int, str], ...]:
        """(GPA, size in bytes, "shared", "private" or "withheld") of all pages, ascending."""
        return tuple(
            await self._life.do("read the page states", self._life.driver.page_states, timeout)
        )

    async def convert(
        self, gpa: int, size: int, side: str, *, timeout: float | None = None
    ) -> None:
        """Convert the pages of [gpa, gpa + size) to "shared" or "private"."""
        convert = partial(self._life.driver.convert, gpa, size, side)
        await self._life.do(f"convert {size} bytes at gpa {gpa:#x} to {side}", convert, timeout)

    async def breakpoint(self, where: int | str, *, timeout: float | None = None) -> int:
        """Stop the guest, with the event "breakpoint", before what is at `where`; the address.

        `where`: a linear address, or the name of a symbol of the image. Raises `UsageError` where
        there is no such symbol, `CannotError` where the host has no (more) breakpoints.
        """
        address = self._address(where)
        set_it = partial(self._life.driver.set_breakpoint, address)
        await self._life.do(f"set a breakpoint at {address:#x}", set_it, timeout)
        return address

    async def clear_breakpoint(self, where: int | str, *, timeout: float | None = None) -> None:
        """Take that breakpoint away. Raises `UsageError` where there is none."""
        address = self._address(where)
        clear = partial(self._life.driver.clear_breakpoint, address)
        await self._life.do(f"clear the breakpoint at {address:#x}", clear, timeout)

    @property
    def symbols(self) -> Symbols:
        """Symbols of the image: addresses of names, and names of addresses; none if it has none."""
        return self._life.symbols

    def _address(self, where: int | str) -> int:
        return self._life.symbols.address(where) if isinstance(where, str) else where


@asynccontextmanager
async def open_vm(request: BootRequest, witness: Witness | None = None) -> AsyncIterator[AsyncVm]:
    """Boot a guest inside of the block, in a trio task; it is gone when the block is left.

    Raises `CannotError` where its host is not here or cannot run it, other `PyvmmError`s where the
    image is none, and so on. At the end of a block that went well it raises `GuestFailedError`
    where the guest has panicked or crashed, unless the request said `crash`, or the test was told.
    Where it fails, `witness` looks at the guest while that is there.
    """
    opened = monotonic()
    async with open_driver(request) as driver:
        life = Life(request, driver)
        life.opened = opened
        remains = None
        if witness is not None:
            remains = witness.meet(life)
            life.examine = partial(witness.examine, remains)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            life.follow(nursery)
            try:
                yield AsyncVm(life)
            except BaseException as raised:  # noqa: BLE001 - raised again, without a group
                failure = raised
            life.closed = monotonic()
            if failure is None:
                failure = _judged(life)
            if witness is not None and remains is not None:
                look = witness.examine if witness.cares(failure) else witness.look_at_end
                await look(remains)
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _judged(life: Life) -> BaseException | None:
    if life.is_taken or life.is_failure_told:
        return None
    if life.failure is not None:
        return life.failure
    if life.outcome is not None and life.outcome.kind in _FAILED and not life.request.crash:
        return GuestFailedError(life.outcome, life.transcript.since(life.transcript.end - TOLD))
    return None


def open_driver(request: BootRequest) -> AbstractAsyncContextManager[Driver]:
    """The driver for the request's host, which boots the guest inside of the block."""
    if request.host in (HostName.QEMU_TCG, HostName.QEMU_KVM):
        from pyvmm.testing.drivers.qemu_driver import open_qemu_driver

        return open_qemu_driver(request)
    if request.host is HostName.LAB and not is_in_lab():
        raise UsageError(
            "boot on the lab from here",
            "a test for the lab runs in the lab",
            'mark it: @pytest.mark.pyvmm(hosts=["lab"]), or give --pyvmm-host lab',
        )
    from pyvmm.testing.drivers.pyvmm_driver import open_pyvmm_driver

    return open_pyvmm_driver(request)


async def save_boot(vm: AsyncVm) -> SavedBoot:
    """Save a guest where it is, with what it has said; it is stopped then.

    Raises `CannotError` where the monitor's state is not to be kept in a file, `UsageError` where
    the guest has ended by then.
    """
    from pyvmm.machine.saved_machine import SavedMachine
    from pyvmm.testing.drivers.qemu_saving import QemuSaved
    from pyvmm.testing.saved_boot import SavedBoot

    life = vm._life
    seconds = life.deadline.seconds_passed
    try:
        await vm.stop()
        machine = await vm.save()
    except ExpectError as failure:
        if not life.is_over:
            raise
        raise UsageError(
            f"save {vm.request.name} at a point of its boot",
            "the guest has ended",
            "choose a point at which it waits for something",
        ) from failure
    if not isinstance(machine, (SavedMachine, QemuSaved)):
        raise CannotError(vm.host, Feature.SAVING, "its state does not go into a file")
    said = life.transcript
    told = machine.said if isinstance(machine, QemuSaved) else machine.console.said
    end = told + (0 if life.request.saved is None else len(life.request.saved.said))
    with life.deadline.limit(None) as limit:
        while said.end < end:
            await life.change()
    if limit.passed:
        raise ExpectError("read what the guest has said", f"not {limit.name}")
    cursor = max(vm.console._cursor, said.start) - said.start
    return SavedBoot(machine, said.between(said.start, end), cursor, seconds)


def excuse(vm: AsyncVm) -> None:
    """Let the end of `vm`'s block raise nothing: its test has failed by itself."""
    vm._life.is_taken = True


def require_open(vm: AsyncVm) -> None:
    """Raise `UsageError` where the block of `vm` has been left."""
    vm._life.require_open("use this guest")


async def examine(vm: AsyncVm) -> None:
    """Have the witness of `vm`'s test look at it, before it is gone; never raises."""
    if vm._life.examine is not None:
        await vm._life.examine()
