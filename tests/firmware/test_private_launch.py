# SPDX-License-Identifier: MIT
"""The firmware where memory can be private: in the lab (tests/lab/test_suite_in_lab.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.boot.launch import LaunchImage, measure
from pyvmm.boot.launch_format import LaunchInfoFlag, LaunchStatus
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.kvm.system import System

from .blocks import BROKEN
from .launching import ENTRY, HIGH_RAM, RAM, START_INFO, Launch
from .test_launch import FINISHED, INFO_WORDS, info_of

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

PRIVATE = 0x10
REGIONS = (RAM, HIGH_RAM)
RUNS = [(START_INFO & ~4095, 1, PRIVATE), (ENTRY, 1, PRIVATE)]
WHOLE = [(region.start, region.size // 4096, PRIVATE) for region in REGIONS]


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        offered = system.capabilities()
        if (
            VmType.SW_PROTECTED not in offered.vm_types
            or MemoryAttribute.PRIVATE not in offered.memory_attributes
        ):
            pytest.skip("this host has no private memory")
        yield system


def test_a_guest_is_launched_into_private_memory(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    digest = measure(payload)
    launched = Launch(system, firmware, private=True).image(
        payload, regions=REGIONS, expected=digest
    )
    assert (launched.status, launched.console, launched.complete) == (FINISHED, b"", True)
    # What is copied is private before; the rest becomes so afterwards.
    assert launched.conversions == RUNS + WHOLE
    assert launched.report
    assert (launched.report.status, launched.report.digest) == (LaunchStatus.LAUNCHED, digest)
    assert info_of(launched)[4] == LaunchInfoFlag.PRIVATE
    assert launched.untouched, "nothing was ever written to what the host can see of RAM"


def test_all_processors_go_on_in_private_memory(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    launched = Launch(system, firmware, private=True).image(payload, cpus=3)
    assert launched.status == FINISHED
    assert launched.told[INFO_WORDS:] == [0xAB01_01, 0xAB02_02]
    assert launched.untouched


@pytest.mark.parametrize("refused", [*RUNS, *WHOLE])
def test_a_conversion_is_refused(
    system: System, firmware: bytes, payload: LaunchImage, refused: tuple[int, int, int]
) -> None:
    gpa, pages, _ = refused
    launch = Launch(
        system, firmware, private=True, refuse=lambda at, size: (at, size) == (gpa, pages)
    )
    launched = launch.image(payload, regions=REGIONS)
    assert (launched.status, launched.complete) == (LaunchStatus.REFUSED, False)
    assert launched.console.decode() == (
        f"firmware: the monitor refused to make {pages * 4096:#x} bytes at {gpa:#x} private, "
        "with 0xffffffffffffffea\n"
    )
    assert launched.conversions[-1] == refused
    assert launched.report
    assert (launched.report.status, launched.report.detail) == (LaunchStatus.REFUSED, gpa)
    # Of the two pages, those before the one that is refused.
    expected = {RUNS[0]: 0, RUNS[1]: 1}.get(refused, 2)
    assert launched.report.pages == expected


def test_another_digest_is_refused_before_the_rest_becomes_private(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    launched = Launch(system, firmware, private=True).image(payload, expected=bytes(48))
    assert launched.status == LaunchStatus.MISMATCH
    assert launched.conversions == RUNS
    assert launched.told == []


def test_a_broken_block_converts_nothing(system: System, firmware: bytes) -> None:
    block, where = BROKEN["run in the launch's tables"]
    launched = Launch(system, firmware, private=True).run([(0, block.pack())])
    assert launched.status == LaunchStatus.BROKEN
    assert launched.report
    assert launched.report.detail == where
    assert launched.conversions == []


def test_what_the_payload_leaves_out_is_zero(
    system: System, firmware: bytes, payload: LaunchImage
) -> None:
    """Whatever the host has put into the shared side before: it is not what the guest gets."""
    launched = Launch(system, firmware, private=True).image(
        payload, planted=[(gpa, b"\xcc" * 4096) for gpa in (0x6000, ENTRY, 0xE8000, 0xEA000)]
    )
    assert launched.status == FINISHED
    assert launched.report
    assert launched.report.digest == measure(payload)
