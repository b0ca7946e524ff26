# SPDX-License-Identifier: MIT
"""The record of a whole machine, compared with what strace sees of each of its threads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.kvm.system import System
from tests.hosts.test_recording import SHARED, told_by_strace

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

TOP = Path(__file__).parent.parent.parent.parent
WHICH = "openat,ioctl,mmap,munmap,madvise,fallocate,memfd_create,ftruncate,mincore,close"
Row = tuple[str, str, int]


def whole_lines(log: Path) -> list[tuple[int, str]]:
    """(Thread, call) of each, put together where another thread's came between."""
    begun: dict[int, str] = {}
    found = []
    for line in log.read_text().splitlines():
        number, call = line.split(maxsplit=1)
        thread = int(number)
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = begun.pop(thread) + call.split("resumed>", 1)[1]
        found.append((thread, call))
    return without_what_c_does(list(without_other_files(found)))


PAST_A_HYPERCALL = ["KVM_RUN", "KVM_GET_REGS", "KVM_SET_REGS", "KVM_RUN"]


def without_what_c_does(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Leave out the two calls that get a vCPU past a hypercall: C makes them between two runs."""
    left_out = set()
    for thread in {thread for thread, _ in lines}:
        places = [place for place, (number, _) in enumerate(lines) if number == thread]
        requests = [_request(lines[place][1]) for place in places]
        for start in range(len(places)):
            if requests[start : start + 4] == PAST_A_HYPERCALL:
                left_out.update(places[start + 1 : start + 3])
    return [line for place, line in enumerate(lines) if place not in left_out]


def _request(call: str) -> str:
    found = re.match(r"ioctl\(\d+, (\w+)", call)
    return found[1] if found else ""


def without_other_files(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Leave out files that are read in between: their descriptors' numbers are used again."""
    others: set[str] = set()
    for thread, call in lines:
        opened = re.match(r"openat\(.* = (\d+)$", call)
        closed = re.match(r"close\((\d+)\)", call)
        if opened and '"/dev/kvm"' not in call:
            others.add(opened[1])
        elif closed and closed[1] in others:
            others.remove(closed[1])
        else:
            yield thread, call


def compared(tmp_path: Path, *arguments: str) -> list[Row]:
    """Have the program run under strace; what the two agree on."""
    log = tmp_path / "strace"
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.demo.private.recorded_boot", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
    )  # fmt: skip
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        # Not from the start: importing makes thousands of calls.
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(program.pid), "-o", log, "-e", f"trace={WHICH}",
             "-e", "signal=none"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            told_by_it, _ = program.communicate("go\n")
            tracer.wait()
    assert program.returncode == 0
    rows = [
        (thread, (name, where, result)) for thread, name, where, result in json.loads(told_by_it)
    ]
    seen = whole_lines(log)
    start = max(i for i, (_, line) in enumerate(seen) if '"/dev/kvm"' in line)
    last = rows[-1][1]
    told = [(thread, told_by_strace(line)) for thread, line in seen[start:]]
    end = max(i for i, (_, row) in enumerate(told) if row == last) + 1
    known = {row for _, row in rows}
    for thread in sorted({thread for thread, _ in rows}):
        recorded = [row for number, row in rows if number == thread]
        traced = [
            row for number, row in told[:end]
            if number == thread and row is not None and (row in known or row[0] not in SHARED)
        ]  # fmt: skip
        assert traced == recorded
    return [row for _, row in rows]


def test_a_machine(tmp_path: Path) -> None:
    """One with private memory where there is that, which takes a minute of a lab."""
    with System() as system:
        is_private = bool(system.capabilities().memory_attributes & MemoryAttribute.PRIVATE)
    rows = compared(tmp_path, *(["private"] if is_private else []))
    names = [name for name, _, _ in rows]
    assert len(rows) > (60 if is_private else 15)
    if is_private:
        assert names.count("fallocate") >= 2
        assert names.count("madvise") >= 8
