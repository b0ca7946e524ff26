# SPDX-License-Identifier: MIT
"""What tests start has default signals, also where nohup or a shell's `&` starts the tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USUAL = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)


def test_nothing_is_ignored_or_blocked_in_a_child() -> None:
    said = subprocess.run(
        ["cat", "/proc/self/status"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    masks = dict(line.split(":\t") for line in said.splitlines() if line.startswith("Sig"))
    # glibc keeps 32 and 33 to itself: nobody can set what a shell has left of them.
    found = {name: int(masks[name], 16) & ~(3 << 31) for name in ("SigIgn", "SigBlk")}
    assert found == {"SigIgn": 0, "SigBlk": 0}


@pytest.mark.slow
def test_so_it_is_where_the_tests_inherit_ignored_and_blocked_signals() -> None:
    def inherit() -> None:
        for number in USUAL:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, USUAL)

    name = test_nothing_is_ignored_or_blocked_in_a_child.__name__
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{name}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=inherit,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
