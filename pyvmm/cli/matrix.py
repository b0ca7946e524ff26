# SPDX-License-Identifier: MIT
"""``pyvmm matrix FILE``: boots images by memory, CPUs and hosts, and says what became of each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.ending_signals import EndingSignals, ending_signals
from pyvmm.cli.output_paths import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    NamedFile,
    refuse_to_overwrite,
)
from pyvmm.cli.sizes import parse_count
from pyvmm.errors import ExitCode, HostLacksError, UsageError

if TYPE_CHECKING:
    import trio

    from pyvmm.cli.output_files import OutputFiles
    from pyvmm.testing.drivers.monitors import HostName
    from pyvmm.testing.matrix.jobs import ImageFiles
    from pyvmm.testing.matrix.plan import Boot, Matrix
    from pyvmm.testing.matrix.results import BootResult
    from pyvmm.testing.matrix.summary import Summary

NOT_AS_EXPECTED = 1
_LIMIT = 1000
_JOBS_MAX = 1024
_FILE_MAX = 1 << 20
_EPILOG = """\
The file is described in docs/matrix.md. Ends with 0 where each boot did what was expected of it, or
was skipped because its host is not here; with 1 where one did not, or could not be done at all;
with 69 where none could run. Otherwise 64 usage, and mistakes in the file; 66 no such input;
69 a cluster that cannot be used; 71 a file cannot be written; 130 interrupted.
"""


def _host(text: str) -> HostName:
    from pyvmm.testing.drivers.monitors import HostName

    hosts = {host.value: host for host in HostName if host is not HostName.AUTO}
    if text not in hosts:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(hosts)}")
    return hosts[text]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="the matrix, in TOML")
    parser.add_argument(
        "--list", action="store_true", help="print the boots, one a line, and do none"
    )
    parser.add_argument(
        "--only", action="append", metavar="BOOT",
        help="do these boots only, as --list prints them; * stands for anything; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=parse_count, metavar="N",
        help="boots at a time on this machine (default: one for each CPU)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=parse_count, default=_LIMIT, metavar="N",
        help=f"refuse a matrix of more combinations (default: {_LIMIT})",
    )  # fmt: skip
    parser.add_argument(
        "--require", action="append", type=_host, default=[], metavar="HOST",
        help="fail boots that are skipped on this host; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", metavar="ADDRESS",
        help="boot on the workers of a Dask cluster: tcp://host:8786, or its scheduler's file",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of it")
    parser.add_argument(
        "--artifacts", type=Path, metavar="DIR",
        help="write what each boot said, and its result, into folders there",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Boot all of it, report; 0 where each boot did what was expected."""
    from pyvmm.cli.standard_output import print_answer

    ending: EndingSignals = options.ending_signals
    matrix, boots = _planned(options)
    if options.list:
        print_answer("\n".join(boot.key for boot in boots))
        return ExitCode.OK
    files = _files(options, matrix)
    refuse_to_overwrite(_written(options), _read(options, files))
    if options.cluster is not None:
        from pyvmm.testing.matrix.cluster import scheduler_address

        options.cluster = scheduler_address(options.cluster)
    ending.hold()
    with ExitStack() as stack:
        outputs = _outputs(options, stack)
        run = _Run(options, boots, files)
        failure = run.done(ending)
        summary = run.summary()
        if failure is None or run.has_begun:
            _report(summary, outputs)
    if failure is not None:
        raise failure
    if run.artifacts is not None and run.artifacts.failure is not None:
        raise run.artifacts.failure
    if not any(one.verdict.is_run for one in summary.results) and summary.is_as_expected:
        raise HostLacksError(
            f"boot the matrix {options.file}",
            "none of its boots could run",
            "give it a host that is here (pyvmm doctor)",
        )
    return ExitCode.OK if summary.is_as_expected else NOT_AS_EXPECTED


# -- before anything is booted --


def _planned(options: argparse.Namespace) -> tuple[Matrix, list[Boot]]:
    from pyvmm.machine.image_file import read_input
    from pyvmm.testing.matrix.matrix_file import parse_matrix
    from pyvmm.testing.matrix.plan import check_limit

    if options.jobs is not None and not 1 <= options.jobs <= _JOBS_MAX:
        raise UsageError(
            f"boot {options.jobs} guests at a time", "that cannot be", f"give 1 to {_JOBS_MAX}"
        )
    if options.limit < 1:
        raise UsageError(f"boot up to {options.limit} guests", "that is none", "give 1 or more")
    name = str(options.file)
    content = read_input(options.file, _FILE_MAX, "a matrix file may be")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"read the matrix {name}", f"it is no UTF-8 (byte {error.start})", "save it as that"
        ) from None
    matrix = parse_matrix(text, name)
    check_limit(matrix, name, options.limit)
    boots = list(matrix.boots())
    if not boots:
        raise UsageError(
            f"boot the matrix {name}", "every combination is excluded", "exclude fewer"
        )
    _check_required(options.require, boots, name)
    if options.only:
        boots = [one for one in boots if any(fnmatchcase(one.key, each) for each in options.only)]
        if not boots:
            raise UsageError(
                f"boot {' '.join(options.only)}",
                f"{name} has no such boot",
                f"pyvmm matrix --list {name} prints those that it has",
            )
    return matrix, boots


def _check_required(hosts: list[HostName], boots: list[Boot], name: str) -> None:
    """See that each host that is required has a boot, lest none be taken for a good one."""
    there = {boot.host for boot in boots}
    for host in hosts:
        if host not in there:
            raise UsageError(
                f"require {host.value}",
                f"no boot of {name} is on it",
                "add it to the hosts there, or leave out --require",
            )


def _files(options: argparse.Namespace, matrix: Matrix) -> ImageFiles:
    from pyvmm.testing.matrix.jobs import ImageFiles

    files = ImageFiles()
    files.read(matrix, options.file.parent)
    return files


def _written(options: argparse.Namespace) -> Iterator[NamedFile]:
    yield STANDARD_OUTPUT
    yield STANDARD_ERROR
    for path, role in ((options.json, "the results"), (options.html, "the page")):
        if path is not None:
            yield NamedFile(role, path)


def _read(options: argparse.Namespace, files: ImageFiles) -> Iterator[NamedFile]:
    yield NamedFile("the matrix", options.file)
    for path in files.paths:
        yield NamedFile("an image or initial RAM disk of the matrix", path)


# -- running --


class _Run:
    """The boots of one command, and what has become of them so far."""

    def __init__(self, options: argparse.Namespace, boots: list[Boot], files: ImageFiles) -> None:
        import time

        from pyvmm.cli.progress import Progress
        from pyvmm.testing.matrix.artifact_files import ArtifactFolder

        self._options = options
        self._boots = boots
        self._files = files
        self._results: list[BootResult] = []
        self._progress = Progress()
        self._now: Callable[[], float] = time.monotonic
        self._begun = self._now()
        self._place = ""
        self.artifacts = None if options.artifacts is None else ArtifactFolder(options.artifacts)

    @property
    def has_begun(self) -> bool:
        """True once there is a result."""
        return bool(self._results)

    def summary(self) -> Summary:
        """All that is known now."""
        from pyvmm.testing.matrix.summary import summarise

        seconds = self._now() - self._begun
        return summarise(str(self._options.file), self._place, seconds, self._boots, self._results)

    def done(self, ending: EndingSignals) -> BaseException | None:
        """Do the boots; the error that ended it before all were done, if any."""
        import trio

        try:
            trio.run(self._until_over, ending)
        except (Exception, KeyboardInterrupt) as failure:  # noqa: BLE001 - raised, after the report
            return failure
        finally:
            self._progress.done()
        return None

    def _tell(self, result: BootResult) -> None:
        from pyvmm.testing.matrix.results import Verdict

        host = result.key.rpartition("cpu-")[2]
        if result.verdict is Verdict.SKIPPED and host in {
            one.value for one in self._options.require
        }:
            result = replace(
                result, verdict=Verdict.FAILED, reason=f"{host} is required: {result.reason}"
            )
        self._results.append(result)
        if self.artifacts is not None:
            self.artifacts.write(result)
        self._progress.tell("boots", len(self._results), len(self._boots))

    async def _until_over(self, ending: EndingSignals) -> None:
        import trio

        from pyvmm.cli.taken_signals import taken_signals

        failure: Exception | None = None
        interrupted: list[int] = []
        with taken_signals(*ending_signals()) as signals:
            ending.raise_held()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, signals, interrupted, nursery.cancel_scope)
                try:
                    await self._boot_all()
                except Exception as error:  # noqa: BLE001 - raised below, without a group
                    failure = error
                nursery.cancel_scope.cancel()
        if interrupted:
            raise KeyboardInterrupt(
                f"interrupted by {signal.Signals(interrupted[0]).name} after "
                f"{len(self._results)} of {len(self._boots)} boots"
            )
        if failure is not None:
            raise failure

    async def _boot_all(self) -> None:
        if self._options.cluster is not None:
            await self._boot_on_cluster(self._options.cluster)
            return
        import os

        from pyvmm.testing.matrix.running_here import run_here

        jobs = self._options.jobs or len(os.sched_getaffinity(0))
        self._place = f"this machine, {jobs} at a time"
        await run_here(self._boots, self._files, jobs, self._tell)

    async def _boot_on_cluster(self, address: str) -> None:
        from pyvmm.cli.standard_error import say_to_user
        from pyvmm.testing.matrix.asyncio_thread import in_asyncio
        from pyvmm.testing.matrix.cluster import connected, with_workers
        from pyvmm.testing.matrix.running_on_cluster import run_on_cluster

        self._place = f"the cluster {address}"

        async def there() -> None:
            self._progress.tell("connecting to the cluster")
            async with connected(address) as cluster:
                await with_workers(cluster)
                count = len(cluster.able)
                workers = "1 worker" if count == 1 else f"{count} workers"
                self._place = f"the cluster {address}, {workers}, {cluster.slots} at a time"
                await run_on_cluster(cluster, self._boots, self._files, self._tell, say_to_user)

        await in_asyncio(there)


async def _watch(signals: AsyncIterator[int], seen: list[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        seen.append(number)
        scope.cancel()


# -- the report --


def _report(summary: Summary, outputs: OutputFiles[Summary]) -> None:
    from pyvmm.cli.standard_output import columns, print_answer, unpadded
    from pyvmm.testing.matrix.terminal import to_text

    is_terminal = sys.stdout.isatty()
    text = to_text(summary, is_terminal=is_terminal, width=columns())
    try:
        outputs.write(summary)
    finally:
        # What took so long to find out is not lost with a file.
        print_answer(text if is_terminal else unpadded(text))


def _outputs(options: argparse.Namespace, stack: ExitStack) -> OutputFiles[Summary]:
    from pyvmm.cli.output_files import OutputFiles

    return OutputFiles("results", ((options.json, _json), (options.html, _html)), stack)


def _json(summary: Summary) -> str:
    import json

    from pyvmm.testing.matrix.json_report import to_json

    return json.dumps(to_json(summary), indent=1) + "\n"


def _html(summary: Summary) -> str:
    from pyvmm.testing.matrix.html_report import to_html

    return to_html(summary)
