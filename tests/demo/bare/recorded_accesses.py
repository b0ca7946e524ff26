# SPDX-License-Identifier: MIT
"""Program: accesses on a bare stage on KVM, and on standard output what was recorded, as JSON.

They are made twice, and the second time is between two looks at a file that is not there. Rows of
[call, fd or name, errno].
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from unittest import mock

import trio

from pyvmm.demo.stage import bare
from pyvmm.demo.stage.taken_runs import TakenRuns
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.hosts.call_record import SystemCall

MARK = "/no/such/file"
LINES = (
    "make-vm 0", "set-slot 0 0 0x100000 0x4000",
    "write guest 0 0x100000 1", "read guest 0 0x100000",
    "read guest 0 0x5000", "write guest 0 0x5000 1", "set-slot 0 1 0x200000 0x1000 -1 0 0 no",
    "read guest 0 0x200000", "make-file 0 0 0x4000 3", "set-slot 0 2 0x300000 0x4000 0",
    "map-file 0", "write guest 0 0x300000 7", "read host 0 0x300000", "write host 0 0x300000 8",
    "read guest 0 0x300000", "convert-in-place 0 0 0x1000 private", "dup vcpu 0", "close vcpu 0",
    "close vcpu 0",
)  # fmt: skip
CALLS: list[SystemCall] = []


class All(TakenRuns):
    """Keeps all calls, also those that no outcome has."""

    def call(self, made: SystemCall) -> None:
        super().call(made)
        CALLS.append(made)


def mark() -> None:
    Path(MARK).exists()


async def act() -> None:
    with bare.BareStage(StageHost.KVM) as stage:
        CALLS.clear()
        mark()
        for line in LINES:
            await stage.do(parse_act(line))
        mark()
        rows = [
            [one.request if one.name == "ioctl" else one.name, where(one), one.errno]
            for one in CALLS
        ]
        CALLS.clear()
    if len(sys.argv) > 1:
        json.dump(rows, sys.stdout)


def where(call: SystemCall) -> str:
    found = re.search(r" fd (\d+)$", call.target)
    return found[1] if found else ""


def main() -> None:
    with mock.patch.object(bare, "TakenRuns", All):
        for arguments in ([], ["tell"]):
            sys.argv[1:] = arguments
            trio.run(act)


if __name__ == "__main__":
    main()
