# SPDX-License-Identifier: MIT
"""System calls, counted by strace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.baselines import ROOT
from benchmarks.measure import CannotRunError, Table

_FEW, _MANY = 5, 25


def parse(summary: str) -> Counter[str]:
    """Calls by name from what ``strace -c`` writes."""
    counts: Counter[str] = Counter()
    for line in summary.splitlines():
        fields = line.split()
        # % time, seconds, usecs/call, calls, errors (or nothing), name
        if len(fields) in (5, 6) and fields[3].isdecimal() and fields[-1] != "total":
            counts[fields[-1]] += int(fields[3])
    return counts


def per_life(commands: Mapping[str, Sequence[str]]) -> Table:
    """Calls per life of commands that take a number of lives as their last argument.

    The difference between many and few lives, so that nothing of a process's start counts.
    """
    title = "system calls per life, by strace"
    strace = shutil.which("strace")
    if strace is None:
        return Table(f"{title}: not counted, strace is not installed", ())
    rows = []
    for name, command in commands.items():
        try:
            few = _count(strace, [*command, str(_FEW)])
            many = _count(strace, [*command, str(_MANY)])
        except CannotRunError as error:
            return Table(f"{title}: not counted, {error}", ())
        each = {call: (many[call] - few[call]) / (_MANY - _FEW) for call in many}
        most = sorted((call for call in each if each[call] >= 0.5), key=lambda call: -each[call])
        remark = ", ".join(f"{call} {each[call]:.0f}" for call in most)
        rows.append((name, f"{sum(each.values()):.0f}", remark))
    return Table(title, tuple(rows))


def of_process(command: Sequence[str], env: Mapping[str, str]) -> Counter[str] | None:
    """All calls of a whole process and its threads; None where they cannot be counted."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    try:
        return _count(strace, command, env)
    except CannotRunError:
        return None


def of_call(call: Callable[[], object]) -> Counter[str] | None:
    """All calls that a fork of this process makes for `call`; None where they cannot be counted.

    Nothing is loaded anew for it. There must be no other thread in this process.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    go, going = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        _be_counted(go, going, call)
    os.close(go)
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary"
        command = [strace, "-f", "-c", "-o", str(summary), "-p", str(child)]
        try:
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                assert tracer.stderr is not None
                is_attached = "attached" in tracer.stderr.readline()
                # Let go on, counted or not; it is waited for below.
                os.close(going)
                tracer.stderr.read()
        finally:
            status = os.waitpid(child, 0)[1]
        if not is_attached or tracer.returncode or status:
            return None
        return parse(summary.read_text(encoding="utf-8"))


def _be_counted(go: int, going: int, call: Callable[[], object]) -> NoReturn:
    """Call once the other end is closed, and end."""
    code = 1
    try:
        os.close(going)
        os.read(go, 1)
        call()
        code = 0
    except Exception:  # noqa: BLE001 - told, and 1
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _count(
    strace: str, command: Sequence[str], env: Mapping[str, str] | None = None
) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary"
        done = subprocess.run(
            [strace, "-f", "-c", "-o", summary, *command],
            cwd=ROOT,
            env={**os.environ} if env is None else {**env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
            raise CannotRunError(f"strace failed: {said}")
        return parse(summary.read_text(encoding="utf-8"))
