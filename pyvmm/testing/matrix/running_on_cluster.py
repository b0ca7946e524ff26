# SPDX-License-Identifier: MIT
"""The boots of a matrix on a Dask cluster: each a task, each counted once, whatever dies meanwhile.

Each task is meant for one worker that has room for it. Left alone, Dask has tasks wait for a worker
that has their image while others idle, and takes all that a dead worker had for suspects; so a boot
of a worker that is gone is given to another here. A result is taken as soon as it is there.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.cluster import Cluster, first_line
from pyvmm.testing.matrix.cluster_worker import RESOURCE, Refused, boot_on_worker, kept
from pyvmm.testing.matrix.jobs import ImageFiles, Job
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict

if TYPE_CHECKING:
    from distributed import Future

ATTEMPTS = 3
"""Times that a boot is begun before it is given up, where worker or process is lost."""
ABANDONED = 60.0
"""Seconds without any worker after which the rest is given up."""
_LOOK_EVERY = 1.0
_AHEAD = 4
"""Boots that look for a worker, for each one that can run: some may wait for certain workers."""

Tell = Callable[[BootResult], None]


async def run_on_cluster(
    cluster: Cluster,
    boots: Iterable[Boot],
    files: ImageFiles,
    tell: Tell,
    notice: Callable[[str], None],
    *,
    abandoned: float = ABANDONED,
) -> None:
    """Boot each of `boots`; `tell` gets each result as it comes, `notice` what is worth a line.

    Cancelled, it has the workers end what runs; of those boots there is no result. Raises
    `HostLacksError` where the cluster is lost.
    """
    run = _Run(cluster, files, notice)
    left = iter(boots)
    boot = next(left, None)
    hands: set[asyncio.Task[BootResult]] = set()
    loop = asyncio.get_running_loop()
    looked = with_worker = loop.time()
    try:
        while True:
            while boot is not None and len(hands) < _AHEAD * max(1, cluster.slots):
                hands.add(loop.create_task(run.result(boot)))
                boot = next(left, None)
            if not hands:
                return
            done, hands = await asyncio.wait(
                hands, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
            )
            _tell_results(done, tell)
            for one in done:
                one.result()  # Raises what one has failed by, now that the others are told.
            if loop.time() - looked >= _LOOK_EVERY:
                await run.look()
                looked = loop.time()
                with_worker = looked if cluster.slots else with_worker
                if looked - with_worker > abandoned:
                    raise _lost(cluster, f"it has had no workers for {abandoned:g} s")
    finally:
        # Some may be done by now: what went wrong was something else.
        _tell_results(hands, tell)
        for one in hands:
            one.cancel()
        await asyncio.gather(*hands, return_exceptions=True)


class _Run:
    """State that the boots of a run share."""

    def __init__(self, cluster: Cluster, files: ImageFiles, notice: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._files = files
        self._notice = notice
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._sent: dict[tuple[str, str], Future[bytes]] = {}
        self._busy: Counter[str] = Counter()
        """Boots that each worker has now."""
        self._changed = asyncio.Condition()
        """Told when a worker has room again, or came, or is gone."""
        self._lacking: dict[tuple[HostName, bool], dict[str, BootResult]] = {}
        """Workers on which a host is not there, with what they said of it."""

    async def look(self) -> None:
        """Look at the workers; tell of those that came and cannot be used."""
        cluster = self._cluster
        if cluster.is_lost:
            raise _lost(cluster, "its scheduler is gone")
        known = set(cluster.unfit)
        try:
            await cluster.look()
        except (TimeoutError, OSError):
            if cluster.is_lost:
                raise _lost(cluster, "its scheduler is gone") from None
            return  # It is busy: there is another look soon.
        for address in cluster.unfit.keys() - known:
            self._notice(f"worker {address} is left out: it has {cluster.unfit[address]}")
        async with self._changed:
            self._changed.notify_all()

    async def result(self, boot: Boot) -> BootResult:
        """Have one boot done, somewhere."""
        job = self._files.job(boot)
        lacking = self._lacking.setdefault((boot.host, boot.image.private), {})
        avoided: set[str] = set()
        causes: list[str] = []
        while len(causes) < ATTEMPTS:
            async with self._worker(lacking.keys(), avoided) as worker:
                if worker is None:
                    # None of the workers has the host: one of them has said why.
                    said = next(iter(lacking.values()))
                    return replace(said, key=boot.key, attempts=0)
                answer = await self._answer(job, worker)
            if isinstance(answer, Refused):
                avoided.add(worker)
                causes.append(answer.cause)
            elif answer.verdict is Verdict.SKIPPED:
                lacking[worker] = answer
            else:
                return replace(answer, attempts=len(causes) + 1)
        return BootResult(boot.key, Verdict.LOST, causes[-1], attempts=len(causes))

    @asynccontextmanager
    async def _worker(self, lacking: Iterable[str], avoided: set[str]) -> AsyncIterator[str | None]:
        """A worker with room for a boot, that one's within the block.

        It is none of `lacking` (None where all are), and one of `avoided` if there is no other.
        """
        worker = ""
        async with self._changed:
            while not worker:
                able = self._cluster.able
                left = able.keys() - set(lacking)
                if able and not left:
                    break
                left = left - avoided or left
                free = {one: able[one] - self._busy[one] for one in left}
                worker = max(free, key=lambda one: (free[one], one), default="")
                if not worker or free[worker] <= 0:
                    worker = ""
                    await self._changed.wait()
            self._busy[worker] += 1
        try:
            yield worker or None
        finally:
            self._busy[worker] -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _answer(self, job: Job, worker: str) -> BootResult | Refused:
        """Have the worker do the job; that Dask lost it is no result."""
        cluster = self._cluster
        future = cluster.client.submit(
            boot_on_worker,
            cluster.version,
            job,
            self._file(job.image, worker),
            None if job.initrd is None else self._file(job.initrd, worker),
            # Each its own: equal calls would be one.
            key=f"pyvmm-{self._name}-{next(self._numbers)}-{job.boot.key}",
            pure=False,
            workers=[worker],
            resources={RESOURCE: 1} if cluster.has_resource else None,
        )
        asked = asyncio.ensure_future(_result(future))
        gone = asyncio.ensure_future(self._until_gone(worker))
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                answer = asked.result()
                assert isinstance(answer, (BootResult, Refused))
                return answer
        except CancelledError:  # Not asyncio's: Dask has given the task up.
            if cluster.is_lost:
                raise _lost(cluster, "its scheduler is gone") from None
            return Refused("the cluster has forgotten it")
        except Exception as error:  # noqa: BLE001 - whatever a task can end with, told as that
            if type(error).__name__ == "KilledWorker":
                return Refused(f"worker {worker} died")
            return Refused(f"{type(error).__name__}: {first_line(error)}")
        finally:
            asked.cancel()
            gone.cancel()
            await asyncio.gather(asked, gone, return_exceptions=True)
            future.release()
        return Refused(f"worker {worker} is gone")

    async def _until_gone(self, worker: str) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: worker not in self._cluster.fit)

    def _file(self, digest: str, worker: str) -> Future[bytes]:
        """A file on a worker; it stays there for the run."""
        if (digest, worker) not in self._sent:
            self._sent[digest, worker] = self._cluster.client.submit(
                kept,
                self._files.contents[digest],
                key=f"pyvmm-file-{self._name}-{digest}-{worker}",
                pure=False,
                workers=[worker],
            )
        return self._sent[digest, worker]


def _tell_results(
    tasks: Iterable[asyncio.Task[BootResult]], tell: Callable[[BootResult], None]
) -> None:
    """Tell the results of those that have one."""
    for one in tasks:
        if one.done() and not one.cancelled() and one.exception() is None:
            tell(one.result())


async def _result(future: Future[object]) -> object:
    return await future.result()


def _lost(cluster: Cluster, cause: str) -> HostLacksError:
    return HostLacksError(
        f"go on with the matrix on the cluster {cluster.place}",
        cause,
        "what was done is reported; run the rest when it is back",
    )
