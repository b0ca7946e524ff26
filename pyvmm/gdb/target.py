# SPDX-License-Identifier: MIT
"""The machine as a session of GDB's needs it, and what the session wants done with it. Pure."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from pyvmm.gdb.registers import Values


class Target(Protocol):
    """The machine, as a session needs it: it stands still, and `vcpus` counts from 0."""

    @property
    def vcpus(self) -> int:
        """Number of vCPUs."""
        ...

    async def read(self, vcpu: int) -> Values:
        """All registers. Raises `PyvmmError`."""
        ...

    async def write(self, vcpu: int, values: Values) -> None:
        """Set general and special registers. Raises `PyvmmError`."""
        ...

    async def read_memory(self, vcpu: int, address: int, size: int) -> bytes:
        """As many bytes from a linear address on as are mapped and shared, at most `size`."""
        ...

    async def write_memory(self, vcpu: int, address: int, data: bytes) -> bool:
        """Write all of it, or nothing and give False."""
        ...

    async def set_breakpoint(self, address: int) -> None:
        """Stop before the instruction at a linear address. Raises `PyvmmError`."""
        ...

    async def clear_breakpoint(self, address: int) -> None:
        """Take it away again. Raises `PyvmmError`."""
        ...

    async def monitor(self, line: str, vcpu: int) -> str:
        """A line for the human monitor; gives its text."""
        ...


class Run(NamedTuple):
    """Request to let `running` vCPUs run, `step` (if any) for one instruction only."""

    running: frozenset[int]
    step: int | None = None


class Leave(enum.Enum):
    """Request to end the connection."""

    DETACH = "detach"
    """The guest goes on."""
    KILL = "kill"
    """The guest's run ends."""


class Answer(NamedTuple):
    """Packets to be sent, and what is to be done then."""

    packets: tuple[bytes, ...]
    then: Run | Leave | None = None


class Stop(NamedTuple):
    """A stop of the guest: by a vCPU at an address, or from outside (neither)."""

    vcpu: int | None = None
    address: int | None = None
    stepped: bool = False
