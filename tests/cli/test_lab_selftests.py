# SPDX-License-Identifier: MIT
"""Results of KVM selftests as a table and as KTAP, and two of them in a lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.cli.lab_selftests import table_lines, tap_results
from pyvmm.cli.main import main
from pyvmm.errors import HostLacksError
from pyvmm.folded import folded
from pyvmm.lab import kernel
from pyvmm.lab.kernel import packages
from pyvmm.lab.kernel.cache import Cache, default_root
from pyvmm.lab.selftest_verdicts import SelftestResult, SelftestStatus
from pyvmm.testing.results.ktap_document import ktap_document
from pyvmm.testing.results.tap_results import TapStatus
from pyvmm.testing.results.verdicts import read_results

HARNESS = ("TAP version 13", "1..2", "ok 1 entry", "not ok 2 leave")
RESULTS = (
    SelftestResult("a_test", SelftestStatus.PASSED, "", 1.25),
    SelftestResult("x86/b_test", SelftestStatus.SKIPPED, "no AMX", 0.5),
    SelftestResult("c_test", SelftestStatus.FAILED, "c.c:1: \x1b[2J", 12.0, HARNESS),
    SelftestResult("d_test", SelftestStatus.HUNG, "no end after 3 s", 3.0, ("last",)),
    SelftestResult("e_test", SelftestStatus.LAB_FAILED, "its kernel panicked", 2.0),
)


def test_the_table() -> None:
    assert list(table_lines(RESULTS)) == [
        "passed         1.2 s  a_test",
        "skipped        0.5 s  x86/b_test",
        "    no AMX",
        "failed        12.0 s  c_test",
        "    c.c:1: \\x1b[2J",
        "hung           3.0 s  d_test",
        "    no end after 3 s",
        "lab failed     2.0 s  e_test",
        "    its kernel panicked",
        "1 passed, 1 skipped, 1 failed, 1 hung, 1 lab failed",
    ]


def test_the_table_in_a_narrow_terminal() -> None:
    """A reason that does not fit goes on below itself."""
    failed = SelftestResult("c_test", SelftestStatus.FAILED, "c.c:1: " + "it is so " * 12, 12)
    assert folded(table_lines([failed]), 60).splitlines() == [
        "failed        12.0 s  c_test",
        "    c.c:1: it is so it is so it is so it is so it is so it",
        "      is so it is so it is so it is so it is so it is so it",
        "      is so",
        "0 passed, 1 failed",
    ]


def test_ktap_comes_back_as_it_was() -> None:
    document = ktap_document(tap_results(RESULTS))
    report = read_results(document.encode())
    assert not report.problems
    told = {each.name: each.status for each in report.results}
    assert told == {
        "a_test": TapStatus.PASSED,
        "x86/b_test": TapStatus.SKIPPED,
        "c_test::entry": TapStatus.PASSED,
        "c_test::leave": TapStatus.FAILED,
        "d_test": TapStatus.FAILED,
        "e_test": TapStatus.FAILED,
    }
    assert "ok 2 x86/b_test # SKIP no AMX" in document
    assert "not ok 4 d_test # ERROR no end after 3 s" in document


@pytest.mark.lab
@pytest.mark.slow
def test_two_selftests_in_a_lab(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Those of private memory pass on the lab's kernel, once they have been compiled."""
    try:
        found = kernel.find()
    except HostLacksError as error:
        pytest.skip(f"no lab kernel: {error}")
    if not list(Cache(default_root()).downloads.glob(f"{found.manifest.source.split()[0]}_*.deb")):
        pytest.skip("the source of the lab's kernel is not in the cache")
    if lacking := packages.missing(packages.SELFTEST_HEADERS):
        pytest.skip(f"selftests cannot be compiled without {' '.join(lacking)}")
    ktap = tmp_path / "ktap"
    words = ["--json", "--ktap", str(ktap), "private_mem_*"]
    assert main(["lab", "selftests", *words]) == 0, capfd.readouterr().err
    told = json.loads(capfd.readouterr().out)
    names = {one["name"].rpartition("/")[2]: one["status"] for one in told["results"]}
    assert names == dict.fromkeys(
        ("private_mem_conversions_test", "private_mem_kvm_exits_test"), "passed"
    )
    assert read_results(ktap.read_bytes()).passed
