# SPDX-License-Identifier: MIT
"""Measuring in a lab of our own, whatever the user has up: private memory exists nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.baselines import ROOT
from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError, Result, Step, Subject, Table
from pyvmm.errors import PyvmmError

PYVMM = str(Path(sys.executable).parent / "pyvmm")
_STEP = "step"
_PRELOAD_PATIENCE = 600.0


def require_kernel(name: str | None = None) -> None:
    """Raises `CannotRunError` where there is no lab kernel, or none called `name`."""
    from pyvmm.lab.settings import find_kernel

    try:
        find_kernel(name)
    except PyvmmError as error:
        raise CannotRunError(str(error)) from error


def environment(directory: str) -> dict[str, str]:
    """This process's, with `directory` as the place of the lab that is up."""
    return {**os.environ, "XDG_RUNTIME_DIR": directory}


def must(command: Sequence[str], env: Mapping[str, str]) -> bytes:
    """What `command` prints. Raises `CannotRunError` where it fails."""
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise CannotRunError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr!r}")
    return done.stdout


def wait_until_preloaded(env: Mapping[str, str]) -> None:
    """Until the lab that is up has nothing more to do by itself. Raises `CannotRunError`."""
    deadline = time.monotonic() + _PRELOAD_PATIENCE
    while b"preloaded: ready" not in must([PYVMM, "lab", "status"], env):
        if time.monotonic() > deadline:
            raise CannotRunError("the lab does not get pyvmm loaded")
        time.sleep(0.2)


@contextmanager
def lab_up(kernel: str | None = None) -> Iterator[dict[str, str]]:
    """A lab that is up, with the kernel called `kernel`; the environment of commands in it."""
    require_kernel(kernel)
    chosen = [] if kernel is None else ["--kernel", kernel]
    with tempfile.TemporaryDirectory() as directory:
        env = environment(directory)
        must([PYVMM, "lab", "up", *chosen], env)
        try:
            wait_until_preloaded(env)
            yield env
        finally:
            must([PYVMM, "lab", "down"], env)


def measured_inside(
    module: str, arguments: Sequence[object], step: Step, *, kernel: str | None = None
) -> dict[str, Any]:
    """What ``python -m MODULE ARGUMENTS`` prints in a lab: one JSON object, by `tell`.

    Raises `CannotRunError` where it fails.
    """
    inside = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    with lab_up(kernel) as env, tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [PYVMM, "lab", "run", "--", *inside],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            said = follow(process.stderr, step)
        out.seek(0)
        answer = out.read()
    if process.returncode:
        last = said[-1] if said else f"status {process.returncode}"
        raise CannotRunError(f"{module} in the lab: {last}")
    found: dict[str, Any] = json.loads(answer)
    return found


def follow(lines: Iterator[str], step: Step) -> list[str]:
    """Pass on the steps among what is said inside; the other lines."""
    said = []
    for line in lines:
        match line.rstrip("\n").split("\t"):
            case [word, what, done, total] if word == _STEP:
                step(what, int(done), int(total))
            case _:
                said.append(line.strip())
    return said


def say_step(what: str, done: int, total: int) -> None:
    """Inside: a `Step` that `measured_inside` passes on."""
    print(_STEP, what, done, total, sep="\t", file=sys.stderr, flush=True)


def tell(samples: Mapping[str, Sequence[Sample]], tables: Sequence[Table] = ()) -> None:
    """Inside: hand over what was measured."""
    rows = [{"title": table.title, "rows": table.rows} for table in tables]
    print(json.dumps({"samples": samples, "tables": rows}))


def take_in(result: Result, answer: Mapping[str, Any]) -> Result:
    """Outside: put into `result` what `tell` told."""
    result.samples = answer["samples"]
    result.tables.extend(
        Table(table["title"], tuple((one, two, three) for one, two, three in table["rows"]))
        for table in answer["tables"]
    )
    return result


def told(name: str, what: str) -> Subject:
    """Outside: a subject that is measured inside."""

    def sample() -> Sample:
        raise CannotRunError(f"{name} is measured in the lab")

    return Subject(name, what, sample)
