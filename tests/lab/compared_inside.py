# SPDX-License-Identifier: MIT
"""``python -m tests.lab.compared_inside AT_ONCE NAME...``: compares guests, KVM on both sides.

Run in the lab, where to start Python takes seconds: it is started once, and forked for as many
comparisons as are to be made at a time. A line of JSON for each guest: `name`, and `problem`, ""
where all is as it should be.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace

import trio

from pyvmm.compare.choosing import DEFAULT_QEMU, Wanted, choose
from pyvmm.compare.subjects import PyvmmHost, QemuAccelerator, QemuMachine, Subject
from pyvmm.errors import PyvmmError
from tests.compare.test_guests import CASES, check, compared

MEMORY = 4 << 20
"""Bytes of guest RAM: less to hash and to compare, which takes long in there."""


def main(at_once: int, names: Sequence[str]) -> int:
    """Compare each; 0, or 1 where a fork of this process could not go on."""
    wanted = Wanted(
        (PyvmmHost.KVM,), (DEFAULT_QEMU,), (QemuAccelerator.KVM,), (QemuMachine.MICROVM,)
    )
    subjects, _ = trio.run(choose, wanted)
    forks = [_start(names[first::at_once], subjects) for first in range(at_once)]
    return max(int(os.waitpid(pid, 0)[1] != 0) for pid in forks)


def _start(names: Sequence[str], subjects: tuple[Subject, ...]) -> int:
    """A child that compares these guests: its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        for name in names:
            line = json.dumps({"name": name, "problem": _problem(name, subjects)}) + "\n"
            os.write(1, line.encode())
        code = 0
    except BaseException:  # noqa: BLE001 - told, and 99
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _problem(name: str, subjects: tuple[Subject, ...]) -> str:
    try:
        case = replace(CASES[name], memory=MEMORY)
        report = compared(name, case, subjects)
        check(report, case)
        for one in report.subjects:
            # A guest that never ends is not counted.
            assert one.inspection.kernel is not None or case.end == "time-limit"
    except (PyvmmError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
