# SPDX-License-Identifier: MIT
"""Selftests are chosen by name, and judged by exit status and output."""

from __future__ import annotations

import pytest

from pyvmm.lab.selftest_verdicts import SelftestStatus, choose, judge

NAMES = ("guest_memfd_test", "x86/private_mem_conversions_test", "x86/smm_test")
ASSERTION = """\
Random seed: 0x5052e9a7

==== Test Assertion Failure ====
  lib/test_util.c:214: thp_configured()
  pid=49 tid=49 errno=2 - No such file or directory
     1\t0x000000000041121c: get_trans_hugepagesz at test_util.c:214
     2\t0x0000000000402c7d: test_guest_memfd at guest_memfd_test.c:487
     4\t (inlined by) main at guest_memfd_test.c:578
  THP is not configured in host kernel
"""
BARE_ASSERTION = """\
==== Test Assertion Failure ====
  smm_test.c:12: !ret
  pid=49 tid=49 errno=0 - Success
"""
HARNESS = """\
TAP version 13
1..2
# smm_test.c:40:entry:Expected 1 (1) == got (2)
not ok 1 smm.entry
ok 2 smm.exit
"""


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        (None, NAMES),
        ("mem", NAMES[:2]),
        ("x86/", NAMES[1:]),
        ("*mem*", NAMES[:2]),
        ("x86/*", NAMES[1:]),
        ("smm_tes?", NAMES[2:]),
        ("[gs]*", (NAMES[0], NAMES[2])),
        ("smm", NAMES[2:]),
        ("SMM", ()),
        ("", NAMES),
        ("[", ()),
    ],
)
def test_names_are_chosen(pattern: str | None, chosen: tuple[str, ...]) -> None:
    assert choose(NAMES, pattern) == list(chosen)


@pytest.mark.parametrize(
    ("status", "output", "told"),
    [
        (0, "ok\n# SKIP all\n", (SelftestStatus.PASSED, "")),
        (4, "1..0 # SKIP - Not met: x\n", (SelftestStatus.SKIPPED, "Not met: x")),
        (4, "no AMX\n\n", (SelftestStatus.SKIPPED, "no AMX")),
        (4, "no AMX\nRandom seed: 0x1\n", (SelftestStatus.SKIPPED, "no AMX")),
        (4, "", (SelftestStatus.SKIPPED, "it says no reason")),
        (
            254,
            ASSERTION,
            (
                SelftestStatus.FAILED,
                "lib/test_util.c:214: thp_configured(): THP is not configured in host kernel",
            ),
        ),
        (254, BARE_ASSERTION, (SelftestStatus.FAILED, "smm_test.c:12: !ret")),
        (1, HARNESS, (SelftestStatus.FAILED, "smm_test.c:40:entry:Expected 1 (1) == got (2)")),
        (1, "not ok 3 third\n", (SelftestStatus.FAILED, "third")),
        (3, "so\n", (SelftestStatus.FAILED, "ended with status 3; its last line: so")),
        (-11, "", (SelftestStatus.FAILED, "ended by SIGSEGV")),
        (-63, "", (SelftestStatus.FAILED, "ended by signal 63")),
        (124, "Adding\n", (SelftestStatus.HUNG, "no end after 3 s; its last line: Adding")),
        (137, "", (SelftestStatus.HUNG, "no end after 3 s")),
        (-9, "", (SelftestStatus.HUNG, "no end after 3 s")),
    ],
)  # fmt: skip
def test_verdicts(status: int, output: str, told: tuple[SelftestStatus, str]) -> None:
    assert judge(status, output, 3) == told
    assert told[0].is_failure is (status not in (0, 4))
