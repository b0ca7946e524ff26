# SPDX-License-Identifier: MIT
"""The guests for private memory, on a host that has it: what they find, and what the host finds."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.blocking import run
from pyvmm.machine.config import ImplicitPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import EndingKind, RunResult
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, WINDOW_GPA, GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.hosts.private_guest import has_private_memory
from tests.machine.inside import memory_of, ram_of

from .guests import bundled
from .mailbox import Mailbox, pattern_at, said

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

HANG = 300
"""Seconds after which a guest counts as hung; the lab's processor is an emulated one."""
INVALID = -errno.EINVAL


@pytest.fixture(autouse=True, scope="module")
def private_memory() -> None:
    with System() as system:
        if not has_private_memory(system):
            pytest.skip("this host has no private memory")


def private(program: str, command_line: str = "", **changes: object) -> MachineConfig:
    window = changes.pop("window", 16 * PAGE_SIZE)
    implicit = changes.pop("implicit", ImplicitPolicy.HONOUR)
    assert isinstance(window, int)
    assert isinstance(implicit, ImplicitPolicy)
    settings: dict[str, object] = {"memory": 16 * MIB, "timeout": float(HANG), **changes}
    return MachineConfig(
        bundled(program),
        command_line=command_line.encode(),
        private=PrivateConfig(bundled_guests.firmware(), window=window, implicit=implicit),
        **settings,  # type: ignore[arg-type]
    )


def says(program: str, command_line: str = "", **changes: object) -> list[str]:
    """What the guest says, having ended well."""
    completed = run(private(program, command_line, **changes))
    assert completed.result.ending.exit_code == 0, completed.output
    return completed.output.decode().splitlines()


Conversation = Callable[[Machine, Collector], Awaitable[None]]


def talk(config: MachineConfig, conversation: Conversation) -> tuple[RunResult, list[str]]:
    """Run a guest beside `conversation`; its result, and what it said."""
    console = Collector()

    async def whole() -> RunResult:
        with trio.fail_after(HANG):
            async with open_machine(config, console) as machine:
                await conversation(machine, console)
                return await machine.control.wait()

    return trio.run(whole), console.output.decode().splitlines()


# -- explicit conversion --


def test_contents_do_not_survive_a_conversion() -> None:
    assert says("convert", "rounds=3 refused=0") == [
        "0000400000-0000401000: 4 KiB there and back, 3 times",
        "0000401000-0000404000: 12 KiB there and back, 3 times",
        "00005ff000-0000601000: 8 KiB there and back, 3 times",
        "0000400000-0000600000: 2048 KiB there and back, 3 times",
        "0000405000-0000606000: 2052 KiB there and back, 3 times",
    ]


def test_a_range_of_the_guests_choice() -> None:
    assert says("convert", f"size={5 * PAGE_SIZE} offset={3 * PAGE_SIZE} rounds=1") == [
        "0000403000-0000408000: 20 KiB there and back, 1 times"
    ]


def test_a_range_over_a_gib() -> None:
    lines = says("convert", "rounds=1 refused=0", memory=1026 * MIB)
    assert lines[-1] == "003fffe000-0040002000: 16 KiB there and back, 1 times"


def test_requests_that_are_refused_change_nothing() -> None:
    lines = says("convert", "rounds=0")
    assert lines[5:] == [
        f"an address within a page: {INVALID}",
        f"no page: {INVALID}",
        f"more pages than there are numbers: {INVALID}",
        f"beyond the last address: {INVALID}",
        f"nobody's memory, to be private: {INVALID}",
        f"unknown attributes: {INVALID}",
        f"the window, to be private: {-errno.EOPNOTSUPP}",
        f"one page behind the last: {INVALID}",
    ]


# -- implicit conversion --


def window_states(machine: Machine, pages: int) -> list[PageState | None]:
    return [machine.memory.states.at(WINDOW_GPA + i * PAGE_SIZE) for i in range(pages)]


@pytest.mark.parametrize("step", [1, 3])
def test_the_window_is_shared_page_by_page_as_it_is_touched(step: int) -> None:
    seen: list[PageState | None] = []

    async def look(machine: Machine, _console: Collector) -> None:
        assert window_states(machine, 16) == [PageState.WITHHELD] * 16
        await machine.control.wait()
        seen.extend(window_states(machine, 16))

    touched = len(range(0, 16, step))
    result, lines = talk(private("touch", f"step={step} read=1"), look)
    assert result.ending.exit_code == 0
    assert lines == [
        f"window 00c0000000-00c0010000, touching {touched} pages",
        f"read {touched} pages, all zero",
        f"wrote {touched} pages",
        f"verified {touched} pages",
    ]
    assert seen == [PageState.WITHHELD if page % step else PageState.SHARED for page in range(16)]


def test_a_touch_that_the_policy_refuses_ends_the_run() -> None:
    completed = run(private("touch", implicit=ImplicitPolicy.REFUSE))
    assert completed.result.ending.kind is EndingKind.MEMORY_REFUSED
    assert completed.result.ending.exit_code == 82
    assert completed.output == b"window 00c0000000-00c0010000, touching 16 pages\n"


def test_without_a_window() -> None:
    completed = run(private("touch", window=0))
    assert completed.result.ending.exit_code == 1
    assert completed.output == b"there is no shared window\n"


# -- holes --


def test_a_hole_in_private_memory_is_zero_and_stays_private() -> None:
    async def punch(machine: Machine, console: Collector) -> None:
        mailbox = await Mailbox.of(memory_of(machine), console)
        gpa, size = await mailbox.asked("PUNCH")
        assert size == 6 * PAGE_SIZE
        ram = ram_of(machine)
        offset = ram.address_map.file_offset(gpa, size)
        assert ram.guest_memfd is not None
        assert offset is not None
        ram.guest_memfd.punch_hole(offset, size)
        assert machine.memory.states.at(gpa) is PageState.PRIVATE
        mailbox.answer(0)

    result, lines = talk(private("punch", f"size={6 * PAGE_SIZE}"), punch)
    works = [
        "it is empty",
        "it takes new contents",
        "the page before it is as it was",
        "the page after it is as it was",
    ]
    assert result.ending.exit_code == 0, lines
    assert lines[1:] == [
        "the host makes a hole: 0",
        *works,
        "shared and private again: 0",
        *works,
    ]


def test_the_guest_notices_that_there_is_no_hole() -> None:
    async def deceive(machine: Machine, console: Collector) -> None:
        mailbox = await Mailbox.of(memory_of(machine), console)
        await mailbox.asked("PUNCH")
        mailbox.answer(0)

    result, lines = talk(private("punch"), deceive)
    assert result.ending.exit_code == 1
    assert lines[-1].startswith("not so: it is empty: 0x")


# -- the mailbox --


def test_a_conversation() -> None:
    async def converse(machine: Machine, console: Collector) -> None:
        mailbox = await Mailbox.of(memory_of(machine), console)
        memory = machine.memory
        assert await mailbox.ask("ADD", 2, (1 << 64) - 1) == 1
        gpa = await mailbox.ask("TAKE", 2 * MIB)
        assert gpa % (2 * MIB) == 0
        assert await mailbox.ask("WRITE", gpa + 8, 0x1234) == 0
        assert await mailbox.ask("READ", gpa + 8) == ~0x1234
        assert memory.read(gpa, PAGE_SIZE) is None
        assert not memory.write(gpa, b"x")

        # Shared by the guest: both see what the other writes.
        assert await mailbox.ask("SHARE", gpa, PAGE_SIZE) == 0
        assert memory.read(gpa, PAGE_SIZE) == bytes(PAGE_SIZE)
        assert memory.write(gpa, (5).to_bytes(8, "little"))
        assert await mailbox.ask("READ", gpa) == ~5
        assert await mailbox.ask("FILL", gpa, 2 * PAGE_SIZE, 9) == 0
        assert memory.read(gpa + 16, 8) == pattern_at(gpa + 16, 9).to_bytes(8, "little")
        assert memory.read(gpa + 16, PAGE_SIZE) is None

        # And private again by the host: nothing is left, the second page is as it was.
        memory.conversion.convert(gpa, PAGE_SIZE, Side.PRIVATE)
        assert await mailbox.ask("CHECK_ZERO", gpa, PAGE_SIZE) == 0
        assert await mailbox.ask("CHECK", gpa, 2 * PAGE_SIZE, 9) == PAGE_SIZE // 8
        assert await mailbox.ask("CHECK_ZERO", gpa, 2 * PAGE_SIZE) == PAGE_SIZE // 8

        # What cannot be.
        assert await mailbox.ask("UNSHARE", gpa, 12) == INVALID
        assert await mailbox.ask("CONVERT", gpa, 1, 1 << 5) == INVALID
        assert await mailbox.ask("READ", gpa + 4) == INVALID
        assert await mailbox.ask("FILL", (1 << 32) - 8, 16, 0) == INVALID
        assert await mailbox.ask("TAKE", 1 << 40) == 0
        assert await mailbox.ask("END", 7) == 0

    result, lines = talk(private("mailbox"), converse)
    assert result.ending.exit_code == 7
    assert lines[1:] == ["the host has asked for the end, status 7"]


# -- the secret --


def pages_beginning_with(start: bytes) -> Iterator[str]:
    """Whatever of this process's memory has a page that begins so."""
    with Path("/proc/self/maps").open() as maps:
        lines = maps.read().splitlines()
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in lines:
            first, last = (int(text, 16) for text in line.split()[0].split("-"))
            with suppress(OSError, ValueError):  # What cannot be read, nobody reads.
                memory.seek(first)
                data = memory.read(last - first)
                at = data.find(start)
                while at >= 0:
                    if at % PAGE_SIZE == 0:
                        yield f"{first + at:#x}: {line}"
                    at = data.find(start, at + 1)


def test_no_road_of_the_host_leads_to_the_secret() -> None:
    key = 0x7E575EC1  # None of test_secret.py's, which searches where this leaves copies.

    async def search(machine: Machine, console: Collector) -> None:
        match = await said(console, r"secret at 0x([0-9a-f]+), checksum")
        gpa = int(match[1], 16)
        start = b"".join(pattern_at(gpa + at, key).to_bytes(8, "little") for at in range(0, 64, 8))
        mailbox = await Mailbox.of(memory_of(machine), console)
        assert await mailbox.asked("LOOK") == (gpa, PAGE_SIZE)
        offset = ram_of(machine).address_map.file_offset(gpa, PAGE_SIZE)
        file = ram_of(machine).guest_memfd
        assert offset is not None
        assert isinstance(file, GuestMemfd)

        assert machine.memory.read(gpa, PAGE_SIZE) is None
        assert ram_of(machine).read(gpa, PAGE_SIZE) == bytes(PAGE_SIZE)
        with pytest.raises(OSError, match="Illegal seek"):
            os.pread(file.fd, PAGE_SIZE, offset)
        with pytest.raises(OSError, match="No such device"):
            mmap.mmap(file.fd, PAGE_SIZE, offset=offset)
        assert list(pages_beginning_with(start)) == []
        # The search finds what is there: the same contents, shared by the host itself.
        assert machine.memory.write(mailbox.gpa, start)
        assert list(pages_beginning_with(start))
        mailbox.answer(0)

    # The mailbox's first bytes are only looked at when it is new.
    result, lines = talk(private("secret", f"key={key}"), search)
    assert result.ending.exit_code == 0, lines
    assert lines[2:] == ["the secret is unchanged", "shared, it is empty"]


def test_the_guest_notices_that_its_secret_is_gone() -> None:
    async def drop(machine: Machine, console: Collector) -> None:
        mailbox = await Mailbox.of(memory_of(machine), console)
        gpa, size = await mailbox.asked("LOOK")
        machine.memory.conversion.convert(gpa, size, Side.SHARED)
        mailbox.answer(0)

    result, lines = talk(private("secret"), drop)
    assert result.ending.exit_code == 1
    assert lines[-1].startswith("the secret has changed at 0x")


# -- several vCPUs --


def ranges_of(line: str) -> tuple[GpaRange, GpaRange]:
    """The common pages and the vCPUs' own, of the first line of ``smp``."""
    common, own = (
        GpaRange(*(int(text, 16) for text in part.split()[1].split("-")))
        for part in line.split(", ")[1:3]
    )
    return common, own


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_every_vcpu_converts_at_once(cpus: int) -> None:
    states: list[PageState | None] = []

    async def look(machine: Machine, console: Collector) -> None:
        await machine.control.wait()
        common, own = ranges_of(console.output.decode().splitlines()[0])
        states.extend(
            machine.memory.states.at(gpa) for gpa in range(common.start, own.end, PAGE_SIZE)
        )

    result, lines = talk(private("smp", "rounds=60 seed=7", cpus=cpus), look)
    assert result.ending.exit_code == 0, lines
    assert lines[0].startswith(f"{cpus} CPUs, common ")
    assert lines[1:] == [
        f"{cpus * 60 * 3} conversions",
        "every second common page is shared and zero, all others are private and as written",
    ]
    assert states[:64] == [PageState.SHARED, PageState.PRIVATE] * 32
    assert states[64:] == [PageState.PRIVATE] * 16 * cpus


def test_vcpus_and_host_convert_the_same_pages() -> None:
    """Afterwards page states, and what guest and host see of each other's writes, agree."""
    chance = random.Random(4)

    async def disturb(machine: Machine, console: Collector) -> None:
        mailbox = await Mailbox.of(memory_of(machine), console)
        common, own = ranges_of(console.output.decode().splitlines()[0])
        pages = range(common.start, own.end, PAGE_SIZE)
        for _ in range(300):
            first = chance.choice(pages)
            size = min(chance.randint(1, 8) * PAGE_SIZE, own.end - first)
            machine.memory.conversion.convert(
                first, size, chance.choice((Side.SHARED, Side.PRIVATE))
            )
            await trio.lowlevel.checkpoint()
        # The first request tells the guest to stop converting.
        assert await mailbox.ask("ADD", 1, 1) == 2
        for number, gpa in enumerate(pages, start=1):
            assert await mailbox.ask("WRITE", gpa, number) == 0
            assert await mailbox.ask("READ", gpa) == ~number
            is_shared = machine.memory.states.at(gpa) is PageState.SHARED
            seen = number if is_shared else 0
            assert ram_of(machine).read(gpa, 8) == seen.to_bytes(8, "little")
        assert await mailbox.ask("END", 0) == 0

    result, lines = talk(private("smp", "host=1", cpus=2), disturb)
    assert result.ending.exit_code == 0, lines
    assert lines[-1].endswith(" conversions")


# -- the other guests, none of which knows where it is --


def test_guests_that_know_nothing_of_private_memory() -> None:
    assert says("hello")[0] == "Hello from a pyvmm guest"
    assert says("memtest")[-1].endswith(" bytes tested, no errors")
    assert says("ring3", "loops=1000")[0] == "in ring 3"
    assert says("timer", "ticks=3") == ["timer at 100 Hz, 3 ticks", "tick 3"]
    assert says("selftest")[0] == "[text] [  abc] [x] [%]"
    # KVM answers these two without the monitor: nothing to do, and no such number.
    assert says("hypercall") == ["hypercall 1: 0"]
    assert says("hypercall", "number=99") == ["hypercall 99: -1000"]
    assert run(private("echo"), given=b"back\n").output == b"back\n"


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("fault", EndingKind.PANICKED),
        ("panic", EndingKind.PANICKED),
        ("triple", EndingKind.TRIPLE_FAULT),
    ],
)
def test_guests_that_come_to_grief_in_private_memory(program: str, kind: EndingKind) -> None:
    assert run(private(program)).result.ending.kind is kind
