# SPDX-License-Identifier: MIT
"""human-monitor-command: lines about a live guest, in QEMU's words for the same guest."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from pyvmm.errors import PyvmmError
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import CommandError
from tests.machine.guests import EXIT_42
from tests.machine.inside import is_paused, ram_of
from tests.machine.private_machines import BOTH_BACKINGS, Talk, config, talk

from .guests import HOSTS, hanging, run, spinning
from .test_dump import hanging_qemu

Ask = Callable[[str], Awaitable[str]]


def lines_of(text: str) -> str:
    """The text with newlines alone; every line ends as on a terminal."""
    assert text.count("\n") == text.count("\r\n")
    return text.replace("\r\n", "\n")


def asking(machine: Machine, cpu: int = 0) -> Ask:
    async def ask(line: str) -> str:
        answer = await run(machine, "human-monitor-command", command_line=line, cpu_index=cpu)
        assert isinstance(answer, str)
        return lines_of(answer)

    return ask


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_is_looked_at(host: HostChoice) -> None:
    async def main() -> None:
        async with hanging(host) as machine:
            ask = asking(machine)
            assert await ask("info status") == "VM status: running\n"
            text = await ask("info registers")
            assert text.startswith("\nCPU#0\nRAX=")
            assert "\nCS =0008 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]\n" in text
            assert ("XMM15=" in text) == (host is HostChoice.KVM)
            assert await ask("x /2xb $rip") == await ask("xp /2xb $rip")
            ram_of(machine).write(8 * MIB, b"pyvmm")
            assert await ask("xp /5cb 0x800000") == "0000000000800000: 'p' 'y' 'v' 'm' 'm'\n"
            assert await ask("x/5xb 8*0x100000") == ("0000000000800000: 0x70 0x79 0x76 0x6d 0x6d\n")
            assert await ask("x 0x7fffffff0000") == "00007fffffff0000: Cannot access memory\n"
            assert await ask("xp 0x80000000") == "0000000080000000: Cannot access memory\n"
            tree = await ask("info mtree")
            assert "(prio 0, ram): alias ram-below-4g @pyvmm.ram" in tree
            assert "00000000000003f8-00000000000003ff (prio 0, i/o): 16550 at COM1\n" in tree
            assert "prio 0, ram): pyvmm.ram\n" in await ask("info mtree -f")
            assert (await ask("info vcpus")).startswith("vCPU 0: 64-bit mode\n")
            assert (await ask("info memory")).startswith("16384 KiB, ")
            assert await ask("print $cs") == "0x8\n"

    trio.run(main)


def test_a_page_boundary_in_linear_memory(tmp_path: Path) -> None:
    """A line that begins in one page and ends in another, which is somewhere else."""
    del tmp_path

    async def main() -> None:
        async with hanging(HostChoice.MODEL) as machine:
            ask = asking(machine)
            await machine.control.pause()
            sregs = await machine.vcpus[0].call(lambda vcpu: vcpu.get_sregs())
            tables = 15 * MIB
            for level, index in enumerate((300, 0, 0)):
                base = sregs.cr3 if level == 0 else tables + (level - 1) * 4096
                entry = tables + level * 4096 | 3
                ram_of(machine).write(base + 8 * index, entry.to_bytes(8, "little"))
            page_table = tables + 2 * 4096
            ram_of(machine).write(page_table, (0x80_0000 | 3).to_bytes(8, "little"))
            ram_of(machine).write(page_table + 8, (0x70_0000 | 3).to_bytes(8, "little"))
            ram_of(machine).write(0x80_0FFC, b"\1\2\3\4")
            ram_of(machine).write(0x70_0000, b"\5\6\7\10")
            assert await ask("x /1xg 0xffff960000000ffc") == (
                "ffff960000000ffc: 0x0807060504030201\n"
            )
            assert await ask("x /1xg 0xffff960000001ffc") == (
                "ffff960000001ffc: Cannot access memory\n"
            )

    trio.run(main)


def test_vcpus_are_told_apart() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL, cpus=2) as machine:
            assert (await asking(machine, 1)("info registers")).startswith("\nCPU#1\n")
            ask = asking(machine)
            both = await ask("info registers -a")
            assert re.findall(r"^CPU#\d$", both, re.MULTILINE) == ["CPU#0", "CPU#1"]
            assert (await ask("info registers 1")).startswith("\nCPU#1\n")
            assert await ask("info registers 2") == "CPU#2 not available\n"
            for index in (-1, 2):
                with pytest.raises(CommandError, match="expects a CPU number"):
                    await asking(machine, index)("info status")

    trio.run(main)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", ""),
        ("   ", ""),
        ("dance", "unknown command: 'dance'\n"),
        ("info dance", "unknown command: 'info dance'\n"),
        ("help dance", "unknown command: 'dance'\n"),
        ("x", 'unexpected end of expression\nTry "help x" for more information\n'),
        ("xp /4z 0", "invalid char in format: 'z'\nTry \"help xp\" for more information\n"),
        ("info registers foo", "foo: neither -a nor the number of a vCPU\n"
         'Try "help info registers" for more information\n'),
        ("info mtree -d", "-d: there is no such view here, only -f\n"
         'Try "help info mtree" for more information\n'),
        ("help x", "x /fmt addr -- virtual memory dump starting at 'addr'\n"),
        ("p/c 65", "'A'\n"),
        ("p/d -1", "-1\n"),
        ("p/u -1", "18446744073709551615\n"),
        ("p/o 8", "010\n"),
        ("y" * 2000, "a line has at most 1024 characters\n"),
    ],
)  # fmt: skip
def test_lines(line: str, answer: str) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            assert await asking(machine)(line) == answer

    trio.run(main)


def test_help_names_every_word() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            text = await asking(machine)("help")
            for name in ("x", "xp", "info registers", "info mtree", "info status", "stop|s"):
                assert re.search(rf"^{re.escape(name)} .*-- ", text, re.MULTILINE), name
            assert await asking(machine)("info") == await asking(machine)("help info")

    trio.run(main)


def test_a_guest_is_steered() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            ask = asking(machine)
            assert await ask("stop") == ""
            assert is_paused(machine)
            assert await ask("info status") == "VM status: paused\n"
            assert await ask("c") == ""
            assert not is_paused(machine)
            await ask("quit")
            assert (await machine.control.wait()).ending.kind is EndingKind.INTERRUPTED

    trio.run(main)


def test_a_guest_that_has_ended_is_an_error() -> None:
    async def main() -> None:
        async with open_machine(
            MachineConfig(EXIT_42, memory=4 * MIB, host=HostChoice.MODEL)
        ) as machine:
            await machine.control.wait()
            with pytest.raises(PyvmmError, match="has ended"):
                await asking(machine)("info registers")

    trio.run(main)


@pytest.mark.parametrize("backing", BOTH_BACKINGS)
def test_private_memory_is_not_shown(backing: PrivateBacking) -> None:
    async def conversation(with_guest: Talk) -> None:
        ask = asking(with_guest.machine)
        gpa = await with_guest.take(4096)
        assert await ask(f"xp {gpa:#x}") == f"{gpa:016x}: Cannot access memory\n"
        assert "(prio 0, ram): shared window\n" in await ask("info mtree")
        assert "staging" not in await ask("info mtree")
        with_guest.machine.control.interrupt("enough")

    talk(config("mailbox", memory=16 * MIB, backing=backing), conversation)


SAME_REGISTERS = (
    "RSI", "R12", "RIP", "ES", "CS", "SS", "DS", "FS", "GS", "GDT", "IDT", "CR0", "DR0", "DR6",
    "EFER",
)  # fmt: skip


@pytest.mark.qemu
def test_qemu_prints_the_same_of_the_same_guest(tmp_path: Path) -> None:
    forms = [f"/{count}{base}{size}" for base in "xduoc" for size in "bhwg" for count in (1, 7)]
    lines = [
        *(f"{word} {form} 0x{0x10_0000 + index * 16:x}" for index, form in enumerate(forms)
          for word in ("x", "xp")),
        "x /4xw 0xffff888000000000", "xp /0xb 0", "xp /4xb 0x100000+(3*5)", "x /2xb $eip",
        "x", "x /4z 0", "x foo", "p 1/0", "p", "foo", "info foo", "help foo", "help x",
        "help xp", "info status", "", "p/x 5", "p 0x10", "p -1", "p 1+6&3", "p ~0", "p $eip",
        "p $pc", "p $cs", "p (1", "p $foo", "p 1 2", "info registers 9",
    ]  # fmt: skip

    async def main() -> None:
        async with hanging_qemu(tmp_path) as qemu:

            async def ask_qemu(line: str) -> str:
                answer = await qemu.execute("human-monitor-command", {"command-line": line})
                return lines_of(str(answer))

            theirs = {line: await ask_qemu(line) for line in lines}
            their_registers = await ask_qemu("info registers")
        async with hanging(HostChoice.MODEL) as machine:
            await trio.sleep(0.1)
            await machine.control.pause()
            ask = asking(machine)
            ours = {line: await ask(line) for line in lines}
            our_registers = await ask("info registers")
        for line in lines:
            assert (line, ours[line]) == (line, theirs[line])
        for name in SAME_REGISTERS:
            (their_line,) = re.findall(rf"^{name}\s*=.*$", their_registers, re.MULTILINE)
            (our_line,) = re.findall(rf"^{name}\s*=.*$", our_registers, re.MULTILINE)
            # TCG keeps limit bits in the flags, KVM does not.
            assert re.sub(r"00([ac])f9", r"00\g<1>09", their_line) == our_line

    trio.run(main)
