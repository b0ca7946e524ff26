# SPDX-License-Identifier: MIT
"""Parts of the driver of QEMU by themselves: the console's pipes, answers of the human monitor."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from pyvmm.testing.drivers import console_pipes, gdb_stub
from pyvmm.testing.drivers.console_pipes import ConsolePipes
from pyvmm.testing.drivers.gdb_stub import GdbStub, GdbStubError
from pyvmm.testing.drivers.qemu_registers import (
    SenselessAnswerError,
    next_instruction,
    parse_registers,
    parse_translation,
)


def test_a_reader_that_stalls_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_pipes, "WAITING_MAX", 1 << 16)
    monkeypatch.setattr(console_pipes, "_ROOM", 1 << 16)
    said = os.urandom(1 << 20)

    async def main() -> bytes:
        pipes = ConsolePipes()
        got = b""
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                os.set_blocking(pipes.child_output, False)
                at = 0
                while at < len(said):
                    await trio.lowlevel.wait_writable(pipes.child_output)
                    at += os.write(pipes.child_output, said[at : at + 4096])
                pipes.end()

            nursery.start_soon(pipes.pump)
            nursery.start_soon(say)
            await trio.testing.wait_all_tasks_blocked(0.01)
            while data := await pipes.receive():
                got += data
        await pipes.close()
        return got

    assert trio.run(main) == said


def packet(payload: bytes) -> bytes:
    return b"$%s#%02x" % (payload, sum(payload) & 0xFF)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (packet(b"E22"), "answers 'E22'"),
        (packet(b"T02thread:01;") + packet(b"T8f"), "answers 'T8f"),
        (packet(b"T02thread:01;") * 3, "does not answer"),
        (b"x" * (1 << 17), "bytes of no packet"),
        (None, "has closed its gdbstub"),
        (packet(b"T02thread:01;") + packet(b"T05thread:01;"), ""),
    ],
)
def test_a_step_of_the_gdbstub_ends(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, told: str
) -> None:
    monkeypatch.setattr(gdb_stub, "PATIENCE", 0.05)

    async def main() -> None:
        ours, theirs = trio.socket.socketpair()
        with ours, theirs:
            stub = GdbStub(trio.SocketStream(ours))
            if answer is None:
                theirs.close()
                await stub.step(0)
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.SocketStream(theirs).send_all, answer)
                try:
                    await stub.step(0)
                finally:
                    nursery.cancel_scope.cancel()

    if not told:
        trio.run(main)
        return
    with pytest.raises((GdbStubError, ExceptionGroup)) as raised:
        trio.run(main)
    error: BaseException = raised.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, GdbStubError)
    assert told in str(error)


IN_64_BIT = """
CPU#0
RAX=0000000000000061 RBX=000000000010cfef RCX=000000000010cff0 RDX=00000000000003fe
RSI=0000000000000000 RDI=000000000010cff0 RBP=0000000000000000 RSP=000000000010cfe0
R8 =00000000000003fd R9 =00000000000003f8 R10=0000000000000001 R11=0000000000000001
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=000000000000000f
RIP=0000000000100435 RFL=00000047 [---Z-PC] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 0000000000001000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
SS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
DS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
FS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
GS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT
TR =0028 000000000010e020 00000067 00008b00 DPL=0 TSS64-busy
GDT=     000000000010e0a0 00000037
IDT=     000000000010e110 00000fff
CR0=80010011 CR2=0000000000000000 CR3=0000000000102000 CR4=00000020
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000500
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
"""


def test_registers_are_read_strictly() -> None:
    registers = parse_registers(IN_64_BIT)
    values = registers.values
    assert [values[name] for name in ("rax", "r8", "r15", "rip")] == [0x61, 0x3FD, 15, 0x100435]
    assert [values[name] for name in ("rflags", "cs", "tr", "cr0")] == [0x47, 8, 0x28, 0x80010011]
    assert (registers.bases["cs"], registers.bases["tr"]) == (0x1000, 0x10E020)
    with pytest.raises(SenselessAnswerError, match="no efer"):
        parse_registers(IN_64_BIT.replace("EFER", "LEFT"))
    with pytest.raises(SenselessAnswerError, match="no cs"):
        parse_registers(IN_64_BIT.replace("CS =0008", "CS =what"))
    assert next_instruction(registers) == 0x100435
    short = parse_registers(IN_64_BIT.replace("R8 =", "X8 =").replace("RAX=00000000", "EAX="))
    assert short.values["rax"] == 0x61
    assert next_instruction(short) == 0x101435
    assert parse_translation("gpa: 0x1000\r\n") == 0x1000
    assert parse_translation("Unmapped\r\n") is None
    with pytest.raises(SenselessAnswerError):
        parse_translation("unknown command: 'gva2gpa'")
