# SPDX-License-Identifier: MIT
"""The boots of a matrix on this machine: some at a time, each in a process that boots guests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import trio

from pyvmm.errors import PyvmmError
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.drivers.presence import absence
from pyvmm.testing.matrix.jobs import ImageFiles, Job
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.processes import (
    PATIENCE,
    BootProcess,
    ProcessLostError,
    boot_command,
    lab_command,
)
from pyvmm.testing.matrix.results import BootResult, Verdict

ATTEMPTS = 3
"""Times that a boot is begun before it is given up, where what boots it is lost."""
Tell = Callable[[BootResult], None]


async def run_here(
    boots: Iterable[Boot],
    files: ImageFiles,
    at_once: int,
    tell: Tell,
    *,
    command: Callable[[], list[str]] = boot_command,
    patience: float = PATIENCE,
) -> None:
    """Boot each of `boots`, `at_once` at a time; `tell` gets each result as it comes.

    Beside them one at a time runs in the lab, which is one machine. Cancelled, it ends what runs;
    of those boots there is no result.
    """
    here: list[Boot] = []
    in_lab: list[Boot] = []
    for boot in boots:
        (in_lab if boot.host is HostName.LAB else here).append(boot)
    left = iter(here)
    async with trio.open_nursery() as nursery:
        for _ in range(min(at_once, len(here))):
            nursery.start_soon(_work, left, files, tell, BootProcess(command(), patience))
        if in_lab:
            nursery.start_soon(_work_in_lab, in_lab, files, tell, patience)


async def _work(left: Iterator[Boot], files: ImageFiles, tell: Tell, owned: BootProcess) -> None:
    """Do boots until there are none left; others take from the same iterator."""
    async with owned as process:
        for boot in left:
            tell(await tried(process, files.job(boot), files.contents))


async def _work_in_lab(
    boots: Iterable[Boot], files: ImageFiles, tell: Tell, patience: float
) -> None:
    """Do all of them with one process in the lab, or skip them where there is no lab."""
    reason = absence(HostName.LAB)
    if reason is not None:
        for boot in boots:
            tell(BootResult(boot.key, Verdict.SKIPPED, reason))
        return
    async with BootProcess(lab_command(), patience) as process:
        for boot in boots:
            job = files.job(boot)
            result = await tried(process, job.inside_the_lab(), files.contents)
            tell(job.from_the_lab(result))


async def tried(
    process: BootProcess, job: Job, contents: dict[str, bytes], attempts: int = ATTEMPTS
) -> BootResult:
    """Have `process` do the job, up to `attempts` times where the process is lost."""
    for attempt in range(1, attempts + 1):
        try:
            result = await process.boot(job, contents)
        except ProcessLostError as error:
            lost = error
        else:
            return replace(result, attempts=attempt)
    return lost_result(job, lost, attempts)


def lost_result(job: Job, error: PyvmmError, attempts: int) -> BootResult:
    """The result of a boot of which nothing is known but `error`."""
    return BootResult(job.boot.key, Verdict.LOST, error.cause, attempts=attempts)
