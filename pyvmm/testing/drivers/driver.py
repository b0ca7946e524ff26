# SPDX-License-Identifier: MIT
"""Driver: a guest under some monitor, as boot tests see it; and what no monitor can do."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyvmm.errors import ExitCode, PyvmmError
from pyvmm.testing.drivers.monitors import HostName


class Feature(enum.Enum):
    """Ability that one monitor has and another has not; the values are what skips say."""

    SAVING = "saving and restoring"
    REGISTERS = "registers"
    MEMORY = "reading and writing guest memory"
    PAGE_STATES = "page states and conversion"
    BREAKPOINTS = "breakpoints"
    PRIVATE_MEMORY = "private memory"
    RESET = "reset"
    POWERDOWN = "a power button"
    CORE = "a core file"
    NETWORK = "networks"
    END_OF_INPUT = "the end of the console's input"


class CannotError(PyvmmError):
    """The monitor, or this machine, cannot do what the test asks for: a reason to skip it."""

    exit_code = ExitCode.HOST_LACKS

    def __init__(self, host: HostName, feature: Feature | None, reason: str) -> None:
        wanted = "run a guest" if feature is None else f"use {feature.value}"
        # Networks are not the guests' hosts', but this machine's.
        place = "this machine" if feature is Feature.NETWORK else host.value
        super().__init__(f"{wanted} on {place}", reason)
        self.host = host
        self.feature = feature
        self.reason = reason


class EventName(enum.Enum):
    """Kind of thing that becomes of a guest, under any monitor."""

    PAUSED = "paused"
    RESUMED = "resumed"
    RESET = "reset"
    POWERDOWN = "powerdown"
    PANICKED = "panicked"
    BREAKPOINT = "breakpoint"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One of them: `detail` in a line, the vCPU where it was one, seconds since the boot."""

    name: EventName
    detail: str = ""
    vcpu: int | None = None
    seconds: float = 0.0


class OutcomeKind(enum.Enum):
    """Kind of end that a guest's run came to."""

    EXITED = "exited"
    """It wrote a status to its exit port (0..63)."""
    RESET = "reset"
    POWERED_OFF = "powered-off"
    PANICKED = "panicked"
    CRASHED = "crashed"
    """A triple fault, a halt for ever, an access that nothing answers, a broken vCPU."""
    TIME_LIMIT = "time-limit"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a guest's run: `detail` in a line; `status` where it gave one."""

    kind: OutcomeKind
    detail: str
    status: int | None
    seconds: float
    exits: dict[str, int]
    """Exits by reason over all vCPUs; empty where the monitor does not tell."""


@dataclass(frozen=True, slots=True)
class Registers:
    """Registers of a vCPU by the SDM's lower-case names (rax .. r15, rip, rflags, cr0, cs, ...).

    A segment register's value is its selector; `bases` has the segments' bases.
    """

    values: dict[str, int]
    bases: dict[str, int]


@dataclass(frozen=True, slots=True)
class VcpuState:
    """State of a vCPU, to be shown to people.

    `registers` is None, and `rip`, a linear address, too, where nobody knows them; `code` is the
    bytes there, none where they cannot be read. `page_walk` is how `rip` is translated, `exits` the
    last exits, oldest first, where the monitor tells: a line each.
    """

    index: int
    mode: str
    registers: Registers | None
    rip: int | None
    code: bytes
    page_walk: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()


class Driver(Protocol):
    """A guest that runs under a monitor.

    One trio task calls `receive`, another `wait`, and one at a time all else. The driver
    ends the run at the request's `timeout` (`OutcomeKind.TIME_LIMIT`), and when it panics.

    A method that the monitor cannot do raises `CannotError`; what fails raises `PyvmmError`.
    Addresses are GPAs unless said otherwise, sizes bytes.
    """

    host: HostName
    by_hand: str
    """Command line that repeats the run by hand (its image may have to be written out first)."""

    async def receive(self) -> bytes:
        """Take what the guest has said, at least a byte; b"" after the end."""
        ...

    async def send(self, data: bytes) -> None:
        """Type `data` at the console."""
        ...

    async def end_input(self) -> None:
        """End the console's input."""
        ...

    async def wait(self) -> Outcome:
        """Wait for the end of the run."""
        ...

    async def stop(self) -> None:
        """Stop every vCPU between two instructions."""
        ...

    async def resume(self) -> None:
        """Let the vCPUs run on."""
        ...

    async def reset(self) -> None:
        """Put the machine back to its start."""
        ...

    async def powerdown(self) -> None:
        """Press the power button."""
        ...

    async def save(self) -> object:
        """State of the whole machine, for `restore` of a driver of the same kind."""
        ...

    async def restore(self, saved: object) -> None:
        """Make the machine what `saved` is."""
        ...

    async def set_link(self, card: int, up: bool) -> None:
        """Have the guest told that a network card has a link, or none; then no frame goes by it."""
        ...

    async def registers(self, vcpu: int) -> Registers:
        """Read the registers of a vCPU."""
        ...

    async def vcpu_states(self) -> Sequence[VcpuState]:
        """Look at every vCPU, while all of them stand still.

        After the end it is what the monitor has kept of them, if anything. `read_states` makes it
        of the rest of this protocol.
        """
        ...

    async def translate(self, vcpu: int, address: int) -> int | None:
        """GPA of a linear address by the vCPU's page tables; None where it is not mapped."""
        ...

    async def read_memory(self, gpa: int, size: int) -> bytes:
        """Read guest memory. Raises `UsageError` for private pages and where there is no RAM."""
        ...

    async def write_memory(self, gpa: int, data: bytes) -> None:
        """Write guest memory. Raises as `read_memory`."""
        ...

    def memory_ranges(self) -> Sequence[tuple[int, int]]:
        """(GPA, size) of each range of RAM, ascending."""
        ...

    async def page_states(self) -> Sequence[tuple[int, int, str]]:
        """(GPA, size, "shared", "private" or "withheld"), ascending."""
        ...

    async def convert(self, gpa: int, size: int, side: str) -> None:
        """Convert pages to "shared" or "private"."""
        ...

    async def set_breakpoint(self, address: int) -> None:
        """Stop the machine, with an event, before it executes the linear address `address`."""
        ...

    async def clear_breakpoint(self, address: int) -> None:
        """Take that breakpoint away. Raises `UsageError` where there is none."""
        ...

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` told of each event, in the driver's loop; it does not wait or raise."""
        ...

    async def core(self, path: str) -> None:
        """Write the machine's state to `path` as an ELF core that gdb, crash and drgn read."""
        ...
