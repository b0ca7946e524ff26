# SPDX-License-Identifier: MIT
"""Memory that a guest takes, over time: pages with two copies are named; in place is none."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.memory_use import MemorySample, Recording, RegionUse, recording, take_sample
from pyvmm.machine.memory_use_report import html_report, text_report
from pyvmm.machine.running import open_machine
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

from .conftest import Choice
from .guests import bundled
from .in_trio import in_trio
from .private_machines import Talk, config, talk

TOUCHED = 64 * PAGE_SIZE


def ram(sample: MemorySample) -> RegionUse:
    (found,) = (one for one in sample.regions if one.what == "RAM")
    for region in sample.regions:
        assert region.is_exact
        size = region.range.size
        assert region.shared + region.private - region.twice + region.holes == size
    return found


def twice_within(sample: MemorySample, range_: GpaRange) -> int:
    """Bytes of `range_` that are told of as resident twice."""
    return sum(one.size for one in ram(sample).named if range_.start <= one.start < range_.end)


def touch_as_a_device(guest: Talk, gpa: int) -> None:
    """Write to the host's mapping of pages whatever they are, as one who has all memory mapped."""
    mapping = guest.machine.host.regions[0].mapping
    offset = guest.file_offset(gpa)
    for page in range(offset, offset + TOUCHED, PAGE_SIZE):
        mapping.poke(page, b"\1")


def private(choice: Choice) -> MachineConfig:
    return config("mailbox", host=choice.host, backing=choice.backing)


def test_pages_that_are_private_and_touched_by_the_host(private_choice: Choice) -> None:
    in_place = private_choice.is_in_place
    samples: list[MemorySample] = []
    places: list[int] = []

    async def look(guest: Talk) -> None:
        gpa = await guest.take(2 * MIB)
        places.append(gpa)
        assert await guest.ask("FILL", gpa, 2 * MIB, 1) == 0
        samples.append(take_sample(guest.machine))
        if in_place:
            # It is the guest's own page, which nobody else can touch: there is no other one.
            with pytest.raises(SystemCallError) as caught:
                touch_as_a_device(guest, gpa)
            assert caught.value.errno == errno.EFAULT
        else:
            touch_as_a_device(guest, gpa)
        samples.append(take_sample(guest.machine))
        assert await guest.ask("SHARE", gpa, 2 * MIB) == 0
        samples.append(take_sample(guest.machine))
        assert await guest.ask("END", 0) == 0

    talk(private(private_choice), look)

    filled, touched, shared = map(ram, samples)
    assert filled.private >= 2 * MIB
    # To decode an instruction KVM walks the guest's page tables, by the shared side: their root.
    decoded = filled.named
    assert filled.twice <= (PAGE_SIZE if private_choice.host is HostChoice.KVM else 0)
    if in_place:
        assert filled.twice == touched.twice == 0
        assert shared.shared == filled.shared + 2 * MIB, "the contents have stayed"
    else:
        gpa = places[0]
        assert touched.twice == filled.twice + TOUCHED
        assert touched.named == (*decoded, GpaRange(gpa, gpa + TOUCHED))
        assert touched.shared == filled.shared + TOUCHED
        assert shared.private == filled.private - 2 * MIB
    assert shared.twice == filled.twice


def test_a_monitor_that_gives_nothing_back_needs_double(
    private_choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 8 * MIB
    samples: list[MemorySample] = []
    places: list[GpaRange] = []
    records: list[Recording] = []
    kept: list[GpaRange] = []

    async def look(guest: Talk) -> None:
        convert = guest.memory.conversion.convert
        gpa = await guest.take(size)
        places.append(GpaRange(gpa, gpa + size))
        # A monitor that sets the attributes of a conversion, and gives back no page of either side.
        for name in ("discard_shared", "discard_private"):
            monkeypatch.setattr(MemorySides, name, lambda _, range_: kept.append(range_))
        async with recording(guest.machine) as record:
            records.append(record)
            # A buffer that was shared, is private for a while, and is shared again.
            for side in (Side.SHARED, Side.PRIVATE, Side.SHARED):
                await trio.to_thread.run_sync(convert, gpa, size, side)
                assert await guest.ask("FILL", gpa, size, 1) == 0
                samples.append(take_sample(guest.machine))
                record.take()
        monkeypatch.undo()
        assert await guest.ask("END", 0) == 0

    talk(private(private_choice), look)

    taken = [one.shared + one.private for one in map(ram, samples)]
    report = text_report(records[0])
    if private_choice.is_in_place:
        assert kept == []
        assert taken == [taken[0]] * 3
        assert [one.twice for one in records[0].samples] == [0] * len(records[0].samples)
        assert "No page was seen resident twice.\n" in report
    else:
        assert sum(range_.size for range_ in kept) == 3 * size
        assert taken == [taken[0], taken[0] + size, taken[0] + size]
        assert [twice_within(one, places[0]) for one in samples] == [0, size, size]
        start, last = places[0].start, places[0].end - 1
        assert f"  {start:#x}..{last:#x} of RAM, 8192 KiB\n" in report
    print(report)  # docs/memory-use.md has it, as the lab's kernels make it.


@in_trio
async def test_a_recording_ends_with_the_guest_and_not_with_its_memory() -> None:
    given = MachineConfig(bundled("hello"), memory=8 * MIB, host=HostChoice.MODEL, timeout=60)
    async with open_machine(given) as machine, recording(machine) as record:
        await machine.control.wait()
        taken = len(record.samples)
        record.take()
    assert len(record.samples) == taken, "its memory may be gone"
    first, last = record.samples[0], record.samples[-1]
    assert 0 < ram(first).shared <= ram(last).shared
    assert ram(last).private == ram(last).twice == 0
    assert last.tables.mapped == {}, "the model has no statistics"
    assert last.tables.process is not None
    assert first.seconds <= last.seconds


@pytest.mark.kvm
@in_trio
async def test_page_tables_of_kvm() -> None:
    given = MachineConfig(bundled("hello"), memory=8 * MIB, host=HostChoice.KVM, timeout=60)
    async with open_machine(given) as machine, recording(machine) as record:
        await machine.control.wait()
    sizes = set(record.samples[-1].tables.mapped)
    assert {PAGE_SIZE, 2 * MIB} <= sizes


@in_trio
async def test_a_long_recording_keeps_every_second_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    given = MachineConfig(bundled("hang"), memory=2 * MIB, host=HostChoice.MODEL, timeout=60)
    async with open_machine(given, paused=True) as machine:
        record = Recording(machine)
        sample = take_sample(machine)
        told = iter(range(10_000))
        monkeypatch.setattr(
            "pyvmm.machine.memory_use.take_sample",
            lambda *_: replace(sample, seconds=float(next(told))),
        )
        before = record.interval
        for _ in range(257):
            record.take()
        assert [one.seconds for one in record.samples] == [float(n) for n in range(0, 257, 2)]
        assert record.interval >= 2 * before


@in_trio
async def test_a_host_that_cannot_tell_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> MemorySample:
        raise HostLacksError("count what is resident", "there is no <cachestat>")

    given = MachineConfig(bundled("hang"), memory=2 * MIB, host=HostChoice.MODEL, timeout=60)
    async with open_machine(given, paused=True) as machine:
        monkeypatch.setattr("pyvmm.machine.memory_use.take_sample", lacks)
        record = Recording(machine)
        record.take()
        record.take()
    assert record.samples == []
    assert text_report(record) == "cannot count what is resident: there is no <cachestat>.\n"
    assert "&lt;cachestat&gt;" in html_report(record, "<title>")
    assert record.to_json()["lacking"] == "cannot count what is resident: there is no <cachestat>"


@in_trio
async def test_what_the_reports_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given = MachineConfig(bundled("hang"), memory=2 * MIB, host=HostChoice.MODEL, timeout=60)
    async with open_machine(given, paused=True) as machine:
        record = Recording(machine)
        record.take()
        (region, *_) = record.samples[0].regions
    use = RegionUse(
        "RAM", region.range, True, 64 << 10, 96 << 10, 32 << 10, 1920 << 10,
        (GpaRange(0x1000, 0x9000),), False,
    )  # fmt: skip
    record.samples.append(replace(record.samples[0], seconds=2.5, regions=(use,)))
    lines = text_report(record).splitlines()
    assert lines[2].split()[:9] == ["2.50", "64", "KiB", "96", "KiB", "32", "KiB", "1920", "KiB"]
    assert lines[3:] == [
        "At most 160 KiB of memory for 2048 KiB of the guest's, 2.50 s after the start.",
        "Resident twice: at least 32 KiB, 2.50 s after the start.",
        "  0x1000..0x8fff of RAM, 32 KiB",
    ]
    page = html_report(record, "a <guest>")
    assert "<h1>a &lt;guest&gt;</h1>" in page
    assert page.count("<polygon") == 3
    assert "<p>From left to right 2.62 s, from bottom to top 160 KiB.</p>" in page
    assert "http" not in page
