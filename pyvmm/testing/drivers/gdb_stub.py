# SPDX-License-Identifier: MIT
"""QEMU's gdbstub, as far as breakpoints need it: packets of GDB's remote protocol over a socket.

https://sourceware.org/gdb/current/onlinedocs/gdb.html/Remote-Protocol.html. Nothing is sent while
the machine runs: a byte that comes then stops it (QEMU gdbstub.c, gdb_read_byte). So packets are
not acknowledged either, which QEMU does not wait for.
"""

from __future__ import annotations

import trio

from pyvmm.errors import ExitCode, PyvmmError

PATIENCE = 30.0
"""Seconds that an answer may take."""
_LONGEST = 1 << 16
_CLOSED = "QEMU has closed its gdbstub"


class GdbStubError(PyvmmError):
    """QEMU's gdbstub refused a request, or does not answer."""

    exit_code = ExitCode.SYSTEM_CALL


class GdbStub:
    """Client's side of the connection `stream`, which its owner closes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def insert(self, address: int) -> None:
        """Set a hardware breakpoint. Raises `GdbStubError` where there is no more."""
        await self._order(f"set a breakpoint at {address:#x}", f"Z1,{address:x},1")

    async def remove(self, address: int) -> None:
        """Take a breakpoint away."""
        await self._order(f"clear the breakpoint at {address:#x}", f"z1,{address:x},1")

    async def step(self, vcpu: int) -> None:
        """Have one vCPU execute one instruction, the others none."""
        attempt = f"step over a breakpoint on vCPU {vcpu}"
        answer = await self._ask(attempt, f"vCont;s:{vcpu + 1:x}", ("T02", "S02"))
        if not answer.startswith(("T05", "S05")):
            raise GdbStubError(attempt, f"QEMU's gdbstub answers {answer!r}")

    async def _order(self, attempt: str, request: str) -> None:
        answer = await self._ask(attempt, request, ("T", "S"))
        if answer != "OK":
            raise GdbStubError(attempt, f"QEMU's gdbstub answers {answer!r}")

    async def _ask(self, attempt: str, request: str, earlier: tuple[str, ...]) -> str:
        """Send `request` and give its answer, which is no packet that begins as one of `earlier`.

        Not to be cancelled: the answer would be taken for the next request's.
        """
        with trio.CancelScope(deadline=trio.current_time() + PATIENCE, shield=True):
            try:
                await self._send(request)
                while (answer := await self._packet(attempt)).startswith(earlier):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise GdbStubError(attempt, _CLOSED) from error
            return answer
        raise GdbStubError(attempt, f"QEMU's gdbstub does not answer in {PATIENCE:g} s")

    async def _send(self, payload: str) -> None:
        data = payload.encode("ascii")
        await self._stream.send_all(b"$%s#%02x" % (data, sum(data) & 0xFF))

    async def _packet(self, attempt: str) -> str:
        while True:
            start = self._received.find(b"$")
            end = self._received.find(b"#", start + 1)
            if start >= 0 and 0 <= end <= len(self._received) - 3:
                packet = self._received[start + 1 : end]
                self._received = self._received[end + 3 :]
                await trio.lowlevel.checkpoint()  # However many have come there is a time limit.
                return packet.decode("ascii", "replace")
            if len(self._received) > _LONGEST:
                raise GdbStubError(attempt, f"QEMU's gdbstub sends {_LONGEST} bytes of no packet")
            data = await self._stream.receive_some()
            if not data:
                raise GdbStubError(attempt, _CLOSED)
            self._received += data
