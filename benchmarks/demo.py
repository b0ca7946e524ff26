# SPDX-License-Identifier: MIT
"""The demo: time to the first step on screen, time of a step, and memory of a stage's process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.house.houses import open_houses
from pyvmm.demo.house.lab import LabHouse
from pyvmm.demo.playing import Playing, playing_here, playing_in
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player

NAME = "demo"
TITLE = "pyvmm demo: the first step on screen, a step, and a stage's memory"
RUNS = 9

_CHAPTER = BOOK.chapters[0]
_PYVMM = str(Path(sys.executable).parent / "pyvmm")
_INTERPRETER = "interpreter"
_HERE = "model, no process"


def run(effort: Effort, step: Step) -> Result:
    """Measure the first chapter on each host that is there; a lab only if one is up."""
    subjects = [
        Subject(_INTERPRETER, "an interpreter that imports trio and ends", _interpreter),
        Subject(_HERE, "the same stage in the reader's process", partial(_steps_here)),
        *(
            Subject(host.value, "the command to its first step; a process of stages", sample)
            for host, sample in _hosts()
        ),
    ]
    samples = take_turns(subjects, effort, step)
    comparisons = []
    for host, _ in _hosts():
        target = None if host is StageHost.LAB else at_most(5.0)
        comparisons.append(Comparison("first_step_s", host.value, _INTERPRETER, target))
        comparisons.append(Comparison("step_ms", host.value, _HERE))
    return Result(NAME, TITLE, subjects, samples, comparisons)


def _hosts() -> list[tuple[StageHost, Callable[[], Sample]]]:
    there = [StageHost.MODEL]
    if Path("/dev/kvm").exists():
        there.append(StageHost.KVM)
    if LabHouse(str).is_up():
        there.append(StageHost.LAB)
    return [(host, partial(_on, host)) for host in there]


def _interpreter() -> Sample:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import trio"], check=True)
    return {"first_step_s": time.perf_counter() - began}


def _steps_here() -> Sample:
    async def main() -> float:
        async with playing_here(Player(BOOK, _CHAPTER.id), StageHost.MODEL) as reader:
            return await _step_ms(reader)

    return {"step_ms": trio.run(main)}


def _on(host: StageHost) -> Sample:
    sample = {"first_step_s": _first_step(host)}

    async def main() -> None:
        async with open_houses(host) as houses:
            async with playing_in(houses, Player(BOOK, _CHAPTER.id)) as reader:
                sample["step_ms"] = await _step_ms(reader)
                if host is not StageHost.LAB:
                    sample["stage_mib"] = _own_memory()

    trio.run(main)
    return sample


def _first_step(host: StageHost) -> float:
    """Seconds from the command's start to the first words of the first step."""
    command = [_PYVMM, "demo", _CHAPTER.id, "--host", host.value]
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if _CHAPTER.title.encode() in line:
                took = time.perf_counter() - began
                break
        else:
            raise CannotRunError(f"{' '.join(command)} has no first step")
        process.stdout.read()
    return took


async def _step_ms(reader: Playing) -> float:
    """The mean of a chapter's steps."""
    await reader.begin()
    began = time.perf_counter()
    while reader.player.view.phase is not Phase.ENDED:
        await reader.move(Plain.NEXT)
    return (time.perf_counter() - began) / len(_CHAPTER.steps) * 1e3


def _own_memory() -> float:
    """MiB that the only child of this process has for itself (proc(5), smaps_rollup)."""
    (child,) = Path("/proc/thread-self/children").read_text(encoding="ascii").split()
    lines = Path(f"/proc/{child}/smaps_rollup").read_text(encoding="ascii").splitlines()
    kib = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kib / 1024
