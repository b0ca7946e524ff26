# SPDX-License-Identifier: MIT
"""``python -m tests.lab.compared_inside NAME...``: compares these guests with KVM on both sides.

Run in the lab, in one process, because to start Python takes seconds in there. A line of JSON for
each guest: `name`, and `problem`, "" where all is as it should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import trio

from pyvmm.compare.choosing import DEFAULT_QEMU, Wanted, choose
from pyvmm.compare.subjects import PyvmmHost, QemuAccelerator, QemuMachine
from pyvmm.errors import PyvmmError
from tests.compare.test_guests import CASES, check, compared

MEMORY = 4 << 20
"""Bytes of guest RAM: less to hash and to compare, which takes long in there."""


def main(names: Sequence[str]) -> int:
    """Compare each; 0."""
    wanted = Wanted(
        (PyvmmHost.KVM,), (DEFAULT_QEMU,), (QemuAccelerator.KVM,), (QemuMachine.MICROVM,)
    )
    subjects, _ = trio.run(choose, wanted)
    for name in names:
        problem = ""
        try:
            case = replace(CASES[name], memory=MEMORY)
            report = compared(name, case, subjects)
            check(report, case)
            for one in report.subjects:
                # A guest that never ends is not counted.
                assert one.inspection.kernel is not None or case.end == "time-limit"
        except (PyvmmError, AssertionError) as error:
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps({"name": name, "problem": problem}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
