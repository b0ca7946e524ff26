# SPDX-License-Identifier: MIT
"""``pyvmm lab selftests``: the KVM selftests of a lab kernel's own source, run in its lab."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.ending_signals import interrupting_signals
from pyvmm.cli.lab_build import parse_jobs
from pyvmm.cli.sizes import parse_count
from pyvmm.cli.standard_error import user_stream
from pyvmm.cli.standard_output import folding_width, print_answer
from pyvmm.errors import ExitCode, HostLacksError
from pyvmm.folded import folded
from pyvmm.lab.selftest_verdicts import SelftestResult, SelftestStatus, choose
from pyvmm.visible import visible

if TYPE_CHECKING:
    from pyvmm.lab.kernel import Kernel
    from pyvmm.lab.kernel.progress import Progress
    from pyvmm.testing.results.tap_results import TapResult, TapStatus

_FAILED = 1
_LIMIT = 120
_LIMIT_MAX = 24 * 3600


@dataclass(frozen=True, slots=True)
class _Report:
    kernel: str
    version: str
    results: Sequence[SelftestResult]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Build the KVM selftests (tools/testing/selftests/kvm) of a lab kernel's own source, with "
        "that source's uapi headers, and run them in a lab of that kernel, one after the other."
    )
    parser.epilog = "Exit status: 0 where none failed, 1 where one failed or hung."
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN",
        help="only those whose name has this in it, or that this glob matches (default: all)",
    )  # fmt: skip
    parser.add_argument("--kernel", metavar="NAME", help="a kernel that pyvmm lab build made")
    parser.add_argument(
        "--limit", type=_limit, default=_LIMIT, metavar="SECONDS",
        help=f"end a test that runs longer (default: {_LIMIT})",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=parse_jobs, metavar="N", help="compilers at a time (default: number of CPUs)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ktap", type=Path, metavar="FILE", help="write the results as KTAP")


def command(options: argparse.Namespace) -> int:
    """Build them, run them, and tell; 1 where one has failed."""
    from pyvmm.cli.output_files import OutputFiles
    from pyvmm.lab.kernel import progress
    from pyvmm.lab.settings import working_directory

    working_directory()  # It is where compilers are started.
    kernel = _kernel(options.kernel)
    with ExitStack() as stack:
        files = OutputFiles("selftests' results", ((options.ktap, _ktap),), stack)
        stack.enter_context(interrupting_signals())
        reporting = stack.enter_context(progress.to_stream(user_stream()))
        report = _Report(kernel.name, kernel.manifest.version, _run(kernel, options, reporting))
        files.write(report)
    table = folded(table_lines(report.results), folding_width())
    print_answer(_json(report) if options.json else table)
    return _FAILED if any(one.status.is_failure for one in report.results) else ExitCode.OK


def _kernel(name: str | None) -> Kernel:
    from pyvmm.lab import kernel

    if name is not None and "/" in name:
        raise HostLacksError(
            f"run the selftests of {name}",
            "the source of a kernel in a file is not known",
            "name one that pyvmm lab build has made (pyvmm lab status)",
        )
    return kernel.find(name)


def _run(kernel: Kernel, options: argparse.Namespace, progress: Progress) -> list[SelftestResult]:
    from pyvmm.lab.kernel.building import default_jobs
    from pyvmm.lab.kernel.cache import Cache, default_root
    from pyvmm.lab.kernel.selftests import build_selftests, require_seen
    from pyvmm.lab.selftest_run import SelftestRun

    cache = Cache(default_root())
    require_seen(cache, f"run the selftests of {kernel.name}")
    built = build_selftests(
        kernel,
        partial(choose, pattern=options.pattern),
        cache,
        options.jobs or default_jobs(),
        progress,
    )
    results = []
    count = len(built.names)
    with (
        progress.stage("running selftests", count, "tests") as stage,
        SelftestRun(kernel.path, built.folder, options.limit) as run,
    ):
        for done, name in enumerate(built.names, 1):
            result = run.run(name)
            results.append(result)
            progress.say(f"{done} of {count}: {name} {result.status.value}, {result.seconds:.1f} s")
            stage.reach(done)
    return results


def table_lines(results: Sequence[SelftestResult]) -> Iterator[str]:
    """A line for each, a second one with the reason where it has not passed, and the sums."""
    width = max(len(status.value) for status in SelftestStatus)
    for one in results:
        yield visible(f"{one.status.value:{width}}  {one.seconds:6.1f} s  {one.name}")
        if one.reason:
            yield visible(f"    {one.reason}")
    counts = Counter(one.status for one in results)
    told = [
        f"{counts[status]} {status.value}"
        for status in SelftestStatus
        if counts[status] or status in (SelftestStatus.PASSED, SelftestStatus.FAILED)
    ]
    yield ", ".join(told)


def _json(report: _Report) -> str:
    results = [
        {
            "name": one.name,
            "status": one.status.name.lower(),
            "reason": one.reason,
            "seconds": round(one.seconds, 3),
        }
        for one in report.results
    ]
    told = {"kernel": report.kernel, "version": report.version, "results": results}
    return json.dumps(told, indent=2)


def _ktap(report: _Report) -> str:
    from pyvmm.testing.results.ktap_document import ktap_document

    return ktap_document(tap_results(report.results))


def tap_results(results: Sequence[SelftestResult]) -> list[TapResult]:
    """Results for KTAP: of each test, and before it of those that it has told of by KTAP itself."""
    from pyvmm.testing.results.tap_results import TapResult
    from pyvmm.testing.results.verdicts import read_results

    told = []
    for one in results:
        status = _tap_status(one.status)
        said = "".join(f"{line}\n" for line in one.lines)
        told += [
            TapResult((one.name, *below.path), below.status, below.reason, below.lines)
            for below in read_results(said.encode()).results
        ]
        told.append(TapResult((one.name,), status, one.reason, one.lines))
    return told


def _tap_status(status: SelftestStatus) -> TapStatus:
    from pyvmm.testing.results.tap_results import TapStatus

    return {
        SelftestStatus.PASSED: TapStatus.PASSED,
        SelftestStatus.SKIPPED: TapStatus.SKIPPED,
        SelftestStatus.FAILED: TapStatus.FAILED,
        SelftestStatus.HUNG: TapStatus.CRASHED,
        SelftestStatus.LAB_FAILED: TapStatus.CRASHED,
    }[status]


def _limit(text: str) -> int:
    if not 1 <= parse_count(text) <= _LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_LIMIT_MAX}")
    return parse_count(text)
