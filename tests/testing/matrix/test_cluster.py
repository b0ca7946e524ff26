# SPDX-License-Identifier: MIT
"""The boots of a matrix on a Dask cluster: none is lost or counted twice, whatever dies meanwhile.

The cluster is one of processes on this machine; what boots in them is told by `fake_boots`, but for
the tests of the command.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from distributed import Client, LocalCluster, WorkerPlugin

from pyvmm.cli.main import main
from pyvmm.errors import HostLacksError
from pyvmm.testing.matrix import running_on_cluster
from pyvmm.testing.matrix.asyncio_thread import in_asyncio
from pyvmm.testing.matrix.cluster import Cluster, connected, scheduler_address, with_workers
from pyvmm.testing.matrix.cluster_worker import Facts, facts_of
from pyvmm.testing.matrix.jobs import Job
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict
from pyvmm.testing.matrix.running_on_cluster import run_on_cluster
from tests.cli.command import until
from tests.testing.matrix.test_running_here import image, is_running, planned

pytestmark = pytest.mark.slow

WORKERS = 3
"""As many as boots have attempts: one that kills its worker each time meets no worker twice."""
VERSION = importlib.metadata.version("pyvmm")
QUESTIONS = 3
"""That are asked of each worker before it is fit: for versions; it is asked for its facts then."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three workers, each a process of its own that has room for one boot."""
    with LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=2,
        processes=True,
        resources={"vm": 1},
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as made:
        yield made


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Any]:
    """A client of the test's own, to look at workers and change them; all are there."""
    with Client(cluster.scheduler_address, set_as_default=False) as made:

        def are_there() -> bool:
            # Who starts a worker again gives up where that is killed before it has quite begun.
            cluster.scale(WORKERS)
            return len(made.nthreads()) == WORKERS

        until(are_there, "all workers are there again")
        yield made


@pytest.fixture
def fakes(client: Any) -> None:
    """Let workers boot what `fake_boots` does, those that come later, too."""
    client.register_plugin(_Fakes(), name="fakes")


class _Fakes(WorkerPlugin):  # type: ignore[misc] # distributed has no types for us
    """A plugin of workers."""

    def setup(self, worker: object) -> None:
        from pyvmm.testing.matrix import cluster_worker
        from tests.testing.matrix import fake_boots

        vars(cluster_worker)["boot_command"] = fake_boots.command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "an.img").write_bytes(b"image of a guest")
    return tmp_path


class Ran:
    """A run on a cluster: its boots, its results, what was said besides."""

    def __init__(self, text: str, folder: Path) -> None:
        self.boots, self.files = planned(text, folder)
        self.results: list[BootResult] = []
        self.notices: list[str] = []

    async def on(
        self, place: str, tell: Callable[[BootResult], None] | None = None, **options: float
    ) -> None:
        async def there() -> None:
            async with connected(place) as reached:
                await with_workers(reached, 120)
                await run_on_cluster(
                    reached,
                    self.boots,
                    self.files,
                    tell or self.results.append,
                    self.notices.append,
                    **options,
                )

        await in_asyncio(there)

    def verdicts(self) -> dict[str, tuple[Verdict, int]]:
        """By the image's name; each boot has one result."""
        assert Counter(one.key for one in self.results) == Counter(one.key for one in self.boots)
        return {one.key.partition("/")[0]: (one.verdict, one.attempts) for one in self.results}


def run(text: str, folder: Path, cluster: LocalCluster) -> Ran:
    ran = Ran("hosts = 'kvm'\n" + text, folder)
    trio.run(ran.on, cluster.scheduler_address)
    return ran


def pids(log: Path) -> dict[str, list[int]]:
    """Processes that did each boot, in their order, by the image's name."""
    found: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        key, pid = line.split()
        found.setdefault(key.partition("/")[0], []).append(int(pid))
    return found


def test_each_boot_is_done_once_and_all_workers_do_some(
    cluster: LocalCluster, fakes: None, folder: Path
) -> None:
    log = folder / "log"
    ran = run("memory = ['2M', '3M', '4M', '5M']\n" + image("a", f"count {log}"), folder, cluster)
    assert ran.verdicts() == {"a": (Verdict.PASSED, 1)}
    assert {one.console for one in ran.results} == {b"imag"}
    assert len({one.place for one in ran.results}) == WORKERS
    assert len(pids(log)["a"]) == 4
    until(lambda: not any(map(is_running, pids(log)["a"])), "boots end with the run")


def test_a_worker_that_is_killed_loses_no_boot(
    cluster: LocalCluster, fakes: None, folder: Path
) -> None:
    text = "".join(image(f"i{number}", f"count {folder / 'log'}") for number in range(4))
    text = image("a", f"kill {folder / 'killed'} 1") + text
    ran = run(text, folder, cluster)
    verdicts = ran.verdicts()
    assert verdicts["a"] == (Verdict.PASSED, 2)
    assert {verdict for verdict, _ in verdicts.values()} == {Verdict.PASSED}
    assert len(pids(folder / "killed")["a"]) == 2
    killed = pids(folder / "killed")["a"]
    until(lambda: not any(map(is_running, killed)), "the boot of a killed worker dies with it")
    assert set(pids(folder / "log")) == {"i0", "i1", "i2", "i3"}


def test_a_boot_that_kills_every_worker_is_lost_and_the_others_are_done(
    cluster: LocalCluster, fakes: None, folder: Path
) -> None:
    text = image("a", f"kill {folder / 'killed'} 99") + image("b", f"count {folder / 'log'}")
    ran = run(text, folder, cluster)
    lost = next(one for one in ran.results if one.key.startswith("a/"))
    assert (lost.verdict, lost.attempts) == (Verdict.LOST, 3)
    assert lost.reason.startswith("worker tcp://")
    assert ran.verdicts()["b"][0] is Verdict.PASSED
    assert len(pids(folder / "killed")["a"]) == 3


def test_a_boot_whose_process_dies_is_done_again(
    cluster: LocalCluster, fakes: None, folder: Path
) -> None:
    log = folder / "log"
    ran = run(image("a", f"die {log} 1") + image("b", f"die {log}2 99"), folder, cluster)
    assert ran.verdicts() == {"a": (Verdict.PASSED, 2), "b": (Verdict.LOST, 3)}
    assert [one.reason for one in ran.results if one.key.startswith("b/")] == [
        "its process was ended by SIGKILL: it dies"
    ]


def test_a_boot_goes_to_a_worker_that_has_its_host(
    cluster: LocalCluster, client: Any, fakes: None, folder: Path
) -> None:
    one, *_ = client.run(os.getpid).values()
    (folder / "pid").write_text(str(one))
    text = "memory = ['2M', '3M']\n" + image("a", f"only {folder / 'pid'}")
    ran = run(text, folder, cluster)
    assert set(ran.verdicts().values()) == {(Verdict.PASSED, 1)}
    assert len({each.place for each in ran.results}) == 1
    (folder / "pid").write_text("0")
    ran = run(text, folder, cluster)
    assert {each.verdict for each in ran.results} == {Verdict.SKIPPED}
    assert len(ran.results) == 2


def test_a_worker_that_turns_out_to_have_another_version_is_avoided(
    cluster: LocalCluster, client: Any, fakes: None, folder: Path
) -> None:
    address, *_ = client.run(os.getpid)
    client.run(_pretend_in_tasks, "9.9", workers=[address])
    try:
        ran = run("memory = ['2M', '3M', '4M']\n" + image("a", ""), folder, cluster)
    finally:
        client.run(_pretend_in_tasks, VERSION, workers=[address])
    assert {one.verdict for one in ran.results} == {Verdict.PASSED}
    assert max(one.attempts for one in ran.results) == 2
    assert len({one.place for one in ran.results}) < WORKERS


def _pretend_in_tasks(number: str) -> None:
    from pyvmm.testing.matrix import cluster_worker

    vars(cluster_worker)["version"] = lambda _: number


def test_a_cancellation_ends_what_runs_on_the_workers(
    cluster: LocalCluster, fakes: None, folder: Path
) -> None:
    log = folder / "log"
    ran = Ran("hosts = 'kvm'\n" + image("a", "") + image("b", f"hang {log}"), folder)

    async def cancelled() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ran.on, cluster.scheduler_address)
            while not (ran.results and log.exists() and log.read_text().endswith("\n")):
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    trio.run(cancelled)
    assert [one.key for one in ran.results] == ["a/64M-1cpu-kvm"]
    (pid,) = pids(log)["b"]
    until(lambda: not is_running(pid), "the worker ends what nobody wants any more")


# -- clusters that cannot be used --


def pretend(number: str) -> None:
    """Be a worker with that version of pyvmm."""
    real = importlib.metadata.Distribution

    def version(name: str) -> str:
        return number if name == "pyvmm" else real.from_name(name).version

    vars(importlib.metadata)["version"] = version


MATRIX = "hosts = 'model'\nmemory = '16M'\n[[image]]\npath = 'exit'\n"


def test_a_worker_with_another_pyvmm_is_refused_by_the_command(
    cluster: LocalCluster, client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.toml").write_text(MATRIX)
    address, *_ = client.run(os.getpid)
    client.run(pretend, "9.9", workers=[address])
    try:
        code = main(["matrix", str(tmp_path / "m.toml"), "--cluster", cluster.scheduler_address])
    finally:
        client.run(pretend, VERSION, workers=[address])
    assert code == 69
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        f"pyvmm: cannot boot on the cluster {cluster.scheduler_address}: {address} has pyvmm 9.9, "
        f"not {VERSION}; install pyvmm {VERSION} there, with the same Python and distributed, and "
        "start these workers again"
    )


def test_the_command_boots_guests_there(
    cluster: LocalCluster, client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client.run(_no_fakes)
    (tmp_path / "m.toml").write_text(
        MATRIX.replace("'16M'", "['16M', '32M']")
        + "append = '9'\nexpect = { status = 9 }\n[[image]]\npath = 'panic'\n"
    )
    arguments = ["--cluster", cluster.scheduler_address, "--artifacts", str(tmp_path / "all")]
    assert main(["matrix", str(tmp_path / "m.toml"), *arguments]) == 1
    out = " ".join(capfd.readouterr().out.split())
    assert f" on the cluster {cluster.scheduler_address}, 3 workers, 3 at a time: " in out
    assert out.endswith("2 passed, 2 FAILED")
    said = tmp_path / "all" / "panic" / "32M-1cpu-model" / "console.log"
    assert said.read_bytes()


def _no_fakes() -> None:
    from pyvmm.testing.matrix import cluster_worker, processes

    vars(cluster_worker)["boot_command"] = processes.boot_command


def test_a_cluster_without_workers() -> None:
    ran = []

    async def there() -> None:
        async with LocalCluster(
            n_workers=0, dashboard_address=":0", asynchronous=True, processes=True
        ) as made:
            async with connected(made.scheduler_address) as reached:
                with pytest.raises(HostLacksError) as caught:
                    await with_workers(reached, 0.1)
            ran.append(str(caught.value))

    trio.run(in_asyncio, there)
    (said,) = ran
    assert "it has had no workers for 0.1 s; start some: dask worker tcp://" in said


def unreachable(place: str) -> str:
    async def there() -> None:
        async with connected(place, 0.2):
            raise AssertionError("it is connected")

    with pytest.raises(HostLacksError) as caught:
        trio.run(in_asyncio, there)
    return str(caught.value)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = unreachable(place)
    assert said == (
        f"cannot reach the cluster {place}: no Dask scheduler answered within 0.2 s; see that dask "
        "scheduler runs there, and that this machine may connect to it"
    )


def test_somebody_there_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = unreachable(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert "no Dask scheduler answered within 0.2 s" in said


def test_an_address_of_another_kind() -> None:
    assert "does not answer as a Dask scheduler does (unknown address scheme" in unreachable(
        "x://y:1"
    )


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "Dask distributed is not installed" in (said := unreachable("tcp://127.0.0.1:1"))
    assert said.endswith("; pip install 'pyvmm[cluster]'")


def test_addresses(tmp_path: Path) -> None:
    assert scheduler_address("tcp://a:8786") == "tcp://a:8786"
    assert scheduler_address("tls://[::1]:1") == "tls://[::1]:1"
    assert scheduler_address("a:8786") == "tcp://a:8786"
    (tmp_path / "s.json").write_text('{"address": "tcp://b:1", "id": "x"}')
    assert scheduler_address(str(tmp_path / "s.json")) == "tcp://b:1"


def test_who_may_boot_and_how_many_at_a_time() -> None:
    class Connected:
        status = "running"

    made = Cluster(Connected(), "x")
    made.fit = {"a": Facts(4, 0), "b": Facts(2, 0)}
    assert made.able == {"a": 4, "b": 2}
    made.fit["c"] = Facts(8, 3)
    assert (made.able, made.slots) == ({"c": 3}, 3)


class FakeClient:
    """A client of one worker, `answers` of which come one after another."""

    status = "running"

    def __init__(self, *answers: object) -> None:
        self.answers = [*answers]

    async def nthreads(self) -> dict[str, int]:
        return {"a": 1}

    async def run(self, function: Callable[..., object], *arguments: object, **_: object) -> Any:
        if self.answers:
            return {"a": self.answers.pop(0)}
        return {"a": Facts(1, 0) if function is facts_of else function(*arguments)}


@pytest.mark.parametrize("count", range(4))
def test_a_worker_that_does_not_answer_once_is_asked_again(count: int) -> None:
    """Be it the question for pyvmm's version, Python's, distributed's, or for its facts."""
    answers = [VERSION, platform.python_version(), importlib.metadata.version("distributed")]
    made = Cluster(FakeClient(*answers[:count], OSError("gone")), "x")
    asyncio.run(made.look())
    assert (made.fit, made.unfit, made.silent) == ({}, {}, {"a": "gone"})
    asyncio.run(made.look())
    assert (made.fit, made.unfit, made.silent) == ({"a": Facts(1, 0)}, {}, {})


class Falling(FakeClient):
    """A client whose worker falls silent; then an hour goes by."""

    async def run(self, function: Callable[..., object], *arguments: object, **_: object) -> Any:
        if self.answers:
            return await super().run(function, *arguments)
        loop = asyncio.get_running_loop()
        later = loop.time() + 3600
        vars(loop)["time"] = lambda: later
        return await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([OSError("gone")] * (2 * QUESTIONS), "gone"),
        ([OSError("gone")] * QUESTIONS, "gone"),
        ([OSError("gone")] * (QUESTIONS - 1), "gone"),
        ([], "nothing"),
    ],
    ids=["each time", "then not at all", "in part", "never"],
)
def test_workers_that_never_answer_are_told_as_that(answers: list[object], said: str) -> None:
    made = Cluster(Falling(*answers), "x")
    with pytest.raises(HostLacksError, match=rf"a has not answered for 600 s \({said}\); start"):
        asyncio.run(with_workers(made, 600))


def test_what_is_done_is_told_where_another_has_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots, files = planned("hosts = 'kvm'\n" + "".join(image(x, "") for x in "abcd"), folder)
    made = Cluster(FakeClient(), "x")
    made.fit = {"here": Facts(4, 0)}
    told: list[BootResult] = []

    async def result(_: object, boot: Boot) -> BootResult:
        if boot.image.name in "bd":
            raise HostLacksError("boot", boot.image.name)
        return BootResult(boot.key, Verdict.PASSED)

    monkeypatch.setattr(running_on_cluster._Run, "result", result)
    with pytest.raises(HostLacksError):
        asyncio.run(run_on_cluster(made, boots, files, told.append, print))
    assert sorted(one.key[0] for one in told) == ["a", "c"]


def test_a_worker_is_known_by_the_address_that_it_was_asked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots, files = planned("hosts = 'kvm'\n" + image("a", ""), folder)
    made = Cluster(FakeClient(), "x")
    made.fit = {"here": Facts(1, 0), "there": Facts(1, 0)}
    asked: list[str] = []

    async def answer(_: object, job: Job, worker: str) -> BootResult:
        asked.append(worker)
        return BootResult(job.boot.key, Verdict.SKIPPED, place="known by another name")

    monkeypatch.setattr(running_on_cluster._Run, "_answer", answer)
    told: list[BootResult] = []
    asyncio.run(run_on_cluster(made, boots, files, told.append, print))
    assert sorted(asked) == ["here", "there"]
    assert [one.verdict for one in told] == [Verdict.SKIPPED]
