# SPDX-License-Identifier: MIT
"""A boot of a matrix on a worker of a Dask cluster, which has the same pyvmm (`cluster`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import trio

from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.jobs import Job, digest_of
from pyvmm.testing.matrix.processes import BootProcess, ProcessLostError, boot_command, lab_command
from pyvmm.testing.matrix.results import BootResult

if TYPE_CHECKING:
    from distributed import Worker

RESOURCE = "vm"
"""Resource of a worker that bounds how many boots it has at a time."""
_LOOK_EVERY = 0.25
"""Seconds between two looks whether the boot is still wanted."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A worker's number of threads, and of its resource `RESOURCE`, 0 where it declares none."""

    threads: int
    vms: int


def facts_of(dask_worker: Worker) -> Facts:
    """The facts of the worker that this is called on (Dask fills in the parameter by its name)."""
    state = dask_worker.state
    return Facts(int(state.nthreads), int(state.total_resources.get(RESOURCE, 0)))


@dataclass(frozen=True, slots=True)
class Refused:
    """No boot, and no fault of the guest's, but the worker's, by `cause`."""

    cause: str


def kept(content: bytes) -> bytes:
    """Keep a file on a worker; a task of its own, so that it is sent there once."""
    return content


def boot_on_worker(
    wanted: str, job: Job, image: bytes, initrd: bytes | None
) -> BootResult | Refused:
    """Do a job in a process of its own, as a task of Dask; `wanted` is the version of pyvmm.

    The process is ended when the task is no longer wanted, because Dask cannot end the task.
    """
    from distributed import get_worker

    worker = get_worker()
    own = version("pyvmm")
    if own != wanted:
        return Refused(f"it has pyvmm {own}, not {wanted}")
    contents = dict(zip(job.digests, (image, initrd or b""), strict=False))
    for digest, content in contents.items():
        if digest_of(content) != digest:
            return Refused(f"file {digest[:12]} came there with other bytes")
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state not in {"cancelled", "released"}

    done = trio.run(_boot, job, contents, is_wanted)
    if isinstance(done, str):
        return Refused(done)
    return replace(done, place=str(worker.name or worker.address))


async def _boot(
    job: Job, contents: dict[str, bytes], is_wanted: Callable[[], bool]
) -> BootResult | str:
    """Do the job; why there is no result, where there is none."""
    done: BootResult | str = "it was not wanted any more"
    in_lab = job.boot.host is HostName.LAB
    command = lab_command() if in_lab else boot_command()
    async with BootProcess(command) as process, trio.open_nursery() as nursery:

        async def watch() -> None:
            while is_wanted():  # noqa: ASYNC110 - the worker's own state, which tells nobody
                await trio.sleep(_LOOK_EVERY)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            done = await process.boot(job.inside_the_lab() if in_lab else job, contents)
        except ProcessLostError as error:
            done = error.cause
        nursery.cancel_scope.cancel()
    return job.from_the_lab(done) if in_lab and isinstance(done, BootResult) else done
