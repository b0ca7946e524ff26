# SPDX-License-Identifier: MIT
"""System calls, counted by strace."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

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
