# SPDX-License-Identifier: MIT
"""``python -m tests.lab.suites_inside AT_ONCE FOLDER...``: runs these suites, several at a time.

Run in the lab, where imports are seconds of emulated processor: they are made once, and each suite
is a fork of the process that has them. A line of JSON for each as it ends: `suite`, `code` as
`os.waitstatus_to_exitcode` has it, and `out`, what it printed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import IO

import hypothesis.stateful
import pytest
import trio.testing

import pyvmm.cli.main
import pyvmm.cli.run
import pyvmm.hosts.kvm.system
import pyvmm.hosts.model.system
import pyvmm.machine.running

PRELOADED = (hypothesis.stateful, trio.testing, pyvmm)
"""What suites import, here before any of them is there."""
OPTIONS = (
    *("-v", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:xdist.looponfail"),
    *("-m", "kvm", "-W", "ignore::hypothesis.errors.HypothesisWarning"),
    # Hypothesis's assertions stay as they are.
    *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
)


def main(at_once: int, suites: Sequence[str]) -> int:
    """Run each, the first ones first; 0."""
    gc.collect()
    gc.freeze()
    waiting = list(suites)
    running: dict[int, tuple[str, IO[bytes]]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            suite = waiting.pop(0)
            output: IO[bytes] = os.fdopen(os.memfd_create(suite), "w+b")
            running[_start(suite, output.fileno())] = suite, output
        pid, status = os.wait()
        suite, output = running.pop(pid)
        with output:
            output.seek(0)
            out = output.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"suite": suite, "code": code, "out": out}), flush=True)
    return 0


def _start(suite: str, output: int) -> int:
    """A child that is pytest for `suite`: its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        code = int(pytest.main([*OPTIONS, suite]))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - told, and 99
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
