# SPDX-License-Identifier: MIT
"""Guests in private memory that is converted in place, on each host that does it."""

from __future__ import annotations

import errno

import pytest

from pyvmm.boot.launch import launch_image, measure
from pyvmm.boot.launch_format import LaunchStatus
from pyvmm.boot.loader import plan_boot
from pyvmm.errors import HostLacksError, SystemCallError, UsageError
from pyvmm.machine.attributes import HeldPageError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, ImplicitPolicy, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.memory_reading import contents
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import PrivateBacking, RamBacking
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, WINDOW_GPA, GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.steps import STEP
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import ram_of

from .guests import bundled
from .mailbox import pattern_at
from .private_machines import Talk, config, talk

pytestmark = pytest.mark.slow

MEMORY = 16 * MIB
WINDOW = GpaRange(WINDOW_GPA, WINDOW_GPA + 16 * PAGE_SIZE)
GUESTS = {
    "hello": ("", 0),
    "convert": ("in-place=1", 0),
    "punch": ("in-place=1 host=0", 0),
    "smp": ("in-place=1 rounds=20", 0),
    "secret": ("in-place=1 host=0", 0),
    "touch": ("", 0),
    "exit": ("9", 9),
}
"""Guests that look at what conversions do, or use devices: command line and status."""


def in_place(
    host: HostChoice, program: str, command_line: str = "", *, cpus: int = 1
) -> MachineConfig:
    backing = PrivateBacking.IN_PLACE
    return config(program, command_line, host=host, backing=backing, cpus=cpus)


@pytest.mark.parametrize("program", GUESTS)
def test_guests_find_that_contents_survive(in_place_host: HostChoice, program: str) -> None:
    command_line, status = GUESTS[program]
    cpus = 2 if program == "smp" else 1
    completed = run(in_place(in_place_host, program, command_line, cpus=cpus))
    said = completed.output.decode()
    assert completed.result.ending.kind is EndingKind.EXITED, said
    assert completed.result.ending.status == status, said
    memory = completed.result.memory
    assert memory is not None
    assert memory.failures == ()
    assert memory.launch is not None
    assert memory.launch.status is LaunchStatus.LAUNCHED
    if in_place_host is HostChoice.KVM:
        # All but requests of several steps to private, which the firmware makes, too.
        assert memory.in_run_loop > 0
    layout = AddressMap.of(MEMORY, window=0)
    plan = plan_boot(bundled(program), layout, command_line.encode())
    # What is measured does not depend on how it is kept.
    assert memory.launch.digest == measure(launch_image(plan, layout))


def test_ram_is_one_file_and_the_window_is_shared(in_place_host: HostChoice) -> None:
    async def look(with_guest: Talk) -> None:
        box = with_guest.mailbox.gpa
        ram = ram_of(with_guest.machine)
        assert ram.choice.kind is RamBacking.IN_PLACE
        assert with_guest.memory.states.runs() == (
            PageRun(GpaRange(0, box), PageState.PRIVATE),
            PageRun(GpaRange(box, box + PAGE_SIZE), PageState.SHARED),
            PageRun(GpaRange(box + PAGE_SIZE, MEMORY), PageState.PRIVATE),
            PageRun(WINDOW, PageState.SHARED),
        )
        counted, window = with_guest.memory.states.residency()
        assert counted.shared_resident == PAGE_SIZE
        file = ram.guest_memfd
        assert file is not None
        assert counted.private_resident > 0
        assert counted.private_resident + PAGE_SIZE == file.resident(0, MEMORY)
        assert (window.shared_resident, window.private_resident) == (0, 0)
        slot = with_guest.memory.regions.sides()[0].region.slot
        with pytest.raises(UsageError, match="converted in place"):
            with_guest.memory.regions.unplug(slot)
        await with_guest.ask("END", 0)

    talk(in_place(in_place_host, "mailbox"), look)


def test_the_host_converts_and_contents_stay(in_place_host: HostChoice) -> None:
    async def convert(with_guest: Talk) -> None:
        memory, size = with_guest.memory, 2 * MIB
        gpa = await with_guest.take(size)
        last = gpa + size - 8
        assert await with_guest.ask("FILL", gpa, size, 1) == 0
        assert memory.read(last, 8) is None
        memory.conversion.convert(gpa, size, Side.SHARED)
        assert memory.read(last, 8) == pattern_at(last, 1).to_bytes(8, "little")
        assert memory.write(last, bytes(8))
        memory.conversion.convert(gpa, size, Side.PRIVATE)
        assert await with_guest.ask("CHECK", gpa, size, 1) == 1, "the one word that was written"
        await with_guest.ask("END", 0)

    result = talk(in_place(in_place_host, "mailbox"), convert).result
    assert result.memory is not None
    assert result.memory.counts["host to shared"] == 1
    assert result.memory.counts["host to private"] == 1


def test_no_look_at_a_private_page_ends_the_process(in_place_host: HostChoice) -> None:
    async def look(with_guest: Talk) -> None:
        memory = with_guest.memory
        gpa = await with_guest.take(PAGE_SIZE)
        assert await with_guest.ask("FILL", gpa, PAGE_SIZE, 1) == 0
        assert memory.read(gpa, 8) is None
        assert memory.write(gpa, b"x") is False
        assert memory.clear(gpa, PAGE_SIZE) is False
        with pytest.raises(SystemCallError) as caught:
            ram_of(with_guest.machine).read(gpa, 8)
        assert caught.value.errno == errno.EFAULT
        left_out: list[PageRun] = []
        found = [*contents(memory, GpaRange(0, MEMORY), left_out)]
        assert {one.gpa for one in found} == {with_guest.mailbox.gpa}
        assert all(run.state is PageState.PRIVATE for run in left_out)
        assert memory.states.bytes_in(PageState.PRIVATE) == MEMORY - PAGE_SIZE
        # What is told from the inside agrees.
        assert await with_guest.ask("CHECK", gpa, PAGE_SIZE, 1) == 0
        await with_guest.ask("END", 0)

    talk(in_place(in_place_host, "mailbox"), look)


def test_a_held_page_refuses_guest_and_host(in_place_host: HostChoice) -> None:
    async def hold(with_guest: Talk) -> None:
        memory = with_guest.memory
        size = 2 * STEP
        gpa = await with_guest.take(size)
        assert await with_guest.ask("FILL", gpa, size, 1) == 0
        assert await with_guest.ask("SHARE", gpa, size) == 0
        file = ram_of(with_guest.machine).guest_memfd
        assert file is not None
        held = gpa + size - 3 * PAGE_SIZE
        with file.hold_page(with_guest.file_offset(held)):
            assert await with_guest.ask("UNSHARE", held, PAGE_SIZE) == -errno.EAGAIN
            assert await with_guest.ask("UNSHARE", held + PAGE_SIZE, PAGE_SIZE) == 0
            with pytest.raises(HeldPageError, match=f"the page at gpa {held:#x} is held"):
                memory.conversion.convert(gpa, size, Side.PRIVATE)
            assert [*memory.states.runs(GpaRange(gpa, gpa + size))] == [
                PageRun(GpaRange(gpa, held + PAGE_SIZE), PageState.SHARED),
                PageRun(GpaRange(held + PAGE_SIZE, held + 2 * PAGE_SIZE), PageState.PRIVATE),
                PageRun(GpaRange(held + 2 * PAGE_SIZE, gpa + size), PageState.SHARED),
            ]
        assert await with_guest.ask("UNSHARE", gpa, size) == 0
        assert memory.states.at(held) is PageState.PRIVATE
        assert await with_guest.ask("CHECK", gpa, size, 1) == 0
        await with_guest.ask("END", 0)

    result = talk(in_place(in_place_host, "mailbox"), hold).result
    assert result.memory is not None
    assert result.memory.failures == ()


def test_a_policy_has_nothing_to_refuse(in_place_host: HostChoice) -> None:
    machine = config(
        "touch",
        implicit=ImplicitPolicy.REFUSE,
        host=in_place_host,
        backing=PrivateBacking.IN_PLACE,
    )
    assert run(machine).result.ending.exit_code == 0


def test_the_other_mode_is_refused_where_the_kernel_has_this_one(
    in_place_host: HostChoice,
) -> None:
    if in_place_host is HostChoice.MODEL:
        # The model is opened as what is asked for.
        machine = config("hello", host=in_place_host, backing=PrivateBacking.TWO_SIDED)
        assert run(machine).result.ending.exit_code == 0
        return
    with pytest.raises(HostLacksError, match="lacks KVM_MEMORY_ATTRIBUTE_PRIVATE"):
        run(config("hello", host=in_place_host, backing=PrivateBacking.TWO_SIDED))
