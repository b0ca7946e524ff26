# SPDX-License-Identifier: MIT
"""The firmware at work on this host's KVM: nothing becomes private, the rest is as it will be."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.boot.launch import LaunchImage, measure, staging
from pyvmm.boot.launch_format import (
    BOOT_CPUS_MAX,
    LAUNCH_INFO_FIELDS,
    LAUNCH_INFO_MAGIC,
    LaunchHypercall,
    LaunchStatus,
)
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Segment
from pyvmm.memory.layout import (
    FIRMWARE_GPA,
    LAUNCH_CODE,
    LAUNCH_INFO,
    LAUNCH_TABLES,
    MIB,
    WINDOW_GPA,
    GpaRange,
)

from .blocks import BROKEN, RIGHT
from .building import symbols
from .launching import RAM, START_INFO, Launch, Launched

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

INFO_WORDS = 24
FINISHED = 7
"""What ``payload.S`` ends with."""
ON_THIS_HOST = [
    "no size", "largest size", "larger than 64 KiB", "other magic", "no processors",
    "run in the launch's tables", "run that wraps to another", "source that overflows",
    "count of runs that overflows", "entry nowhere", "region that overflows",
]  # fmt: skip


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        yield system


def info_of(launched: Launched) -> tuple[int | bytes, ...]:
    data = struct.pack(f"<{INFO_WORDS}I", *launched.told[:INFO_WORDS])
    fields: tuple[int | bytes, ...] = LAUNCH_INFO_FIELDS.unpack_from(data)
    assert data[LAUNCH_INFO_FIELDS.size :] == bytes(4)
    return fields


def test_the_guest_is_entered_as_agreed(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    launched = Launch(system, firmware).image(payload)
    assert (launched.status, launched.console, launched.complete) == (FINISHED, b"", True)
    assert launched.conversions == []
    assert launched.entered
    regs, sregs = launched.entered
    assert (regs.rdi, regs.rbp) == (START_INFO, LAUNCH_INFO)  # payload.S keeps RSI in RBP
    assert regs.rflags & 0x600 == 0, "interrupts off, direction up"
    assert sregs.cr0 == Cr0.PE | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG
    assert (sregs.cr3, sregs.cr4) == (LAUNCH_TABLES, Cr4.PAE)
    assert sregs.efer & ~(1 << 12) == Efer.LME | Efer.LMA  # SVME shows on some KVMs
    assert (sregs.cs.selector, sregs.cs.base, sregs.cs.l, sregs.cs.dpl) == (8, 0, 1, 0)
    for segment in (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs):
        assert isinstance(segment, Segment)
        assert (segment.selector, segment.base, segment.limit) == (0x10, 0, 0xFFFF_FFFF)
    assert (sregs.gdt.base, sregs.gdt.limit) == (LAUNCH_CODE, 23)
    # Nothing of the firmware's own is left behind.
    assert (regs.rbx, regs.r9, regs.r10, regs.r11, regs.r15) == (0, 0, 0, 0, 0)


def test_the_guest_is_told_and_the_digest_is_what_measure_says(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    window = GpaRange(WINDOW_GPA, WINDOW_GPA + 4 * MIB)
    digest = measure(payload)
    launched = Launch(system, firmware).image(payload, expected=digest, window=window)
    assert launched.status == FINISHED
    magic, cpus, hypercall, level, flags, *rest = info_of(launched)
    assert (magic, cpus, flags) == (LAUNCH_INFO_MAGIC, 1, 0)
    assert hypercall in set(LaunchHypercall)
    assert level in {2, 3}
    assert rest == [window.start, window.size, digest, 0]
    report = launched.report
    assert report
    assert (report.status, report.pages, report.detail) == (LaunchStatus.LAUNCHED, 2, 0)
    assert report.digest == digest


def test_other_processors_wait_for_the_guest(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    launched = Launch(system, firmware).image(payload, cpus=3)
    assert launched.status == FINISHED
    assert info_of(launched)[1] == 3
    assert info_of(launched)[-1] == 2, "both had left the firmware"
    assert launched.told[INFO_WORDS:] == [0xAB01_01, 0xAB02_02]


def test_another_digest_is_refused(system: System, firmware: bytes, payload: LaunchImage) -> None:
    right = measure(payload)
    expected = bytes((*right[:-1], right[-1] ^ 1))
    launched = Launch(system, firmware).image(payload, expected=expected)
    assert (launched.status, launched.complete) == (LaunchStatus.MISMATCH, False)
    assert launched.console.decode() == (
        f"firmware: the image's digest is {right.hex()}, not the expected {expected.hex()}\n"
    )
    assert launched.told == []
    report = launched.report
    assert report
    assert (report.status, report.pages, report.digest) == (LaunchStatus.MISMATCH, 2, right)


@pytest.mark.parametrize("name", ON_THIS_HOST)
def test_broken_blocks_are_refused(system: System, firmware: bytes, name: str) -> None:
    block, where = BROKEN[name]
    launched = Launch(system, firmware).run([(0, block.pack())])
    assert (launched.status, launched.complete) == (LaunchStatus.BROKEN, False)
    line = launched.console.decode()
    assert line.startswith(f"firmware: the boot block is broken at byte {where:#x}: ")
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert launched.report
    assert (launched.report.status, launched.report.detail) == (LaunchStatus.BROKEN, where)
    assert (launched.report.pages, launched.report.digest) == (0, bytes(48))


@pytest.mark.parametrize(("cpus", "vcpus"), [(1, 2), (2, 3)])
def test_more_processors_than_the_block_says_are_refused(
    system: System, firmware: bytes, payload: LaunchImage, cpus: int, vcpus: int
) -> None:
    here = symbols()["processors_here"] - FIRMWARE_GPA

    def are_there(firmware: bytes) -> bool:
        return bool(firmware[here] == (1 << vcpus) - 2)

    launched = Launch(system, firmware).image(payload, cpus, vcpus, hold=are_there)
    assert launched.status == LaunchStatus.BROKEN
    assert launched.console == (
        b"firmware: the boot block is broken at byte 0xc: there are other processors than it says\n"
    )


def test_nothing_in_the_staging_area(system: System, firmware: bytes) -> None:
    assert Launch(system, firmware).run([]).status == LaunchStatus.BROKEN


class Fickle:
    """A staging area whose contents are right when read first, and other ones from then on."""

    def __init__(self, area: bytes) -> None:
        self._area = bytearray(area)
        self.reads = Counter[int]()

    def read(self, offset: int, size: int) -> bytes:
        answer = bytes(self._area[offset : offset + size])
        for at in range(offset, offset + size):
            self.reads[at] += 1
            # The size is looked at first, to know how much to copy.
            if not 8 <= at < 12 or self.reads[at] > 1:
                self._area[at] ^= 0xFF
        return answer


def test_the_staging_area_is_read_once(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    """So nothing that changes there later can be launched without having been measured."""
    staged = staging(payload, [RAM], 1, convert=False)
    area = bytearray(staged.size)
    for piece in staged.pieces:
        area[piece.offset : piece.offset + len(piece.data)] = piece.data
    fickle = Fickle(bytes(area))
    launched = Launch(system, firmware, staged=fickle.read).run([])
    assert launched.status == FINISHED
    assert launched.report
    assert launched.report.digest == measure(payload)
    assert {fickle.reads[at] for at in range(4096, len(area))} == {1}
    twice = [at for at, count in fickle.reads.items() if count > 1]
    assert sorted(twice) == [8, 9, 10, 11]
    assert max(fickle.reads.values()) == 2


def test_a_size_that_changes_is_refused(system: System, firmware: bytes) -> None:
    def read(offset: int, size: int) -> bytes:
        looked.append(offset)
        block = RIGHT if len(looked) == 1 else replace(RIGHT, size=RIGHT.right_size() - 8)
        return block.pack()[offset : offset + size]

    looked: list[int] = []
    launched = Launch(system, firmware, staged=read).run([])
    assert launched.status == LaunchStatus.BROKEN
    assert launched.report
    assert launched.report.detail == 8


CPUS = slice(12, 16)
"""Where the block says how many CPUs there are."""
words = st.sampled_from([0, 1, 2, 255, 4096, 8192, 0x6000, 0xE0000, 0x10_0000, 0x20_0000])


@settings(
    deadline=None,
    max_examples=15,
    database=None,  # in the lab there is nowhere to keep one
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changed=st.lists(st.tuples(st.integers(1, 26), words), max_size=2),
    halves=st.lists(st.tuples(st.integers(2, 53), st.integers(0, 0xFFFF_FFFF)), max_size=1),
)
def test_whatever_the_block_says_the_launch_ends_in_a_known_way(
    system: System,
    firmware: bytes,
    changed: list[tuple[int, int]],
    halves: list[tuple[int, int]],
) -> None:
    block = bytearray(RIGHT.pack())
    for word, value in changed:
        block[8 * word : 8 * word + 8] = value.to_bytes(8, "little")
    for half, value in halves:
        block[4 * half : 4 * half + 4] = value.to_bytes(4, "little")
    block[16] &= ~1  # no hypercalls: on some hosts they never end
    if 1 < int.from_bytes(block[CPUS], "little") <= BOOT_CPUS_MAX:
        block[CPUS] = b"\1\0\0\0"  # The firmware waits for others, of which there are none.
    # Code that ends the run with 7, wherever in the payload it is entered: mov al, 7; out 0xf4, al.
    payload = b"\x90" * 4090 + b"\xb0\x07\xe6\xf4\xeb\xfe"
    pieces = [(0, bytes(block)), *((4096 * n, payload) for n in range(1, 5))]
    launched = Launch(system, firmware).run(pieces)
    assert launched.report, launched
    if launched.complete:
        assert launched.report.status == LaunchStatus.LAUNCHED
    else:
        assert launched.status == launched.report.status
        assert launched.status in {60, 61}
        assert launched.console.startswith(b"firmware: ")
