# SPDX-License-Identifier: MIT
"""Matrices and results for the tests of this room."""

from __future__ import annotations

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.matrix.matrix_file import parse_matrix
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict

TWO_BY_TWO = """
memory = ["64M", "1G"]
hosts = ["model", "kvm"]
[[image]]
path = "exit"
[[image]]
path = "echo"
[[exclude]]
images = "echo"
memory = "1G"
hosts = "kvm"
"""


def boots(text: str = TWO_BY_TWO) -> list[Boot]:
    return list(parse_matrix(text, "m.toml").boots())


def outcome(
    kind: OutcomeKind = OutcomeKind.EXITED, status: int | None = 0, detail: str = ""
) -> Outcome:
    return Outcome(kind, detail, status if kind is OutcomeKind.EXITED else None, 0.25, {"io": 3})


def result(boot: Boot, verdict: Verdict = Verdict.PASSED, reason: str = "") -> BootResult:
    return BootResult(boot.key, verdict, reason, outcome(), seconds=0.25, console=b"hello\n")
