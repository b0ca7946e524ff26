# SPDX-License-Identifier: MIT
"""The command that runs suites of tests in a lab, of no more files than have tests for there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tests.lab.checkout import unpacking
from tests.lab.places import HANG, ROOT
from tests.lab.suites_inside import SELECTED


def suites_command(at_once: int, suites: Sequence[str]) -> list[str]:
    """The command for a lab that unpacks a checkout and runs `suites`, `at_once` at a time."""
    files = files_with_tests(suites)
    return unpacking("tests.lab.suites_inside", [str(at_once), ",".join(suites), *files])


def files_with_tests(suites: Sequence[str]) -> list[str]:
    """The files of `suites` that have a test for a lab, relative to the checkout, in their order.

    Collected here: to import a file is an emulated second or more in there, and half of them have
    tests only that need no KVM.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *SELECTED, *suites]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    found = [line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line]
    return list(dict.fromkeys(found))
