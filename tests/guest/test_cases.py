# SPDX-License-Identifier: MIT
"""Test cases in guests: what they print on the model, on KVM and under QEMU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.memory.layout import MIB
from tests.guest.building import GUEST
from tests.guest.test_images_in_qemu import Qemu
from tests.machine.guests import bundled

HOSTS = [HostChoice.MODEL, pytest.param(HostChoice.KVM, marks=pytest.mark.kvm)]


def says(
    program: str, append: str, host: HostChoice = HostChoice.MODEL
) -> tuple[EndingKind, int | None, str]:
    """How the guest ended, its status, and its console."""
    done = run(
        MachineConfig(
            bundled(program), memory=8 * MIB, command_line=append.encode(), timeout=240, host=host
        )
    )
    return done.result.ending.kind, done.result.ending.status, done.output.decode()


def places(text: str) -> list[tuple[str, int]]:
    """(file, line) of each failure."""
    return [(match[1], int(match[2])) for match in re.finditer(r"FAILED at (\S+):(\d+): ", text)]


@pytest.fixture(autouse=True)
def _built(images: Path) -> None:
    pass


@pytest.mark.parametrize("host", HOSTS)
def test_the_librarys_own_cases_pass(host: HostChoice) -> None:
    kind, status, console = says("tests", "", host)
    assert (kind, status) == (EndingKind.EXITED, 0), console
    lines = console.splitlines()
    plan = re.fullmatch(r"1\.\.(\d+)", lines[1])
    assert lines[0] == "KTAP version 1"
    assert plan is not None
    results = [line for line in lines if re.match(r"(not )?ok ", line)]
    assert len(results) == int(plan[1]) == 16
    for number, line in enumerate(results, 1):
        assert line.startswith(f"ok {number} ")
    # One case prints half a line; its result is on a line of its own.
    at = lines.index("this line has no end")
    assert lines[at + 1].endswith(" half_a_line_does_not_hide_a_result")


@pytest.mark.qemu
def test_qemu_prints_the_same(images: Path) -> None:
    kvm = Qemu(images)
    assert kvm.boot("tests", "") == (0, says("tests", "")[2])
    status, console = kvm.boot("failing", "case=checks_go_on")
    assert (status, console) == (1, says("failing", "case=checks_go_on")[2])


def test_a_failure_says_file_line_expression_and_values() -> None:
    kind, status, console = says("failing", "case=checks_go_on")
    assert (kind, status) == (EndingKind.EXITED, 1)
    source = (GUEST / "programs" / "failing" / "failing.c").read_text().splitlines()
    found = places(console)
    assert len(found) == 4
    for (file, line), expression in zip(
        found,
        ("check_eq(balance, 30)", "check_eq(name, NULL)", "check(balance > 0)", "check_lt((void"),
        strict=True,
    ):
        assert file == "programs/failing/failing.c"
        assert expression in source[line - 1]
    assert re.sub(r":\d+:", ":N:", console) == (
        "KTAP version 1\n"
        "1..1\n"
        "# checks_go_on: FAILED at programs/failing/failing.c:N: check_eq(balance, 30)\n"
        "#   left: -12 (0xfffffffffffffff4)\n"
        "#   right: 30 (0x1e)\n"
        "# checks_go_on: FAILED at programs/failing/failing.c:N: check_eq(name, NULL)\n"
        '#   left: "two\\nlines \\"quoted\\""\n'
        "#   right: NULL\n"
        "# checks_go_on: FAILED at programs/failing/failing.c:N: balance > 0\n"
        "still here, in half a line\n"
        "# checks_go_on: FAILED at programs/failing/failing.c:N: "
        "check_lt((void *)0x2000, (void *)0x1000)\n"
        "#   left: 0x2000\n"
        "#   right: 0x1000\n"
        "not ok 1 checks_go_on\n"
    )


def test_an_assertion_ends_its_case_and_no_other() -> None:
    # Everything that comes before the first case that takes the guest along.
    _, _, console = says("failing", "")
    assert "not reached" not in console
    assert "not ok 3 asserts_stop\n# says_why: FAILED at " in console
    assert "not ok 4 says_why\nok 5 is_skipped # SKIP not on this machine\n" in console


@pytest.mark.parametrize("chosen", ["is_skipped", "4"])
def test_one_case_is_chosen_by_name_or_number(chosen: str) -> None:
    kind, status, console = says("failing", f"x case={chosen} y")
    assert (kind, status) == (EndingKind.EXITED, 0)
    assert console == "KTAP version 1\n1..1\nok 1 is_skipped # SKIP not on this machine\n"


@pytest.mark.parametrize("chosen", ["nobody", "is_skippe", "is_skipped2", "10", "4x", "", "+1"])
def test_a_case_that_is_not_there_bails_out(chosen: str) -> None:
    kind, status, console = says("failing", f"case={chosen}")
    assert (kind, status) == (EndingKind.EXITED, 2)
    assert console == f"KTAP version 1\nBail out! no test case is called '{chosen}'\n"


def test_a_crash_is_reported_as_ever_and_names_the_case() -> None:
    kind, _, console = says("failing", "case=faults")
    assert kind is EndingKind.PANICKED
    assert "1..1\nEXCEPTION 14: #PF page fault, error code 0x2\n" in console
    assert "\n# faults: did not end\nPANIC: unexpected exception 14 " in console
    assert "ok 1" not in console
    assert says("failing", "case=panics")[2].endswith(
        "1..1\n# panics: did not end\nPANIC: this case has had enough\n"
    )
