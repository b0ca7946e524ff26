# SPDX-License-Identifier: MIT
"""The blocking twins of a booted guest's objects. Made by `generate_blocking`: not to be edited."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyvmm.testing.boot_task import BootTask
from pyvmm.testing.console import AsyncConsole
from pyvmm.testing.drivers.driver import Event, EventName, Outcome, Registers
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.failures import is_told
from pyvmm.testing.images.symbols import Symbols
from pyvmm.testing.patterns import Match, Pattern, Patterns
from pyvmm.testing.request import BootRequest
from pyvmm.testing.results.tap_results import TapReport
from pyvmm.testing.vm import AsyncVm
from pyvmm.testing.vm_events import AsyncEvents
from pyvmm.testing.vm_memory import AsyncMemory

__tracebackhide__ = is_told


class Console:
    """Serial console of a guest, read all the time: a guest never waits for its reader.

    A cursor stands behind the last match: nothing is matched twice. Of a guest that says more than
    128 MiB the beginning (1 MiB) and the last 64 MiB are kept.
    """

    def __init__(self, task: BootTask, inner: AsyncConsole) -> None:
        self._task = task
        self._inner = inner

    def expect(
        self, pattern: Patterns, *, timeout: float | None = None, forbid: Patterns = ()
    ) -> Match:
        """Wait until the guest says `pattern`; the cursor is behind the match then.

        Text and bytes are meant literally, a compiled regular expression is searched for. Of
        several patterns the one counts that is complete first. A match of a regular expression that
        the next letter could change (``[0-9]+``, ``$``) counts once that has come, or at the end.
        Raises `ExpectError`: at once where the guest ends without it, or says one of `forbid`
        before; and when `timeout` seconds, or the boot's time limit, have passed.
        """
        return self._task.call(partial(self._inner.expect, pattern, timeout=timeout, forbid=forbid))

    def expect_all(
        self, patterns: Sequence[Pattern], *, timeout: float | None = None, forbid: Patterns = ()
    ) -> tuple[Match, ...]:
        """Wait until the guest has said each of `patterns`, in whatever order, even overlapping.

        The cursor is behind the last of them then; `timeout` is for all. Raises as `expect`.
        """
        return self._task.call(
            partial(self._inner.expect_all, patterns, timeout=timeout, forbid=forbid)
        )

    def read_until(self, pattern: Patterns, *, timeout: float | None = None) -> bytes:
        """Bytes that the guest says up to the end of `pattern`. As `expect`, and raises as that."""
        return self._task.call(partial(self._inner.read_until, pattern, timeout=timeout))

    def read_line(self, *, timeout: float | None = None) -> str:
        """The next line, without its end; the last may lack one. Raises as `expect`."""
        return self._task.call(partial(self._inner.read_line, timeout=timeout))

    def ktap(self, *, timeout: float | None = None, check: bool = True) -> TapReport:
        """Read KTAP or TAP until all that was planned has come, or the guest has ended.

        Where no plan says how many there are, that is the end of the guest; what is missing then
        has crashed. The cursor is behind it. Raises `TapFailedError` where a test failed, none ran
        or the output makes no sense, unless `check` is False; and, with the results so far, at the
        time limits.
        """
        return self._task.call(partial(self._inner.ktap, timeout=timeout, check=check))

    def drop(self) -> bytes:
        """Put the cursor behind all that has come so far; return what it went over."""
        return self._task.now(self._inner.drop)

    @property
    def transcript(self) -> bytes:
        """All that the guest has said since its boot, whoever read it; after its end, too."""
        return self._inner.transcript

    def send(self, data: str | bytes, *, timeout: float | None = None) -> None:
        """Type `data`; waits while much is queued that the guest has not taken (64 KiB).

        Raises `ExpectError` at the time limits and where the guest has ended before (one that ends
        meanwhile takes no more of it), `UsageError` for what is neither text nor bytes.
        """
        self._task.call(partial(self._inner.send, data, timeout=timeout))

    def send_line(self, line: str | bytes = "", *, timeout: float | None = None) -> None:
        """Type `line` and a newline. Raises as `send`."""
        self._task.call(partial(self._inner.send_line, line, timeout=timeout))

    def end_input(self) -> None:
        """End the input, as Ctrl-D on an empty line does. Raises as `send`."""
        self._task.call(self._inner.end_input)


class Memory:
    """Guest memory by GPA, in bytes; of private pages the host sees nothing, and says so."""

    def __init__(self, task: BootTask, inner: AsyncMemory) -> None:
        self._task = task
        self._inner = inner

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """(GPA, size) of each range of RAM, ascending."""
        return self._inner.ranges

    def read(self, gpa: int, size: int, *, timeout: float | None = None) -> bytes:
        """Read `size` bytes from `gpa` on.

        Raises `UsageError`, which names the page, where one of them is private or no RAM;
        `ExpectError` at the time limits.
        """
        return self._task.call(partial(self._inner.read, gpa, size, timeout=timeout))

    def write(self, gpa: int, data: bytes, *, timeout: float | None = None) -> None:
        """Write `data` from `gpa` on. Raises as `read`; nothing is written then."""
        self._task.call(partial(self._inner.write, gpa, data, timeout=timeout))

    def search(
        self, data: bytes, *, skip_private: bool = False, timeout: float | None = None
    ) -> tuple[int, ...]:
        """Search all of RAM; the GPA of each place that has `data`, ascending, overlapping too.

        With `skip_private` only what the host sees is searched; without it, a private page raises
        `UsageError`. The guest runs on meanwhile: stop() it where it changes what is searched.
        """
        return self._task.call(
            partial(self._inner.search, data, skip_private=skip_private, timeout=timeout)
        )


class Events:
    """Events of a guest, in order. Each is given once by `wait_for`."""

    def __init__(self, task: BootTask, inner: AsyncEvents) -> None:
        self._task = task
        self._inner = inner

    @property
    def all(self) -> tuple[Event, ...]:
        """All events since the boot."""
        return self._inner.all

    def wait_for(self, name: str | EventName, *, timeout: float | None = None) -> Event:
        """Wait for the next event of that name which has not been given yet.

        Raises `ExpectError` where the guest ends without one, and at the time limits.
        """
        return self._task.call(partial(self._inner.wait_for, name, timeout=timeout))


class Vm:
    """A guest that has been booted, until its block is left.

    A method that the monitor cannot do raises `CannotError`; each takes a `timeout` in seconds,
    and none goes on for longer than the boot's own: `ExpectError`.
    """

    def __init__(self, task: BootTask, inner: AsyncVm) -> None:
        self._task = task
        self._inner = inner
        self._console = Console(task, inner.console)
        self._memory = Memory(task, inner.memory)
        self._events = Events(task, inner.events)

    @property
    def console(self) -> Console:
        """Its serial console."""
        return self._console

    @property
    def memory(self) -> Memory:
        """Its memory, as the host sees it."""
        return self._memory

    @property
    def events(self) -> Events:
        """Things that have become of it."""
        return self._events

    @property
    def request(self) -> BootRequest:
        """The boot that was asked for."""
        return self._inner.request

    @property
    def host(self) -> HostName:
        """Host that it runs on: never `HostName.AUTO`."""
        return self._inner.host

    @property
    def by_hand(self) -> str:
        """Command line that repeats the run by hand."""
        return self._inner.by_hand

    @property
    def outcome(self) -> Outcome | None:
        """Outcome of its run; None while it runs. Looking at it is not taking it (`wait`)."""
        return self._inner.outcome

    def wait(self, *, timeout: float | None = None) -> Outcome:
        """Wait for its end; however it was, the test has taken it then.

        Raises `ExpectError` where it has not ended when `timeout` seconds, or the boot's time
        limit, have passed, and a `PyvmmError` where the run failed and it was not the guest.
        """
        return self._task.call(partial(self._inner.wait, timeout=timeout))

    def stop(self, *, timeout: float | None = None) -> None:
        """Stop every vCPU between two instructions."""
        self._task.call(partial(self._inner.stop, timeout=timeout))

    def resume(self, *, timeout: float | None = None) -> None:
        """Let the vCPUs run on."""
        self._task.call(partial(self._inner.resume, timeout=timeout))

    def reset(self, *, timeout: float | None = None) -> None:
        """Put the machine back to its start; what was said and not matched yet stays so."""
        self._task.call(partial(self._inner.reset, timeout=timeout))

    def powerdown(self, *, timeout: float | None = None) -> None:
        """Press the power button."""
        self._task.call(partial(self._inner.powerdown, timeout=timeout))

    def set_link(self, up: bool, card: int = 0, *, timeout: float | None = None) -> None:
        """Put the cable into a network card, or pull it out, which the guest is told.

        Raises `UsageError` where the guest has no such card.
        """
        self._task.call(partial(self._inner.set_link, up, card, timeout=timeout))

    def save(self, *, timeout: float | None = None) -> object:
        """Save the whole machine, for `restore`; it goes on, or stays stopped."""
        return self._task.call(partial(self._inner.save, timeout=timeout))

    def restore(self, saved: object, *, timeout: float | None = None) -> None:
        """Make the machine what `saved` is; it goes on from there, or stays stopped."""
        self._task.call(partial(self._inner.restore, saved, timeout=timeout))

    def registers(self, cpu: int = 0, *, timeout: float | None = None) -> Registers:
        """Read the registers of vCPU `cpu`, between two of its instructions."""
        return self._task.call(partial(self._inner.registers, cpu, timeout=timeout))

    def translate(self, address: int, cpu: int = 0, *, timeout: float | None = None) -> int | None:
        """GPA of a linear address by the page tables of vCPU `cpu`; None where it is not mapped."""
        return self._task.call(partial(self._inner.translate, address, cpu, timeout=timeout))

    def page_states(self, *, timeout: float | None = None) -> tuple[tuple[int, int, str], ...]:
        """(GPA, size in bytes, "shared", "private" or "withheld") of all pages, ascending."""
        return self._task.call(partial(self._inner.page_states, timeout=timeout))

    def convert(self, gpa: int, size: int, side: str, *, timeout: float | None = None) -> None:
        """Convert the pages of [gpa, gpa + size) to "shared" or "private"."""
        self._task.call(partial(self._inner.convert, gpa, size, side, timeout=timeout))

    def breakpoint(self, where: int | str, *, timeout: float | None = None) -> int:
        """Stop the guest, with the event "breakpoint", before what is at `where`; the address.

        `where`: a linear address, or the name of a symbol of the image. Raises `UsageError` where
        there is no such symbol, `CannotError` where the host has no (more) breakpoints.
        """
        return self._task.call(partial(self._inner.breakpoint, where, timeout=timeout))

    def clear_breakpoint(self, where: int | str, *, timeout: float | None = None) -> None:
        """Take that breakpoint away. Raises `UsageError` where there is none."""
        self._task.call(partial(self._inner.clear_breakpoint, where, timeout=timeout))

    @property
    def symbols(self) -> Symbols:
        """Symbols of the image: addresses of names, and names of addresses; none if it has none."""
        return self._inner.symbols
