# SPDX-License-Identifier: MIT
"""pmemsave and memsave: the guest's bytes, whole and unchanged, or an error and no harm."""

from __future__ import annotations

import os
import stat
import struct
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from pyvmm.errors import PyvmmError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Segment
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.machine import Machine
from pyvmm.machine.memory_reading import contents
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.peer import open_qemu
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.guests import bundled
from tests.machine.inside import ram_of
from tests.machine.private_machines import Talk, talk

from .guests import HOSTS, hanging, run, spinning

MEMORY = 4 * MIB
PATTERN = bytes(range(1, 252)) * 40
"""Longer than two pages, and never the same at page boundaries."""


async def save(machine: Machine, path: Path, val: int, size: int) -> bytes:
    assert await run(machine, "pmemsave", val=val, size=size, filename=str(path)) == {}
    return content(path)


def content(path: Path) -> bytes:
    return path.read_bytes()


# -- pmemsave --


@pytest.mark.parametrize("host", HOSTS)
def test_a_range_of_memory_is_saved_as_it_is(host: HostChoice, tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(host, MEMORY) as machine:
            ram_of(machine).write(2 * MIB + 100, PATTERN)
            ram_of(machine).write(3 * MIB, PATTERN)
            ranges = [(0, MEMORY), (2 * MIB + 101, 9000), (2 * MIB + 5000, 1), (1, MEMORY - 1)]
            saved = [await save(machine, tmp_path / "saved", *one) for one in ranges]
            # Only now: to look at it makes pages of what was none.
            for one, found in zip(ranges, saved, strict=True):
                assert found == ram_of(machine).read(*one)

    trio.run(main)


@pytest.mark.parametrize("host", HOSTS)
def test_memory_that_was_never_touched_costs_nothing(host: HostChoice, tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(host, 64 * MIB) as machine:
            mapping = ram_of(machine).mapping
            before = mapping.resident(0, 64 * MIB)
            assert before < MIB
            saved = tmp_path / "saved"
            await run(machine, "pmemsave", val=0, size=64 * MIB, filename=str(saved))
            assert saved.stat().st_size == 64 * MIB
            assert saved.stat().st_blocks * 512 < MIB
            assert mapping.resident(0, 64 * MIB) == before

    trio.run(main)


def test_what_is_no_memory_is_zeroes(tmp_path: Path) -> None:
    async def main() -> None:
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            ram_of(machine).write(MEMORY - 4, b"last")
            saved = await save(machine, tmp_path / "saved", MEMORY - 4, 3 * PAGE_SIZE)
            assert saved == b"last".ljust(3 * PAGE_SIZE, b"\0")
            assert await save(machine, tmp_path / "saved", 0, 0) == b""
            assert await save(machine, tmp_path / "saved", 1 << 40, 0) == b""

    trio.run(main)


def test_a_file_is_made_and_emptied_as_qemu_does_it(tmp_path: Path) -> None:
    saved = tmp_path / "saved"

    async def main() -> None:
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            old = os.umask(0o027)
            try:
                await save(machine, saved, 0, PAGE_SIZE)
            finally:
                os.umask(old)
            assert stat.S_IMODE(saved.stat().st_mode) == 0o640
            saved.write_bytes(b"x" * 3 * PAGE_SIZE)
            ram_of(machine).write(PAGE_SIZE, bytes(PAGE_SIZE))
            assert await save(machine, saved, PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)

    trio.run(main)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"filename": "/dev/full"}, "Could not write '/dev/full': No space left on device"),
        ({"filename": "DIR/no/saved"}, "no/saved': No such file or directory"),
        ({"filename": "DIR"}, "Is a directory"),
        ({"filename": "DIR/a\0b"}, "embedded null "),
        ({"filename": "DIR/\udc00\ud800"}, "surrogates not allowed"),
        ({"filename": ""}, "No such file or directory"),
        ({"val": 1 << 40}, "no guest memory in gpa 0x10000000000-0x10000000fff"),
        ({"val": -PAGE_SIZE}, "no guest memory in gpa 0xfffffffffffff000-0xffffffffffffffff"),
        ({"val": -1}, "Invalid addr 0xffffffffffffffff/size 4096 specified"),
        ({"size": -1}, "Invalid addr 0x0000000000000000/size -1 specified"),
        ({"size": (1 << 63) - 1, "filename": "DIR/huge"}, "Could not write"),
        ({"val": "0"}, "Invalid parameter type for 'val', expected: integer"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], told: str, tmp_path: Path) -> None:
    given = {"val": 0, "size": PAGE_SIZE, "filename": "DIR/saved", **arguments}
    given["filename"] = given["filename"].replace("DIR", str(tmp_path))

    async def main() -> None:
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            # Something to write, so that a full device shows.
            ram_of(machine).write(0, PATTERN)
            with pytest.raises(CommandError) as caught:
                await run(machine, "pmemsave", **given)
            assert told in caught.value.description
            assert not (tmp_path / "saved").exists()
            await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())  # It still runs.

    trio.run(main)


# -- files that are none --


def test_a_fifo_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            with pytest.raises(CommandError, match=r"Could not open .*fifo': No such device"):
                await save(machine, tmp_path / "fifo", 0, PAGE_SIZE)

    trio.run(main)


def test_a_fifo_gets_all_of_it_and_trio_goes_on_meanwhile(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    got, data = bytearray(), b""

    async def main() -> None:
        nonlocal data
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            ram_of(machine).write(MIB, PATTERN)
            ram_of(machine).write(3 * MIB - 4200, PATTERN)
            expected = ram_of(machine).read(MIB - 100, 2 * MIB)
            async with trio.open_nursery() as nursery:

                async def save_it() -> None:
                    await run(
                        machine, "pmemsave",
                        val=MIB - 100, size=2 * MIB, filename=str(tmp_path / "fifo"),
                    )  # fmt: skip

                nursery.start_soon(save_it)
                # This loop runs in the thread that saving must not block: the FIFO is small.
                while not got or data:
                    await trio.lowlevel.wait_readable(end)
                    with suppress(BlockingIOError):
                        data = os.read(end, 100_000)
                        got.extend(data)
            assert bytes(got) == expected

    try:
        trio.run(main)
    finally:
        os.close(end)


def test_saving_can_be_cancelled_though_nobody_takes_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)

    async def main() -> None:
        async with spinning(HostChoice.MODEL, MEMORY) as machine:
            with trio.move_on_after(0.05) as scope:
                await save(machine, tmp_path / "fifo", 0, MEMORY)
            assert scope.cancelled_caught

    try:
        trio.run(main)
        # Its thread has gone on to other things: no file of it is open.
        writers = [
            name
            for name in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{name}") == str(tmp_path / "fifo")
        ]
        assert len(writers) == 1
    finally:
        os.close(end)


# -- memsave --

TABLES = 0x10000
HIGH = 0xFFFF_8000_0000_0000


def map_two_pages(machine: Machine) -> None:
    """Page tables that map the pages from HIGH on to 0x300000, 0x200000 and what is no memory."""
    for level, index in enumerate((256, 0, 0)):
        table, below = TABLES + level * PAGE_SIZE, TABLES + (level + 1) * PAGE_SIZE
        ram_of(machine).write(table + 8 * index, struct.pack("<Q", below | 3))
    last = TABLES + 3 * PAGE_SIZE
    ram_of(machine).write(last, struct.pack("<3Q", 0x300000 | 3, 0x200000 | 3, MEMORY | 3))


def enter_long_mode(vcpu: Vcpu) -> None:
    sregs = vcpu.get_sregs()
    code = Segment(0, 0xFFFF_FFFF, 8, 11, 1, 0, 0, 1, 1, 1)
    vcpu.set_sregs(
        replace(
            sregs,
            cs=code,
            cr0=Cr0.PE | Cr0.PG | Cr0.ET | Cr0.NE,
            cr3=TABLES,
            cr4=Cr4.PAE,
            efer=Efer.LME | Efer.LMA,
        )
    )


@pytest.mark.parametrize("host", HOSTS)
def test_memory_is_saved_by_the_addresses_of_a_vcpu(host: HostChoice, tmp_path: Path) -> None:
    saved = tmp_path / "saved"

    async def main() -> None:
        async with spinning(host, MEMORY) as machine:
            await machine.control.pause()
            map_two_pages(machine)
            ram_of(machine).write(0x300000, b"first".ljust(PAGE_SIZE, b"1"))
            ram_of(machine).write(0x200000, b"second".ljust(PAGE_SIZE, b"2"))
            await machine.vcpus[0].call(enter_long_mode)

            async def memsave(**given: Any) -> bytes:
                await run(machine, "memsave", filename=str(saved), **given)
                return saved.read_bytes()

            both = b"first".ljust(PAGE_SIZE, b"1") + b"second".ljust(PAGE_SIZE, b"2")
            negative = HIGH - (1 << 64)
            assert await memsave(val=negative, size=2 * PAGE_SIZE) == both
            assert await memsave(val=negative + 3, size=PAGE_SIZE + 5) == both[3 : PAGE_SIZE + 8]
            assert await memsave(val=negative, size=0, cpu_index=0) == b""
            with pytest.raises(CommandError, match=r"2000/size 1 .*0x400000 .* memory"):
                await memsave(val=negative + PAGE_SIZE, size=PAGE_SIZE + 1)
            with pytest.raises(CommandError, match=r"0xffff800000003000/size 2 .* not mapped"):
                await memsave(val=negative + 3 * PAGE_SIZE, size=2)
            with pytest.raises(CommandError, match="Invalid addr 0x0000000000000000/size 16"):
                await memsave(val=0, size=16)
            for index in (1, -1):
                with pytest.raises(CommandError, match="'cpu-index' expects a CPU number"):
                    await memsave(val=negative, size=1, cpu_index=index)

    trio.run(main)


# -- memory that the host cannot see --


def test_private_pages_are_refused_or_left_out_and_named(
    private_mailbox: MachineConfig, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"

    async def conversation(guest: Talk) -> None:
        machine = guest.machine
        gpa = await guest.take(2 * MIB)
        machine.memory.conversion.convert(gpa, 2 * MIB, Side.SHARED)
        machine.memory.write(gpa, PATTERN)
        machine.memory.conversion.convert(gpa + 2 * PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
        given = {"val": gpa, "size": 2 * MIB, "filename": str(saved)}
        with pytest.raises(PyvmmError) as caught:
            await run(machine, "pmemsave", **given)
        hidden = gpa + 2 * PAGE_SIZE
        assert f"{hidden:#x}-{hidden + PAGE_SIZE - 1:#x} private" in str(caught.value)
        assert not saved.exists()
        answer = await run(machine, "x-pyvmm-pmemsave", **given)
        assert answer == {
            "left-out": [{"start": hidden, "end": hidden + PAGE_SIZE, "state": "private"}]
        }
        expected = bytearray(PATTERN.ljust(2 * MIB, b"\0"))
        expected[2 * PAGE_SIZE : 3 * PAGE_SIZE] = bytes(PAGE_SIZE)
        assert saved.read_bytes() == bytes(expected)
        machine.memory.conversion.convert(hidden, PAGE_SIZE, Side.SHARED)
        if ram_of(machine).in_place:
            expected[:] = PATTERN.ljust(2 * MIB, b"\0")  # It is the same page.
        assert await run(machine, "pmemsave", **given) == {}
        assert saved.read_bytes() == bytes(expected)
        # Shared as the page itself is: the page tables are not.
        with pytest.raises(
            CommandError, match=r"the page table entry at gpa 0x[0-9a-f]+ cannot be read"
        ):
            await run(machine, "memsave", **given)
        machine.control.interrupt("enough")

    talk(private_mailbox, conversation)


def test_a_page_that_goes_while_memory_is_saved_is_no_zeroes(
    private_mailbox: MachineConfig, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    size = 2 * MIB  # Read in two blocks.

    async def save_and_convert(guest: Talk, name: str, convert: tuple[int, int]) -> Any:
        """Convert when saving has begun and cannot have come far: the FIFO is full."""
        given = {"val": convert[0] // size * size, "size": size}
        answer: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def save_it() -> None:
                filename = str(tmp_path / "fifo")
                try:
                    answer.append(await run(guest.machine, name, **given, filename=filename))
                except PyvmmError as refused:
                    answer.append(refused)

            nursery.start_soon(save_it)
            await trio.lowlevel.wait_readable(end)
            guest.machine.memory.conversion.convert(*convert, Side.PRIVATE)
            while not answer:
                with trio.move_on_after(0.01):
                    await trio.lowlevel.wait_readable(end)
                    drained(end)
        drained(end)
        return answer[0]

    async def conversation(guest: Talk) -> None:
        machine = guest.machine
        gpa = await guest.take(size)
        machine.memory.conversion.convert(gpa, size, Side.SHARED)
        late = gpa + size - PAGE_SIZE
        # One that has data when it goes, one that has none.
        for data in (b"x", b""):
            machine.memory.write(late, data or b"\0")
            if not data:
                machine.memory.conversion.convert(late, PAGE_SIZE, Side.PRIVATE)
                machine.memory.conversion.convert(late, PAGE_SIZE, Side.SHARED)
            refused = await save_and_convert(guest, "pmemsave", (late, PAGE_SIZE))
            assert f"{late:#x}-{late + PAGE_SIZE - 1:#x} private" in str(refused)
            machine.memory.conversion.convert(late, PAGE_SIZE, Side.SHARED)
            answer = await save_and_convert(guest, "x-pyvmm-pmemsave", (late, PAGE_SIZE))
            assert answer == {
                "left-out": [{"start": late, "end": late + PAGE_SIZE, "state": "private"}]
            }
            machine.memory.conversion.convert(late, PAGE_SIZE, Side.SHARED)
        machine.control.interrupt("enough")

    try:
        talk(private_mailbox, conversation)
    finally:
        os.close(end)


def test_a_page_that_came_back_after_its_turn_is_told(private_mailbox: MachineConfig) -> None:
    size = 2 * MIB  # Read in two blocks.

    async def conversation(guest: Talk) -> None:
        memory = guest.memory
        gpa = await guest.take(size)
        memory.conversion.convert(gpa, size, Side.SHARED)
        last = gpa + size - PAGE_SIZE
        for at in (gpa, last - PAGE_SIZE, last):
            memory.write(at, b"x")
        left_out: list[PageRun] = []
        saving = contents(memory, GpaRange(gpa, gpa + size), left_out)
        assert next(saving).gpa == gpa
        memory.conversion.convert(last - PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
        assert next(saving).gpa == last
        memory.conversion.convert(last - PAGE_SIZE, PAGE_SIZE, Side.SHARED)
        assert list(saving) == []
        assert left_out == [PageRun(GpaRange(last - PAGE_SIZE, last), PageState.PRIVATE)]
        guest.machine.control.interrupt("enough")

    talk(private_mailbox, conversation)


def drained(end: int) -> None:
    """Take what is in a FIFO now."""
    with suppress(BlockingIOError):
        while os.read(end, 1 << 20):
            pass


# -- beside QEMU --


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_the_same_guest_is_saved_alike_by_qemu(host: HostChoice, tmp_path: Path) -> None:
    image = tmp_path / "hang.img"
    image.write_bytes(bundled("hang"))
    command = [
        "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display",
        "none", "-m", "16", "-accel", "tcg", "-serial", "null", "-kernel", str(image), "-S",
    ]  # fmt: skip

    async def main() -> None:
        # The first of the kernel, its code: loaded, and never changed (the page tables are).
        kernel = {"val": MIB, "size": 2 * PAGE_SIZE}
        beyond = {"val": 16 * MIB - 4, "size": 8}
        found: dict[str, list[bytes]] = {}
        async with open_qemu(command) as qemu:
            await qemu.execute("cont")
            for name in ("pmemsave", "memsave"):
                await qemu.execute(name, {**kernel, "filename": str(tmp_path / "qemu")})
                found[name] = [(tmp_path / "qemu").read_bytes()]
            await qemu.execute("pmemsave", {**beyond, "filename": str(tmp_path / "qemu")})
            found["beyond"] = [(tmp_path / "qemu").read_bytes()]
        async with hanging(host) as machine:
            for name in ("pmemsave", "memsave"):
                await run(machine, name, **kernel, filename=str(tmp_path / "ours"))
                found[name].append((tmp_path / "ours").read_bytes())
            await run(machine, "pmemsave", **beyond, filename=str(tmp_path / "ours"))
            found["beyond"].append((tmp_path / "ours").read_bytes())
        for name, (qemus, ours) in found.items():
            assert qemus == ours, name
            assert any(ours) == (name != "beyond")

    trio.run(main)


def test_no_thread_is_left() -> None:
    # Trio keeps idle worker threads for seconds; vCPU threads must be gone.
    assert not [one.name for one in threading.enumerate() if one.name.startswith("vcpu")]
