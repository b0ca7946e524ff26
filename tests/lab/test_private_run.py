# SPDX-License-Identifier: MIT
"""``pyvmm run --private`` as its users run it: in the lab, and where there is no private memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.kvm.system import System
from pyvmm.memory.layout import WINDOW_GPA
from pyvmm.rules.abi import PAGE_SIZE
from tests.cli.command import pyvmm
from tests.lab.places import LabAtHand, Outcome

pytestmark = pytest.mark.slow

LITTLE = ("--memory", "16M")


def in_lab(lab: LabAtHand, program: str, *options: str) -> Outcome:
    return lab.pyvmm("run", "--host", "lab", program, *LITTLE, *options)


def digest_of(lab: LabAtHand, program: str, *options: str) -> str:
    done = lab.pyvmm("measure", program, *LITTLE, *options)
    assert done.code == 0, done.err
    return done.out.decode().strip()


@pytest.mark.lab
@pytest.mark.parametrize("cpus", ["1", "4"])
def test_a_private_run_says_what_a_shared_one_says(lab: LabAtHand, cpus: str) -> None:
    append = ("--append", "one two")
    private = in_lab(lab, "hello", "--private", "--cpus", cpus, *append)
    assert private == in_lab(lab, "hello", *append)
    assert private.code == 0
    assert b"command line: one two\n" in private.out
    assert private.err == b""


@pytest.mark.lab
def test_the_expected_digest_is_the_one_that_measure_prints(lab: LabAtHand) -> None:
    append = ("--append", "7")
    expected = digest_of(lab, "exit", *append)
    done = in_lab(lab, "exit", "--private", "--expect-digest", expected, "--verbose", *append)
    assert done.code == 7
    assert done.err.decode().splitlines()[-1] == f"pyvmm: launch digest: {expected}"


@pytest.mark.lab
def test_a_digest_that_differs_ends_the_run_with_60(lab: LabAtHand) -> None:
    expected = digest_of(lab, "exit", "--append", "8")
    done = in_lab(lab, "exit", "--private", "--expect-digest", expected, "--append", "7")
    assert done.code == 60
    assert done.out.startswith(b"firmware: ")
    assert done.err.decode().splitlines() == [
        "pyvmm: the firmware refused to start the guest: its digest is not the expected one",
        f"pyvmm:   measured: {digest_of(lab, 'exit', '--append', '7')}",
        f"pyvmm:   expected: {expected}",
    ]


@pytest.mark.lab
def test_a_refused_touch_ends_the_run_with_82_and_a_report(lab: LabAtHand, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = in_lab(lab, "touch", "--private", "--implicit", "refuse", "--json", str(result))
    assert done.code == 82
    lines = done.err.decode().splitlines()
    assert lines[0].startswith(f"pyvmm: vCPU 0 made a private access to gpa {WINDOW_GPA:#x}: ")
    assert lines[1].startswith(f"pyvmm: refused access: private, gpa {WINDOW_GPA:#x}, ")
    assert lines[2] == "pyvmm:   page map:"
    assert any("withheld" in line for line in lines[3:])
    told = json.loads(result.read_text())
    assert (told["ending"], told["exit_code"]) == ("memory-refused", 82)
    assert told["memory"]["refused"]["gpa"] == WINDOW_GPA
    assert told["memory"]["refused"]["size"] == PAGE_SIZE
    assert told["memory"]["refused"]["access"] == "private"


@pytest.mark.lab
def test_a_honoured_touch_and_the_memory_in_the_result(lab: LabAtHand, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = in_lab(lab, "touch", "--private", "--append", "pages=2", "--json", str(result))
    assert done.code == 0, done.err
    memory = json.loads(result.read_text())["memory"]
    assert memory["launch_status"] == 0
    assert memory["launch_digest"] == digest_of(lab, "touch", "--append", "pages=2")
    assert memory["expected_digest"] is None
    shared = [run["end"] - run["start"] for run in memory["pages"] if run["state"] == "shared"]
    assert sum(shared) == 2 * 4096
    assert (memory["failures"], memory["refused"]) == ([], None)
    assert memory["pages"][0] == {"start": 0, "end": 16 << 20, "state": "private"}
    window = {"start": WINDOW_GPA, "end": WINDOW_GPA + 2 * PAGE_SIZE, "state": "shared"}
    assert memory["pages"][1] == window
    ram, shared = memory["residency"]
    assert ram["private_bytes"] == 16 << 20
    assert 0 < ram["private_resident"] < 16 << 20
    assert shared["shared_resident"] == 2 * PAGE_SIZE


@pytest.mark.lab
def test_an_image_without_a_private_entry_is_refused(lab: LabAtHand, tmp_path: Path) -> None:
    boot_sector = tmp_path / "sector"
    boot_sector.write_bytes(bytes.fromhex("b02a e6f4 f4"))
    # It is found out before any KVM is opened, so it can be said here.
    done = lab.pyvmm("run", "--private", str(boot_sector))
    assert done.code == 65
    assert done.err.count(b"\n") == 1


@pytest.mark.kvm
def test_a_host_without_private_memory_says_so_in_one_line() -> None:
    with System() as system:
        if VmType.SW_PROTECTED in system.capabilities().vm_types:
            pytest.skip("this host has private memory")
    done = pyvmm("run", "--host", "kvm", "--private", "hello")
    assert done.code == 69
    assert done.out == b""
    (line,) = done.lines
    assert "private" in line


@pytest.mark.kvm
def test_left_to_itself_it_takes_the_model_and_says_so_in_one_line() -> None:
    with System() as system:
        if VmType.SW_PROTECTED in system.capabilities().vm_types:
            pytest.skip("this host has private memory")
    done = pyvmm("run", "--private", "exit", "--append", "5")
    assert done.code == 5
    (line,) = done.lines
    assert "model" in line


@pytest.mark.parametrize(
    "options",
    [
        ("--expect-digest", "00" * 48),
        ("--private", "--expect-digest", "00" * 47),
        ("--private", "--expect-digest", "xy" * 48),
        ("--private", "--expect-digest", ""),
        ("--private", "--implicit", "ask"),
        ("--private", "--implicit", ""),
        ("--private", "--cpus", "256"),
    ],
    ids=" ".join,
)
def test_options_that_cannot_be(options: tuple[str, ...]) -> None:
    done = pyvmm("run", "hello", *options)
    assert done.code == 64
    assert done.out == b""
    assert done.lines
