# SPDX-License-Identifier: MIT
"""dump-guest-memory: a core with the guest's bytes and registers, as QEMU's, or an error."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from elftools.elf.elffile import ELFFile

from pyvmm.errors import PyvmmError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.qmp import core_writing
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.event_names import RESUME, STOP, dump_completed
from pyvmm.qmp.peer import QemuPeer, open_qemu
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.guests import COUNT, bundled
from tests.machine.inside import is_paused, ram_of
from tests.machine.private_machines import BOTH_BACKINGS, Talk, config, talk

from .guests import HOSTS, Asked, asked, hanging, run, spinning

KERNEL = MIB
"""Where the bundled guests are linked."""


async def dump(
    machine: Machine | Asked, path: Path, *, paging: bool = False, **arguments: Any
) -> bytes:
    remove(path)
    answer = await run(
        machine, "dump-guest-memory", paging=paging, protocol=f"file:{path}", **arguments
    )
    assert answer == {}
    return content(path)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def content(path: Path) -> bytes:
    return path.read_bytes()


def loads(path: Path) -> list[tuple[int, int, int, bytes]]:
    """Every PT_LOAD: linear, gpa, size in memory, contents."""
    with path.open("rb") as file:
        return [
            (one["p_vaddr"], one["p_paddr"], one["p_memsz"], one.data())
            for one in ELFFile(file).iter_segments("PT_LOAD")
        ]


def notes(path: Path) -> list[tuple[str, int, bytes]]:
    """Every note: owner, type, contents; parsed by hand, since QEMU's has no type."""
    with path.open("rb") as file:
        (segment,) = ELFFile(file).iter_segments("PT_NOTE")
        data = segment.data()
    found = []
    while data:
        name_size, size, kind = struct.unpack_from("<III", data)
        name_end = 12 + -(-name_size // 4) * 4
        end = name_end + -(-size // 4) * 4
        found.append(
            (data[12 : 12 + name_size - 1].decode(), kind, data[name_end : name_end + size])
        )
        data = data[end:]
    return found


def rip_and_rsp(status: bytes) -> tuple[int, int]:
    """Of an NT_PRSTATUS."""
    registers = struct.unpack_from("<27Q", status, 112)
    return registers[16], registers[19]


@pytest.mark.parametrize("host", HOSTS)
def test_a_core_has_memory_and_registers(host: HostChoice, tmp_path: Path) -> None:
    path = tmp_path / "core"

    async def main() -> None:
        async with hanging(host) as machine:
            await dump(machine, path)
            assert not is_paused(machine)
            await machine.control.pause()

            def registers(vcpu: Vcpu) -> tuple[Regs, Sregs]:
                return vcpu.get_regs(), vcpu.get_sregs()

            regs, sregs = await machine.vcpus[0].call(registers)
            assert loads(path) == [(0, 0, 16 * MIB, ram_of(machine).read(0, 16 * MIB))]
            (core, qemu) = notes(path)
            assert core[:2] == ("CORE", 1)
            assert rip_and_rsp(core[2])[1] == regs.rsp
            assert abs(rip_and_rsp(core[2])[0] - regs.rip) < 8
            assert qemu[:2] == ("QEMU", 0)
            assert struct.unpack_from("<5Q", qemu[2], 152 + 240) == (
                sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4,
            )  # fmt: skip
            # A guest that was paused stays paused.
            await dump(machine, path)
            assert is_paused(machine)

    trio.run(main)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


@pytest.mark.parametrize("host", HOSTS)
def test_the_guest_stands_still_meanwhile(
    host: HostChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def main() -> None:
        async with open_machine(MachineConfig(COUNT, memory=4 * MIB, host=host)) as machine:

            async def counter() -> int:
                return await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs().rbx)

            def look(*_unused: object) -> None:
                # Whatever another client says meanwhile.
                trio.from_thread.run_sync(machine.control.resume)
                for _ in range(2):
                    seen.append(trio.from_thread.run(counter))
                    trio.from_thread.run(trio.sleep, 0.02)

            monkeypatch.setattr(core_writing, "_write", look)
            await dump(machine, tmp_path / "core")
            assert seen[0] == seen[1]
            while await counter() == seen[1]:
                await trio.sleep(0.001)

    trio.run(main)


@pytest.mark.parametrize("host", HOSTS)
def test_with_paging_memory_is_where_the_guest_has_it(host: HostChoice, tmp_path: Path) -> None:
    path = tmp_path / "core"

    async def main() -> None:
        async with hanging(host) as machine:
            # The guest has all of it mapped one to one; a second view of one page, high up.
            sregs = await machine.vcpus[0].call(lambda vcpu: vcpu.get_sregs())
            top = ram_of(machine).read(sregs.cr3, PAGE_SIZE)
            assert top is not None
            tables = 15 * MIB
            for level in range(3):
                value = tables + (level + 1) * PAGE_SIZE | 3
                entry = (value if level < 2 else KERNEL | 3).to_bytes(8, "little")
                ram_of(machine).write(tables + level * PAGE_SIZE + 8 * 511, entry)
            ram_of(machine).write(sregs.cr3 + 8 * 300, (tables | 3).to_bytes(8, "little"))
            await dump(machine, path, paging=True)
            found = loads(path)
            kernel = ram_of(machine).read(KERNEL, PAGE_SIZE)
            high = 0xFFFF_0000_0000_0000 | 300 << 39 | 511 << 30 | 511 << 21 | 511 << 12
            assert (high, KERNEL, PAGE_SIZE, kernel) in found or any(
                linear == high & ~0x1F_FFFF for linear, *_ in found
            )
            assert (0, 0, 16 * MIB) in [one[:3] for one in found]
            # In the file once, however often it is mapped.
            assert path.stat().st_size < 17 * MIB

    trio.run(main)


def test_tables_without_end_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with hanging(HostChoice.MODEL) as machine:
            sregs = await machine.vcpus[0].call(lambda vcpu: vcpu.get_sregs())
            await machine.control.pause()
            loop = (sregs.cr3 | 3).to_bytes(8, "little")
            ram_of(machine).write(sregs.cr3, loop * 512)
            with pytest.raises(PyvmmError, match="page tables"):
                await dump(machine, tmp_path / "core", paging=True)
            assert is_paused(machine)
            assert not (tmp_path / "core").exists()

    trio.run(main)


def test_without_page_tables_paging_makes_no_difference(tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            await machine.control.pause()
            plain = await dump(machine, tmp_path / "plain")
            assert await dump(machine, tmp_path / "paging", paging=True) == plain

    trio.run(main)


def test_a_part_of_memory(tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            ram_of(machine).write(2 * MIB, b"here it is")
            await dump(machine, tmp_path / "core", begin=2 * MIB - 3, length=10)
            assert loads(tmp_path / "core") == [(2 * MIB - 3, 2 * MIB - 3, 10, b"\0\0\0here it")]
            await dump(machine, tmp_path / "core", begin=4 * MIB - 1, length=1 << 62)
            assert [one[:3] for one in loads(tmp_path / "core")] == [(4 * MIB - 1, 4 * MIB - 1, 1)]

    trio.run(main)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "fd:mine"}, "File descriptor named 'mine' has not been found"),
        ({"protocol": "/a/path"}, "Invalid parameter 'protocol'"),
        ({"protocol": "file:/no/such/place"}, "Could not open '/no/such/place': No such file"),
        ({"protocol": "file:/"}, "Is a directory"),
        ({"protocol": "file:a\0b"}, "null"),
        ({"protocol": "file:/dev/full"}, "No space left"),
        ({"begin": 0}, "Parameter 'length' is missing"),
        ({"length": 5}, "Parameter 'begin' is missing"),
        ({"begin": 0, "length": 0}, "Invalid parameter 'length'"),
        ({"begin": -1, "length": 5}, "Invalid parameter 'begin'"),
        ({"begin": 1 << 30, "length": 5}, "dump: no guest memory to dump"),
        ({"format": "kdump-zlib"}, "does not accept value 'kdump-zlib'"),
        ({"protocol": "file:/no/such/place", "detach": True}, "No such file"),
        ({"begin": 1 << 30, "length": 5, "detach": True}, "dump: no guest memory to dump"),
    ],
)
def test_what_cannot_be_dumped(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine, asked(machine) as one:
            given = {"protocol": f"file:{tmp_path}/core", "paging": False, **arguments}
            with pytest.raises(CommandError, match=message):
                await run(one, "dump-guest-memory", **given)
            assert not is_paused(machine)
            assert not (tmp_path / "core").exists()

    trio.run(main)


def test_a_dump_that_is_cancelled_lets_the_guest_run(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            # A reader that never reads: the pipe is full soon.
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                with trio.move_on_after(0.3) as scope:
                    await run(
                        machine,
                        "dump-guest-memory",
                        paging=False,
                        protocol=f"file:{fifo}",
                    )
                assert scope.cancelled_caught
            finally:
                os.close(reader)
            assert not is_paused(machine)

    trio.run(main)


NO_DUMP = {"status": "none", "completed": 0, "total": 0}
DONE = {"status": "completed", "completed": 4 * MIB, "total": 4 * MIB}


def test_a_dump_in_the_background(tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            completed = dump_completed(4 * MIB, 4 * MIB, None)
            async with asked(machine) as one:
                assert await run(one, "query-dump") == NO_DUMP
                whole = await dump(one, tmp_path / "whole")
                assert one.told == [STOP, completed, RESUME]
                await machine.control.pause()
                whole = await dump(one, tmp_path / "whole")
                one.told.clear()
                await dump(one, tmp_path / "core", detach=True)
                while not one.told:
                    await trio.sleep(0.001)
                assert one.told == [completed]
                assert await run(one, "query-dump") == DONE
                assert content(tmp_path / "core") == whole

    trio.run(main)


def test_one_dump_at_a_time(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine, asked(machine) as one:
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                ask = partial(run, one)
                await ask("dump-guest-memory", paging=False, protocol=f"file:{fifo}", detach=True)
                # The answer is there, the dump is not: nobody reads.
                assert (await ask("query-dump"))["status"] == "active"
                for detach in (False, True):
                    with pytest.raises(CommandError, match="There is a dump in process"):
                        await ask(
                            "dump-guest-memory", paging=False, detach=detach,
                            protocol=f"file:{tmp_path}/other",
                        )  # fmt: skip
                assert one.told == [STOP]
                os.close(reader)
                reader = -1
                while (await ask("query-dump"))["status"] == "active":
                    await trio.sleep(0.001)
                assert (await ask("query-dump"))["status"] == "failed"
                await dump(one, tmp_path / "core")
                assert await ask("query-dump") == DONE
            finally:
                if reader >= 0:
                    os.close(reader)

    trio.run(main)


def test_a_dump_in_the_background_ends_with_its_machine(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> None:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            async with spinning(HostChoice.MODEL) as machine, asked(machine) as one:
                told.append(one)
                await run(
                    one, "dump-guest-memory", paging=False, detach=True, protocol=f"file:{fifo}"
                )
        finally:
            os.close(reader)

    told: list[Asked] = []
    trio.run(main)
    (failed,) = (event.data for event in told[0].told if event.name == "DUMP_COMPLETED")
    assert failed is not None
    assert failed["error"] == "the dump was interrupted"


def test_the_capability_says_which_formats_there_are() -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine:
            answer = await run(machine, "query-dump-guest-memory-capability")
            assert answer == {"formats": ["elf"]}

    trio.run(main)


@pytest.mark.parametrize("backing", BOTH_BACKINGS)
def test_private_memory_is_there_without_contents(tmp_path: Path, backing: PrivateBacking) -> None:
    async def conversation(with_guest: Talk) -> None:
        machine = with_guest.machine
        gpa = await with_guest.take(4 * PAGE_SIZE)
        machine.memory.conversion.convert(gpa + PAGE_SIZE, PAGE_SIZE, Side.SHARED)
        machine.memory.write(gpa + PAGE_SIZE, b"seen" * 1024)
        await dump(machine, tmp_path / "core", begin=gpa, length=3 * PAGE_SIZE)
        assert loads(tmp_path / "core") == [
            (gpa, gpa, PAGE_SIZE, b""),
            (gpa + PAGE_SIZE, gpa + PAGE_SIZE, PAGE_SIZE, b"seen" * 1024),
            (gpa + 2 * PAGE_SIZE, gpa + 2 * PAGE_SIZE, PAGE_SIZE, b""),
        ]
        # The guest's page tables are private, too: what they map nobody knows.
        with pytest.raises(CommandError, match="or are private"):
            await dump(machine, tmp_path / "paging", paging=True)
        # What is private in place is in no mapping of the host's: whoever looks there ends.
        machine.memory.conversion.convert(gpa + PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
        await dump(machine, tmp_path / "again", begin=gpa, length=3 * PAGE_SIZE)
        assert {contents for *_, contents in loads(tmp_path / "again")} == {b""}
        machine.control.interrupt("enough")

    talk(config("mailbox", memory=16 * MIB, backing=backing), conversation)


# -- beside QEMU --


@asynccontextmanager
async def hanging_qemu(tmp_path: Path) -> AsyncIterator[QemuPeer]:
    """The same guest in QEMU, once it hangs, stopped."""
    image = tmp_path / "hang.img"
    image.write_bytes(bundled("hang"))
    output = bytearray()
    command = [
        "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display",
        "none", "-m", "16", "-accel", "tcg", "-serial", "stdio", "-kernel", str(image),
    ]  # fmt: skip
    with trio.fail_after(240):
        async with open_qemu(command, on_output=output.extend) as qemu:
            while b"hanging" not in output:
                await trio.sleep(0.01)
            # Past the last of its output it takes a moment until it hangs.
            await trio.sleep(0.1)
            await qemu.execute("stop")
            yield qemu


@pytest.mark.qemu
def test_the_core_has_the_form_of_qemus(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"

    async def main() -> None:
        async with hanging_qemu(tmp_path) as qemu:
            await qemu.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{theirs}"})
        async with hanging(HostChoice.MODEL) as machine:
            await trio.sleep(0.1)
            await dump(machine, ours)

    trio.run(main)
    with theirs.open("rb") as their_file, ours.open("rb") as our_file:
        their_elf, our_elf = ELFFile(their_file), ELFFile(our_file)
        # QEMU has its BIOS beside RAM, and 8 for the size of a header that has 64 bytes.
        same = [name for name in their_elf.header if name not in ("e_phnum", "e_ehsize")]
        assert "e_phoff" in same
        assert our_elf.header["e_ehsize"] == 64
        for name in same:
            assert their_elf.header[name] == our_elf.header[name], name
        codes = []
        for elf in (their_elf, our_elf):
            # QEMU's board has a ROM in the middle of RAM, which cuts it into pieces.
            (ram,) = (
                one
                for one in elf.iter_segments("PT_LOAD")
                if one["p_paddr"] <= KERNEL < one["p_paddr"] + one["p_memsz"]
            )
            assert ram["p_vaddr"] == ram["p_paddr"]
            assert (ram["p_filesz"], ram["p_flags"], ram["p_align"]) == (ram["p_memsz"], 0, 0)
            at = KERNEL - ram["p_paddr"]
            codes.append(ram.data()[at : at + 2 * PAGE_SIZE])
        assert codes[0] == codes[1]
        assert any(codes[0])
    for one, other in zip(notes(theirs), notes(ours), strict=True):
        assert one[:2] == other[:2]
        assert len(one[2]) == len(other[2])
    their_notes, our_notes = notes(theirs), notes(ours)
    assert rip_and_rsp(their_notes[0][2]) == rip_and_rsp(our_notes[0][2])
    # Code segment, control registers: all but what TCG keeps of limits in the flags.
    for offset, size in ((0, 8), (152, 8), (152 + 240, 8), (152 + 240 + 24, 16)):
        assert their_notes[1][2][offset : offset + size] == our_notes[1][2][offset : offset + size]
    assert stat.S_IMODE(theirs.stat().st_mode) == stat.S_IMODE(ours.stat().st_mode)


@pytest.mark.skipif(shutil.which("gdb") is None, reason="there is no gdb")
@pytest.mark.slow
def test_gdb_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "core"

    async def main() -> None:
        async with hanging(HostChoice.MODEL) as machine:
            await dump(machine, path, paging=True)

    trio.run(main)
    asked = ["info threads", 'printf "rip %#lx cr %#x\\n", $rip, $cs', "x/2xb $rip"]
    commands = [word for line in asked for word in ("-ex", line)]
    said = subprocess.run(
        ["gdb", "-nx", "-batch", *commands, "-core", str(path)],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "rip 0x1" in said.stdout
    assert "0xeb\t0xfe" in said.stdout
