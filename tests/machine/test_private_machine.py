# SPDX-License-Identifier: MIT
"""Whole machines with private memory: launch, page states, policies, the host's own conversions."""

from __future__ import annotations

import errno
import re
from functools import cache
from pathlib import Path

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.boot.launch import launch_image, measure
from pyvmm.boot.launch_format import LaunchStatus
from pyvmm.boot.loader import plan_boot
from pyvmm.errors import ConversionRefusedError, UsageError
from pyvmm.machine.blocking import Completed, open_blocking_machine, run
from pyvmm.machine.config import ImplicitPolicy, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.implicit import ImplicitConversion
from pyvmm.machine.memory_report import MemoryReport
from pyvmm.memory.address_map import AddressMap, SlotNumber
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import FIRMWARE_GPA, HOLE_START, MIB, STAGING_GPA, WINDOW_GPA, GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.guest.building import PRIVATE_PROGRAMS
from tests.machine.inside import ram_of

from .guests import bundled
from .mailbox import pattern_at
from .private_machines import HANG, Talk, config, talk

pytestmark = [pytest.mark.kvm, pytest.mark.slow]
private = pytest.mark.usefixtures("private_host")

MEMORY = 16 * MIB
LITTLE = 4 * MIB
WINDOW = GpaRange(WINDOW_GPA, WINDOW_GPA + 16 * PAGE_SIZE)
KVM_HC_PRIVATE = 1 << 4

GUESTS = {
    "acpi": "",
    "balloon": "",
    "block": "",
    "echo": "",
    "exit": "7",
    "failing": "case=checks_go_on",
    "fault": "",
    "hang": "",
    "hello": "a=1 and more",
    "hostile": "",
    "hypercall": "number=1",
    "inventory": "",
    "memtest": "",
    "net": "",
    "packed": "",
    "panic": "",
    "pci": "",
    "ports": "",
    "ring3": "loops=1000",
    "selftest": "",
    "share": "",
    "tests": "",
    "timer": "ticks=3",
    "triple": "",
    "vsock": "",
}
"""Every bundled guest that runs with and without private memory, and its command line."""


# -- the same guests as ever --


def test_all_bundled_guests_are_tried() -> None:
    names = {guest.name for guest in bundled_guests.all_guests()} - {"guest"}
    assert names == {*GUESTS, *PRIVATE_PROGRAMS}


def whole_run(machine_config: MachineConfig, program: str) -> Completed:
    if program != "hang":
        return run(machine_config, given=b"to and fro\n")
    with open_blocking_machine(machine_config) as machine:
        assert machine.console.wait_for(b"\n", timeout=HANG)
        machine.control.interrupt()
        result = machine.control.wait(timeout=HANG)
        return Completed(result, machine.console.read_all(timeout=HANG))


@cache
def in_shared_memory(program: str) -> Completed:
    line = GUESTS[program].encode()
    return whole_run(MachineConfig(bundled(program), memory=LITTLE, command_line=line), program)


def comparable(output: bytes) -> bytes:
    """Without RBP, which no program uses: it holds what the two entries left there. Without CPUID,
    which is out of reach in private memory."""
    return re.sub(rb"(?m)\brbp=[0-9a-f]+|^cpuid .*\n", b"", output)


@private
@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("program", GUESTS)
def test_a_guest_runs_in_private_memory_as_in_shared(program: str, cpus: int) -> None:
    expected = in_shared_memory(program)
    completed = whole_run(config(program, GUESTS[program], cpus=cpus, memory=LITTLE), program)
    assert comparable(completed.output) == comparable(expected.output)
    assert completed.result.ending.kind is expected.result.ending.kind
    assert completed.result.ending.exit_code == expected.result.ending.exit_code


@pytest.mark.parametrize("program", PRIVATE_PROGRAMS)
def test_a_guest_that_needs_private_memory_says_so(program: str) -> None:
    completed = run(MachineConfig(bundled(program), memory=MEMORY))
    assert completed.output == b"this guest needs private memory\n"
    assert completed.result.ending.exit_code == 2


# -- after the launch --


def mapped_for_guests() -> int:
    """Bytes of this process's address space that are a guest's memory."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:pyvmm-guest" in line:
            start, end = (int(text, 16) for text in line.split()[0].split("-"))
            total += end - start
    return total


@private
@pytest.mark.parametrize("cpus", [1, 4])
def test_after_the_launch_all_ram_is_private_and_the_firmware_is_gone(cpus: int) -> None:
    before = mapped_for_guests()

    async def look(with_guest: Talk) -> None:
        box = with_guest.mailbox.gpa
        assert with_guest.memory.states.runs() == (
            PageRun(GpaRange(0, box), PageState.PRIVATE),
            PageRun(GpaRange(box, box + PAGE_SIZE), PageState.SHARED),
            PageRun(GpaRange(box + PAGE_SIZE, MEMORY), PageState.PRIVATE),
            PageRun(WINDOW, PageState.WITHHELD),
        )
        for gone in (STAGING_GPA, FIRMWARE_GPA):
            assert with_guest.memory.states.at(gone) is None
            with pytest.raises(ConversionRefusedError):
                with_guest.memory.conversion.convert(gone, PAGE_SIZE, Side.SHARED)
        ram, window = with_guest.memory.states.residency()
        # Where KVM had to decode a hypercall of private code, it has looked for page tables there.
        sregs = await with_guest.machine.vcpus[0].call(lambda vcpu: vcpu.get_sregs())
        known = {box, sregs.cr3}
        resident = {gpa for gpa in range(0, MEMORY, PAGE_SIZE) if with_guest.shared_is_there(gpa)}
        assert box in resident
        assert resident <= known
        assert ram.shared_resident == len(resident) * PAGE_SIZE
        assert ram.private_resident > 0
        assert (window.shared_resident, window.private_resident) == (0, 0)
        assert mapped_for_guests() - before == MEMORY + WINDOW.size
        await with_guest.ask("END", 0)

    assert talk(config("mailbox", cpus=cpus), look).result.ending.exit_code == 0
    assert mapped_for_guests() == before


@private
@pytest.mark.parametrize("gone", [STAGING_GPA, FIRMWARE_GPA], ids=["staging", "firmware"])
def test_the_guest_finds_no_memory_where_the_launch_began(gone: int) -> None:
    async def reach_for_it(with_guest: Talk) -> None:
        with trio.move_on_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(with_guest.ask, "READ", gone)
                await with_guest.machine.control.wait()
                nursery.cancel_scope.cancel()

    # Nobody's memory is a device's, and in private code no access to one can be emulated: KVM fails
    # to, or gives the guest a page fault.
    ending = talk(config("mailbox"), reach_for_it).result.ending
    assert ending.kind in {EndingKind.KVM_INTERNAL_ERROR, EndingKind.PANICKED}


def test_slots_of_the_launch_are_no_slots_of_ram() -> None:
    slots = AddressMap.of(8 << 30, window=2 * MIB).slots
    assert [one.slot for one in slots] == list(SlotNumber)


# -- the digest --


def digest_of(program: str, command_line: str = "") -> bytes:
    """What `pyvmm measure` prints."""
    layout = AddressMap.of(MEMORY, window=0)
    plan = plan_boot(bundled(program), layout, command_line.encode())
    return measure(launch_image(plan, layout))


def report_of(completed: Completed) -> MemoryReport:
    assert completed.result.memory is not None
    return completed.result.memory


@private
@pytest.mark.parametrize("cpus", [1, 4])
def test_the_firmware_measures_what_was_measured_before(cpus: int) -> None:
    completed = run(config("exit", "5", expected=digest_of("exit", "5"), cpus=cpus))
    report = report_of(completed)
    assert completed.result.ending.exit_code == 5
    assert report.launch is not None
    assert report.launch.status is LaunchStatus.LAUNCHED
    assert report.launch.digest == digest_of("exit", "5")
    assert list(report.lines()) == []
    assert report.to_json()["launch_digest"] == digest_of("exit", "5").hex()


@private
@pytest.mark.parametrize(
    "expected",
    [digest_of("exit", "6"), digest_of("hello", "5"), bytes(48)],
    ids=["another command line", "another image", "zeros"],
)
def test_an_image_that_is_not_the_expected_one_is_not_started(expected: bytes) -> None:
    completed = run(config("exit", "5", expected=expected))
    assert completed.result.ending.kind is EndingKind.EXITED
    assert completed.result.ending.exit_code == 60
    assert completed.output.startswith(b"firmware: ")
    assert completed.output.count(b"\n") == 1
    report = report_of(completed)
    assert report.launch is not None
    assert report.launch.status is LaunchStatus.MISMATCH
    assert list(report.lines()) == [
        "the firmware refused to start the guest: its digest is not the expected one",
        f"  measured: {digest_of('exit', '5').hex()}",
        f"  expected: {expected.hex()}",
    ]


# -- conversions that the guest did not announce --


@private
def test_what_the_guest_touches_is_honoured_page_by_page() -> None:
    completed = run(config("touch", "step=2 pages=3"))
    report = report_of(completed)
    assert completed.result.ending.exit_code == 0
    shared = sum(run.range.size for run in report.runs if run.state is PageState.SHARED)
    assert shared == 3 * PAGE_SIZE
    window = [run_ for run_ in report.runs if run_.range.start >= WINDOW.start]
    page = PageState.SHARED, PageState.WITHHELD
    assert [(run_.range.start, run_.state) for run_ in window] == [
        (WINDOW.start + number * PAGE_SIZE, page[number % 2]) for number in range(6)
    ]
    assert report.residency[-1].shared_resident == 3 * PAGE_SIZE


@private
def test_a_refusal_tells_access_page_and_map() -> None:
    completed = run(config("touch", implicit=ImplicitPolicy.REFUSE))
    report = report_of(completed)
    assert completed.result.ending.kind is EndingKind.MEMORY_REFUSED
    assert completed.result.ending.exit_code == 82
    assert f"gpa {WINDOW_GPA:#x}" in completed.result.ending.detail
    assert report.refused is not None
    assert (report.refused.gpa, report.refused.size) == (WINDOW_GPA, PAGE_SIZE)
    assert report.refused.private_access
    assert "fault to shared" not in report.counts
    first, title, *page_map = report.lines()
    assert first.startswith(f"refused access: private, gpa {WINDOW_GPA:#x}, {PAGE_SIZE} bytes: ")
    assert title.strip() == "page map:"
    text = "\n".join(page_map)
    assert "private" in text
    assert "withheld" in text
    told = report.to_json()["refused"]
    assert isinstance(told, dict)
    assert told["gpa"] == WINDOW_GPA
    assert told["page_map"][-1] == {
        "start": WINDOW.start, "end": WINDOW.end, "state": "withheld",
    }  # fmt: skip
    (vcpu,) = completed.result.reports
    assert vcpu.exits[-1].name == "MEMORY_FAULT"


@private
def test_whoever_is_asked_decides() -> None:
    asked: list[ImplicitConversion] = []

    def allow(conversion: ImplicitConversion) -> bool:
        asked.append(conversion)
        return len(asked) < 3

    completed = run(config("touch", implicit=ImplicitPolicy.ASK), allow=allow)
    assert completed.result.ending.exit_code == 82
    assert asked == [
        ImplicitConversion(
            WINDOW_GPA + number * PAGE_SIZE, PAGE_SIZE, PageState.WITHHELD, Side.SHARED, 0
        )
        for number in range(3)
    ]
    report = report_of(completed)
    assert report.counts["fault to shared"] == 2
    assert report.refused is not None
    assert report.refused.gpa == asked[-1].gpa


def test_somebody_must_be_there_to_be_asked() -> None:
    with pytest.raises(UsageError, match="callback"):
        run(config("touch", implicit=ImplicitPolicy.ASK))


# -- the host decides, while the guest runs --


@private
def test_the_host_converts_and_nothing_shows_on_the_other_side() -> None:
    async def convert(with_guest: Talk) -> None:
        memory, size = with_guest.memory, 2 * MIB
        gpa = await with_guest.take(size)
        assert await with_guest.ask("FILL", gpa, size, 1) == 0
        memory.conversion.convert(gpa, size, Side.SHARED)
        assert memory.read(gpa, size) == bytes(size)
        assert await with_guest.ask("CHECK_ZERO", gpa, size) == 0
        assert await with_guest.ask("FILL", gpa, size, 3) == 0
        last = gpa + size - 8
        assert memory.read(last, 8) == pattern_at(last, 3).to_bytes(8, "little")
        memory.conversion.convert(gpa, size, Side.PRIVATE)
        assert memory.read(last, 8) is None
        assert ram_of(with_guest.machine).read(gpa, size) == bytes(size)
        assert await with_guest.ask("CHECK_ZERO", gpa, size) == 0
        # What is as asked for already stays as it is.
        assert await with_guest.ask("FILL", gpa, PAGE_SIZE, 5) == 0
        memory.conversion.convert(gpa, size, Side.PRIVATE)
        assert await with_guest.ask("CHECK", gpa, PAGE_SIZE, 5) == 0
        await with_guest.ask("END", 0)

    result = talk(config("mailbox"), convert).result
    assert result.memory is not None
    assert result.memory.counts["host to shared"] == 1
    assert result.memory.counts["host to private"] == 1 + 2, "the window was withheld at first"


@private
def test_the_host_withholds_and_the_next_touch_brings_it_back_empty() -> None:
    async def withhold(with_guest: Talk) -> None:
        memory = with_guest.memory
        assert await with_guest.ask("FILL", WINDOW.start, 2 * PAGE_SIZE, 1) == 0
        assert await with_guest.ask("CHECK", WINDOW.start, 2 * PAGE_SIZE, 1) == 0
        assert memory.read(WINDOW.start, 8) == pattern_at(WINDOW.start, 1).to_bytes(8, "little")
        memory.conversion.withhold(WINDOW.start, PAGE_SIZE)
        assert memory.states.at(WINDOW.start) is PageState.WITHHELD
        assert memory.read(WINDOW.start, 8) is None
        assert memory.states.residency()[-1].shared_resident == PAGE_SIZE
        assert await with_guest.ask("CHECK_ZERO", WINDOW.start, PAGE_SIZE) == 0
        assert memory.states.at(WINDOW.start) is PageState.SHARED
        second = WINDOW.start + PAGE_SIZE
        assert await with_guest.ask("CHECK", second, PAGE_SIZE, 1) == 0
        for refused in (0, with_guest.mailbox.gpa):
            with pytest.raises(ConversionRefusedError):
                memory.conversion.withhold(refused, PAGE_SIZE)
        await with_guest.ask("END", 0)

    assert talk(config("mailbox"), withhold).result.ending.exit_code == 0


@private
def test_all_memory_is_taken_from_a_running_guest() -> None:
    async def unplug(with_guest: Talk) -> None:
        with_guest.memory.regions.unplug(0)

    ended = talk(config("mailbox", implicit=ImplicitPolicy.REFUSE), unplug)
    assert ended.result.ending.kind is EndingKind.MEMORY_REFUSED
    assert ended.result.memory is not None
    assert ended.result.memory.runs[0] == PageRun(GpaRange(0, MEMORY), PageState.WITHHELD)
    ram = ended.result.memory.residency[0]
    assert (ram.shared_resident, ram.private_resident) == (0, 0)


@private
@pytest.mark.parametrize("policy", [ImplicitPolicy.HONOUR, ImplicitPolicy.ASK])
def test_what_was_taken_comes_back_private_and_empty(policy: ImplicitPolicy) -> None:
    async def unplug(with_guest: Talk) -> None:
        with_guest.memory.regions.unplug(0)

    # Page tables and code are gone as well, and the guest with them.
    asks = policy is ImplicitPolicy.ASK
    allow = (lambda _conversion: True) if asks else None
    ended = talk(config("mailbox", implicit=policy), unplug, allow)
    assert ended.result.ending.kind is EndingKind.TRIPLE_FAULT
    memory = ended.result.memory
    assert memory is not None
    # Where nobody has to be asked, the vCPU's thread plugs it in without leaving for Python.
    assert memory.counts.get("fault to private", 0) == (1 if asks else 0)
    assert memory.runs[0] == PageRun(GpaRange(0, MEMORY), PageState.PRIVATE)
    assert memory.residency[0].shared_resident == 0
    assert 0 < memory.residency[0].private_resident < 16 * PAGE_SIZE


# -- a guest that means ill --

BROKEN = {
    "within a page": (8, 1, 0),
    "within a page, to private": (0x800, 1, KVM_HC_PRIVATE),
    "nothing": (0, 0, 0),
    "nothing, to private": (0, 0, KVM_HC_PRIVATE),
    "more pages than there are addresses": (0, 1 << 52, KVM_HC_PRIVATE),
    "as many pages as there are numbers": (0, (1 << 64) - 1, 0),
    "a size whose lower 64 bits are a page": (0, (1 << 52) + 1, 0),
    "one page too many": (MEMORY - PAGE_SIZE, 2, KVM_HC_PRIVATE),
    "all memory and one page": (0, MEMORY // PAGE_SIZE + 1, KVM_HC_PRIVATE),
    "the page behind the last": (MEMORY, 1, KVM_HC_PRIVATE),
    "the hole": (HOLE_START - PAGE_SIZE, 1, KVM_HC_PRIVATE),
    "the page before the window, and its first": (WINDOW.start - PAGE_SIZE, 2, KVM_HC_PRIVATE),
    "one page more than the window": (WINDOW.start, WINDOW.size // PAGE_SIZE + 1, KVM_HC_PRIVATE),
    "the window, to private": (WINDOW.start, 1, KVM_HC_PRIVATE),
    "where the staging area was": (STAGING_GPA, 1, KVM_HC_PRIVATE),
    "where the firmware was": (FIRMWARE_GPA, 1, KVM_HC_PRIVATE),
    "above all memory": (1 << 40, 1, KVM_HC_PRIVATE),
    "above what the processor can address": (1 << 56, 1, KVM_HC_PRIVATE),
    "the last page of all": ((1 << 64) - PAGE_SIZE, 1, 0),
    "over the end of all addresses": ((1 << 64) - PAGE_SIZE, 2, KVM_HC_PRIVATE),
    "an attribute that there is not": (0, 1, 1 << 5),
    "all attributes": (0, 1, (1 << 64) - 1),
}
"""GPA, pages, attributes."""

NO_MEMORY = {
    "the page behind the last": (MEMORY, 1),
    "the hole": (HOLE_START - PAGE_SIZE, 1),
    "all of the hole": (MEMORY, (FIRMWARE_GPA - MEMORY) // PAGE_SIZE),
    "where the staging area was": (STAGING_GPA, 1),
    "where the firmware was": (FIRMWARE_GPA, 1),
    "above all memory": (1 << 40, 1 << 30),
}
"""GPA, pages: places of devices, which are shared in any case."""


@private
def test_broken_requests_are_refused_and_change_nothing() -> None:
    async def mean_ill(with_guest: Talk) -> None:
        memory = with_guest.memory
        gpa = await with_guest.take(2 * MIB)
        assert await with_guest.ask("FILL", gpa, 4 * PAGE_SIZE, 1) == 0
        states = memory.states.runs()
        for what, (offset, pages, attributes) in BROKEN.items():
            start = gpa if offset < PAGE_SIZE and what != "all memory and one page" else 0
            answer = await with_guest.ask("CONVERT", start + offset, pages, attributes)
            wanted = -errno.EOPNOTSUPP if what == "the window, to private" else -errno.EINVAL
            assert (what, answer) == (what, wanted)
            assert memory.states.runs() == states, what
        for what, (start, pages) in NO_MEMORY.items():
            assert (what, await with_guest.ask("CONVERT", start, pages, 0)) == (what, 0)
            held = tuple(run for run in memory.states.runs() if run.state is PageState.PRIVATE)
            assert held == tuple(run for run in states if run.state is PageState.PRIVATE), what
        assert await with_guest.ask("CHECK", gpa, 4 * PAGE_SIZE, 1) == 0
        assert not memory.conversion.failures
        await with_guest.ask("END", 0)

    ended = talk(config("mailbox"), mean_ill)
    assert ended.result.ending.exit_code == 0


@private
def test_a_guest_that_shares_its_own_code_harms_itself_only() -> None:
    async def share_all(with_guest: Talk) -> None:
        with trio.move_on_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(with_guest.ask, "CONVERT", 0, MEMORY // PAGE_SIZE, 0)
                result = await with_guest.machine.control.wait()
                assert result.ending.kind is EndingKind.TRIPLE_FAULT
                nursery.cancel_scope.cancel()

    ended = talk(config("mailbox"), share_all)
    assert ended.result.memory is not None
    assert ended.result.memory.runs[0] == PageRun(GpaRange(0, MEMORY), PageState.SHARED)
    assert ended.result.memory.residency[0].private_resident == 0
