# SPDX-License-Identifier: MIT
"""Every bundled guest program, under pyvmm and QEMU: it behaves alike on all that work here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.compare.choosing import Wanted, choose
from pyvmm.compare.conduct import compare
from pyvmm.compare.guest_files import GuestRequest
from pyvmm.compare.json_report import to_json
from pyvmm.compare.observations import EndKind
from pyvmm.compare.report import Report
from pyvmm.compare.subjects import PyvmmHost, QemuAccelerator, QemuMachine, Subject
from tests.guest.building import PRIVATE_PROGRAMS, PROGRAMS

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

HANG = 240.0
WAIT = 6.0
"""Seconds that a guest gets which never ends, or does so on some hosts only."""


@dataclass(frozen=True)
class Case:
    """How a program is run, and the one way in which it ends everywhere (None: `KNOWN` ones)."""

    end: str | None = "exited 0"
    append: bytes = b""
    typed: bytes = b""
    memory: int = 16 << 20
    timeout: float = HANG
    explained: Mapping[str, set[str]] = field(default_factory=dict)
    """Aspects and the keys of the differences that may be there."""


CASES: dict[str, Case] = {
    **{name: Case(end="exited 2", append=b"host=0") for name in PRIVATE_PROGRAMS},
    **{name: Case(end="exited 2") for name in ("acpi", "balloon")},
    "block": Case(end="exited 2"),
    **{name: Case(end="exited 2") for name in ("net", "ports", "share", "vsock")},
    "echo": Case(typed=bytes(range(5, 256)) + b"\n\x04never seen"),
    "exit": Case(end="exited 63", append=b"63"),
    "failing": Case(end="exited 1", append=b"case=checks_go_on"),
    "fault": Case(end="panicked", explained={"console": {"resume-flag"}}),
    "hang": Case(end="time-limit", timeout=2.0),
    "hello": Case(append=b"debugcon=1 x"),
    "hostile": Case(end="exited 2"),
    "hypercall": Case(
        end=None,
        timeout=WAIT,
        explained={
            "console": {"hypercall", "hypercall-for-ever"},
            "end": {"hypercall", "hypercall-for-ever"},
        },
    ),
    "inventory": Case(),
    "memtest": Case(explained={"console": {"free-memory"}}),
    "packed": Case(end="exited 2"),
    "panic": Case(end="panicked"),
    "pci": Case(end="exited 2"),
    "ring3": Case(append=b"loops=300000"),
    "selftest": Case(append=b"a=5 12"),
    "tests": Case(),
    "timer": Case(append=b"ticks=12"),
    "triple": Case(end="restarted"),
}
ALWAYS = {"memory-map", "cpuid", "ram"}


def request(name: str, case: Case) -> GuestRequest:
    guest = bundled_guests.find(name)
    assert guest is not None
    return GuestRequest(
        name, name, guest.path.read_bytes(), case.append, None, case.typed, case.memory, 1,
        case.timeout,
    )  # fmt: skip


@pytest.fixture(scope="module")
def subjects() -> tuple[Subject, ...]:
    """All that works here, on microvm."""
    wanted = Wanted(None, ("qemu-system-x86_64",), None, (QemuMachine.MICROVM,))
    found, absent = trio.run(choose, wanted)
    assert len(found) + len(absent) == len(PyvmmHost) + len(QemuAccelerator)
    return found


def compared(name: str, case: Case, subjects: tuple[Subject, ...], rounds: int = 0) -> Report:
    return trio.run(partial(compare, request(name, case), subjects, (), rounds, lambda *_: None))


def check(report: Report, case: Case) -> None:
    plain: Any = to_json(report)
    assert report.agrees, json.dumps(plain["verdicts"], indent=1)
    for verdict in report.verdicts:
        for finding in verdict.findings:
            allowed = case.explained.get(finding.aspect.value, set())
            if finding.aspect.value not in ALWAYS:
                assert {key for key, _ in finding.reasons} <= allowed
        if verdict.ram is not None:
            assert (
                sum(one.pages.same + one.pages.differing for one in verdict.ram)
                == case.memory >> 12
            )
    if case.end is not None:
        assert {str(one.inspection.end) for one in report.subjects} == {case.end}


def test_there_is_a_case_for_every_program() -> None:
    assert sorted(CASES) == sorted(PROGRAMS)
    assert sorted(CASES) == sorted(
        one.name for one in bundled_guests.all_guests() if one.name != "guest"
    )


@pytest.mark.parametrize("name", CASES)
def test_it_behaves_alike(name: str, subjects: tuple[Subject, ...]) -> None:
    check(compared(name, CASES[name], subjects), CASES[name])


@pytest.mark.parametrize("name", ["memtest", "inventory", "triple"])
def test_it_behaves_alike_on_a_pc(name: str) -> None:
    # With a BIOS that leaves things behind, and a memory map of its own.
    wanted = Wanted(
        (PyvmmHost.MODEL,), ("qemu-system-x86_64",), (QemuAccelerator.TCG,), (QemuMachine.PC,)
    )
    found, _ = trio.run(choose, wanted)
    report = compared(name, CASES[name], found)
    check(report, CASES[name])
    (verdict,) = report.verdicts
    assert verdict.ram is not None
    rest = verdict.ram[-1].pages
    if name == "memtest":
        # Its pattern is everywhere but where the pc keeps tables.
        assert rest.same == 3584 - 32
    else:
        # What is there is the BIOS's alone.
        assert rest.only_other > 0
        assert rest.different == rest.only_reference == 0


def test_memtest_leaves_the_same_pattern_in_all_other_memory(
    subjects: tuple[Subject, ...],
) -> None:
    report = compared("memtest", CASES["memtest"], subjects)
    for verdict in report.verdicts:
        assert verdict.ram is not None
        rest = verdict.ram[-1]
        assert rest.reference_sha256 == rest.other_sha256
        assert rest.pages.differing == 0
    first = report.subjects[0].inspection
    assert first.end.kind is EndKind.EXITED


@pytest.mark.kvm
def test_kvm_counts_the_exits_of_both(tmp_path: Path) -> None:
    wanted = Wanted((PyvmmHost.KVM,), ("qemu-system-x86_64",), None, (QemuMachine.MICROVM,))
    found, _ = trio.run(choose, wanted)
    if not any("kvm" in one.name for one in found[1:]):
        pytest.skip("QEMU does not work with this KVM")
    report = compared("hello", CASES["hello"], found[:2])
    ours, theirs = (one.inspection.kernel for one in report.subjects)
    assert ours is not None
    assert theirs is not None, report.subjects[1].inspection.kernel_unknown
    # Each byte of the console is an exit.
    said = len(report.subjects[0].inspection.console)
    assert ours.counts["exits"] > said
    assert theirs.counts["exits"] > said
    own = report.subjects[0].inspection.exits
    assert own is not None
    assert sum(own.counts.values()) > said
