# SPDX-License-Identifier: MIT
"""Kills ``pyvmm`` at one point after another, each time in a process of its own.

``python -m tests.cli.killed_disks FOLDER LINES...`` makes a disk in FOLDER for each of LINES, has a
guest log records on it, and kills that process when it has passed on so many lines. It says for
each the last record of which the guest has told that it was flushed. The processes are forked, and
so have the modules of this one: a hundred of them would otherwise import for a minute.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

from pyvmm.cli.main import main

RECORDS = 2000
SECTOR = 512
_FLUSHED = re.compile(rb"^flushed (\d+)$", re.MULTILINE)
_WARM = ("exit", "--append", "0", "--host", "kvm")


def disk_of(folder: Path, number: int) -> Path:
    """The file of a disk, by its number."""
    return folder / f"disk{number}"


def _last_flushed(said: bytes) -> int:
    # A line that was cut says nothing.
    found = _FLUSHED.findall(said[: said.rfind(b"\n") + 1])
    return int(found[-1]) if found else 0


def _killed_after(lines: int, disk: Path) -> int:
    """Last record that was flushed when a process was killed that had said so many lines."""
    with disk.open("wb") as file:
        file.truncate((RECORDS + 1) * SECTOR)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os.closerange(3, writing + 1)
        command = ["run", "block", "--host", "kvm", "--disk", str(disk)]
        os._exit(main([*command, "--append", f"log={RECORDS}"]))
    os.close(writing)
    with open(reading, "rb") as output:
        said = b"".join(output.readline() for _ in range(lines))
        os.kill(child, signal.SIGKILL)
        said += output.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"it ended by itself: {said!r}")
    return _last_flushed(said)


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    # Loads what a run loads, for all of them.
    if main(["run", *_WARM]):
        raise SystemExit("no guest runs")
    for _number, _lines in enumerate(sys.argv[2:]):
        print(_killed_after(int(_lines), disk_of(_folder, _number)), flush=True)
