# SPDX-License-Identifier: MIT
"""The boots of a matrix on a Dask cluster: each a task, each counted once, whatever dies meanwhile.

Only as many tasks are out as can run: of a worker that dies all tasks become suspect, and what
waits elsewhere would with them. A result is taken as soon as it is there.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError
from pyvmm.testing.matrix.cluster import Cluster, first_line
from pyvmm.testing.matrix.cluster_worker import RESOURCE, Done, Refused, boot_on_worker, kept
from pyvmm.testing.matrix.jobs import ImageFiles, Job
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict
from pyvmm.testing.monitors import HostName

if TYPE_CHECKING:
    from distributed import Future

ATTEMPTS = 3
"""Times that a boot is given to the cluster before it is given up."""
ABANDONED = 60.0
"""Seconds without any worker after which the rest is given up."""
_LOOK_EVERY = 1.0

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
    run = _Run(cluster, files, tell, notice)
    left = iter(boots)
    boot = next(left, None)
    hands: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    looked = with_worker = loop.time()
    try:
        while True:
            while boot is not None and len(hands) < cluster.slots:
                hands.add(loop.create_task(run.do(boot)))
                boot = next(left, None)
            if boot is None and not hands:
                return
            if hands:
                done, hands = await asyncio.wait(
                    hands, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    one.result()
            else:
                await asyncio.sleep(_LOOK_EVERY)
            if loop.time() - looked >= _LOOK_EVERY:
                await run.look()
                looked = loop.time()
                with_worker = looked if cluster.slots else with_worker
                if looked - with_worker > abandoned:
                    raise _lost(cluster, f"it has had no workers for {abandoned:g} s")
    finally:
        for one in hands:
            one.cancel()
        await asyncio.gather(*hands, return_exceptions=True)


class _Run:
    """State that the boots of a run share."""

    def __init__(
        self,
        cluster: Cluster,
        files: ImageFiles,
        tell: Tell,
        notice: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._files = files
        self._tell = tell
        self._notice = notice
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._sent: dict[str, Future[bytes]] = {}
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

    async def do(self, boot: Boot) -> None:
        """Have one boot done, and tell its result."""
        self._tell(await self._result(boot))

    async def _result(self, boot: Boot) -> BootResult:
        job = self._files.job(boot)
        lacking = self._lacking.setdefault((boot.host, boot.image.private), {})
        avoided: set[str] = set()
        causes: list[str] = []
        while len(causes) < ATTEMPTS:
            workers = set(self._cluster.able)
            if workers and workers <= lacking.keys():
                # No worker has the host: one of them has said why.
                skipped = lacking[min(workers)]
                return replace(skipped, key=boot.key, attempts=0)
            chosen = (workers - lacking.keys() - avoided) or (workers - lacking.keys())
            answer = await self._answer(job, chosen)
            if isinstance(answer, Refused):
                avoided.add(answer.address)
                causes.append(answer.cause)
                if not answer.is_worth_another:
                    break
            elif answer.result.verdict is Verdict.SKIPPED:
                lacking[answer.address] = answer.result
            else:
                return replace(answer.result, attempts=len(causes) + 1)
        return BootResult(boot.key, Verdict.LOST, causes[-1], attempts=len(causes))

    async def _answer(self, job: Job, workers: set[str]) -> Done | Refused:
        """Have a worker, one of `workers`, do the job; what Dask says of it is no result."""
        cluster = self._cluster
        future = cluster.client.submit(
            boot_on_worker,
            cluster.version,
            job,
            self._file(job.image),
            None if job.initrd is None else self._file(job.initrd),
            # Each its own: equal calls would be one.
            key=f"pyvmm-{self._name}-{next(self._numbers)}-{job.boot.key}",
            pure=False,
            workers=sorted(workers) if workers != cluster.everyone else None,
            resources={RESOURCE: 1} if cluster.has_resource else None,
        )
        try:
            answer = await future.result()
        except CancelledError:  # Not asyncio's: Dask has given the task up.
            if cluster.is_lost:
                raise _lost(cluster, "its scheduler is gone") from None
            return Refused("", "the cluster has forgotten it")
        except Exception as error:  # noqa: BLE001 - whatever a task can end with, told as that
            if type(error).__name__ == "KilledWorker":
                return Refused("", "every worker that tried it died", is_worth_another=False)
            return Refused("", f"{type(error).__name__}: {first_line(error)}")
        finally:
            future.release()
        assert isinstance(answer, (Done, Refused))
        return answer

    def _file(self, digest: str) -> Future[bytes]:
        """A file on the cluster: a task, so that it is made again where it is lost."""
        if digest not in self._sent:
            self._sent[digest] = self._cluster.client.submit(
                kept,
                self._files.contents[digest],
                key=f"pyvmm-file-{self._name}-{digest}",
                pure=False,
                workers=sorted(self._cluster.fit),
                allow_other_workers=True,
            )
        return self._sent[digest]


def _lost(cluster: Cluster, cause: str) -> HostLacksError:
    return HostLacksError(
        f"go on with the matrix on the cluster {cluster.place}",
        cause,
        "what was done is reported; run the rest when it is back",
    )
