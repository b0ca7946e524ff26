# SPDX-License-Identifier: MIT
"""``python -I -S launcher.py REPORT_FD PROGRAM [ARGUMENT...]``: runs PROGRAM, tells what it cost.

A process of its own, and one that imports next to nothing, because Linux counts the memory of the
process that calls exec into ru_maxrss of the program executed. So what is measured of a program is
this script's own size (about 12 MiB) at least.

To REPORT_FD goes a line of JSON: `started` and `ended` in seconds of CLOCK_MONOTONIC, `status` as
wait(2) has it, `user` and `system` in seconds, `max_rss` in bytes. SIGTERM kills PROGRAM.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _become(command: list[str], parent: int) -> None:
    """In the child: PROGRAM, which dies with its launcher."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def main() -> int:
    """Run it; 0."""
    report, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report, False)
    parent = os.getpid()
    # Until it is known whom to kill.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(command, parent)

    def kill(_number: int, _frame: object) -> None:
        os.kill(child, signal.SIGKILL)

    for number in _ENDING:
        signal.signal(number, kill)
    # It is not reaped before wait4 returns, and from then on nothing is killed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    ended = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    _, status, usage = os.wait4(child, 0)
    told = {
        "started": started,
        "ended": ended,
        "status": status,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "max_rss": usage.ru_maxrss * 1024,
    }
    os.write(report, json.dumps(told).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
