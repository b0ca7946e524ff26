# SPDX-License-Identifier: MIT
"""``pyvmm shell`` from its start to its prompt, next to Python's and IPython's own."""

from __future__ import annotations

import os
import pty
import resource
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns

NAME = "shell"
TITLE = "`pyvmm shell` up to its prompt, with a VM, its memory and a vCPU"
RUNS = 10

_LIMIT = 500.0
"""Milliseconds within which it is to be ready."""
_PATIENCE = 60.0
_NO_WARNING = {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1"}
"""Nobody here tells IPython where the cursor is."""
_PROMPTS = (b">>> ", b"In [")


def run(effort: Effort, step: Step) -> Result:
    """Measure on KVM and on the model; IPython's prompt where it is installed."""
    shell = (sys.executable, "-m", "pyvmm", "shell")
    commands: dict[str, Sequence[str]] = {
        "python": (sys.executable, "-q"),
        "shell, KVM": (*shell, "--plain", "--host", "kvm"),
        "shell, model": (*shell, "--plain", "--host", "model"),
    }
    if find_spec("IPython") is not None:
        commands["ipython"] = (sys.executable, "-m", "IPython", "--no-banner")
        commands["shell in IPython, KVM"] = (*shell, "--host", "kvm")
    subjects = [
        Subject("the limit", "half a second", lambda: {"ready_ms": _LIMIT, "cpu_ms": _LIMIT}),
        *(_subject(name, command) for name, command in commands.items()),
    ]
    comparisons = [
        Comparison("ready_ms", "shell, KVM", "the limit", at_most(1.0)),
        Comparison("ready_ms", "shell, model", "the limit", at_most(1.0)),
        Comparison("cpu_ms", "shell, KVM", "the limit", at_most(1.0)),
        Comparison("cpu_ms", "shell, model", "the limit", at_most(1.0)),
        Comparison("ready_ms", "shell, KVM", "python"),
        Comparison("ready_ms", "shell, model", "python"),
    ]
    if "ipython" in commands:
        comparisons.append(Comparison("ready_ms", "shell in IPython, KVM", "ipython"))
    return Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), comparisons)


def _subject(name: str, command: Sequence[str]) -> Subject:
    return Subject(name, " ".join(command[1:]), lambda: _until_prompt(command))


def _until_prompt(command: Sequence[str]) -> Sample:
    """Start `command` on a terminal of its own; milliseconds until it prompts."""
    ours, theirs = pty.openpty()
    before = _cpu_of_children()
    try:
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=_NO_WARNING,
        ) as process:
            try:
                os.close(theirs)
                took = _read_prompt(ours, command) - began
            finally:
                process.kill()
    finally:
        os.close(ours)
    return {"ready_ms": took * 1e3, "cpu_ms": (_cpu_of_children() - before) * 1e3}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read_prompt(terminal: int, command: Sequence[str]) -> float:
    said, until = b"", time.perf_counter() + _PATIENCE
    while not any(prompt in said for prompt in _PROMPTS):
        readable, _, _ = select.select([terminal], [], [], max(0.0, until - time.perf_counter()))
        try:
            more = os.read(terminal, 1 << 16) if readable else b""
        except OSError:  # It has ended.
            more = b""
        if not more:
            text = said.decode(errors="replace")[-200:]
            raise CannotRunError(f"{' '.join(command)} has not prompted: {text!r}")
        said += more
    return time.perf_counter()
