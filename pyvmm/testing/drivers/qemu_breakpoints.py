# SPDX-License-Identifier: MIT
"""Breakpoints of one QEMU, by its gdbstub: set, stepped over, and told of once for each stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import trio

from pyvmm.testing.drivers.gdb_stub import GdbStub, GdbStubError
from pyvmm.testing.drivers.qemu_registers import next_instruction, parse_registers

GDB = "gdb"
"""Name of the character device that the gdbstub talks by."""


class Monitored(Protocol):
    """QEMU's monitors, which tell of the events that came before an answer, before it returns."""

    async def ask(
        self, attempt: str, command: str, arguments: Mapping[str, object] | None = None
    ) -> Any:
        """Run a QMP command. Raises `QemuError` and `InternalError`."""
        ...

    async def ask_human(self, attempt: str, line: str, vcpu: int) -> str:
        """Run a line of the human monitor, for one vCPU. Raises as `ask`."""
        ...


class QemuBreakpoints:
    """The breakpoints, and which of its stops have been looked at for them.

    All but the notes are for a machine that stands still.
    """

    def __init__(self, qemu: Monitored, cpus: int) -> None:
        self._qemu = qemu
        self._cpus = cpus
        self._gdb: trio.SocketStream | None = None
        self._stub: GdbStub | None = None
        self.addresses: set[int] = set()
        """Linear addresses."""
        self.turn = 0
        """Times that the vCPUs have been let run."""
        self._stepping = False
        self._unseen = False

    def connect(self, gdb: trio.SocketStream) -> None:
        """Take the other end of the character device `GDB`, which its owner closes."""
        self._gdb = gdb

    def note_stop(self) -> None:
        """Note that the vCPUs stopped."""
        self._unseen = not self._stepping

    def note_resumed(self) -> None:
        """Note that the vCPUs run."""
        self.turn += 1
        self._unseen = False

    async def insert(self, attempt: str, address: int) -> None:
        """Set one. Raises `GdbStubError` where there is no more."""
        if self._stub is None:
            if self._gdb is None:
                raise GdbStubError(attempt, "there is no QEMU")
            line = {"command-line": f"gdbserver chardev:{GDB}"}
            said = str(await self._qemu.ask(attempt, "human-monitor-command", line))
            if not said.startswith("Waiting for gdb connection"):
                raise GdbStubError(attempt, f"QEMU has no gdbstub: {said.strip()}")
            self._stub = GdbStub(self._gdb)
        await self._stub.insert(address)
        self.addresses.add(address)

    async def remove(self, address: int) -> None:
        """Take one away that is set. Raises `GdbStubError`."""
        if self._stub is not None:
            await self._stub.remove(address)
            self.addresses.discard(address)

    async def step_over(self, attempt: str) -> None:
        """Have each vCPU that stands at a breakpoint execute what is there.

        QEMU would stop it there again. Raises `GdbStubError` where the guest ends by that.
        """
        if self._stub is None or not self.addresses:
            return
        self._stepping = True
        try:
            for vcpu, address in await self._standing_at(attempt):
                # Bounded; a breakpoint must not stay away because somebody waits no longer.
                with trio.CancelScope(shield=True):
                    await self._stub.remove(address)
                    try:
                        await self._stub.step(vcpu)
                        # After this answer all events of the step have come.
                        await self._qemu.ask(attempt, "query-status")
                    finally:
                        await self._stub.insert(address)
        finally:
            self._stepping = False

    async def reached(self, turn: int) -> list[tuple[int, int]]:
        """(vCPU, linear address) of the breakpoints that a stop nobody has looked at is for.

        None if the vCPUs have been let run since `turn`: what is seen then may be the next stop.
        """
        standing = await self._standing_at("look at a breakpoint")
        if not self._unseen or turn != self.turn:
            return []
        self._unseen = False
        return standing

    async def _standing_at(self, attempt: str) -> list[tuple[int, int]]:
        """(vCPU, address) of each that stands at a breakpoint."""
        found = []
        for vcpu in range(self._cpus):
            said = await self._qemu.ask_human(attempt, "info registers", vcpu)
            address = next_instruction(parse_registers(said))
            if address in self.addresses:
                found.append((vcpu, address))
        return found
