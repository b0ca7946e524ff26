# SPDX-License-Identifier: MIT
"""``pyvmm compare DIR --linux``: the machines that Linux finds under pyvmm and QEMU."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.comparing import check_runs, compared, qemu_programs
from pyvmm.cli.output_paths import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    NamedFile,
    refuse_to_overwrite,
)
from pyvmm.compare.subjects import PyvmmHost, QemuAccelerator, QemuMachine
from pyvmm.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pyvmm.cli.ending_signals import EndingSignals
    from pyvmm.compare.linux.report import LinuxReport
    from pyvmm.compare.linux.runs import LinuxRequest

_DIFFERS = 1
_TIMEOUT = 300.0
_MACHINES = (QemuMachine.MICROVM, QemuMachine.Q35)
_COMMAND_LINE_MAX = 1900


def command(options: argparse.Namespace) -> int:
    """Compare, report; 0 where each difference has a reason."""
    from pyvmm.cli.output_files import OutputFiles
    from pyvmm.cli.standard_output import folding_width, print_answer
    from pyvmm.compare.choosing import DEFAULT_QEMU
    from pyvmm.compare.linux.conduct import compare_linux
    from pyvmm.compare.linux.text import to_text

    ending: EndingSignals = options.ending_signals
    _check(options)
    programs = qemu_programs(options.qemu, DEFAULT_QEMU)
    request = _request(options)
    refuse_to_overwrite(_written(options), _read(request))
    ending.hold()
    with ExitStack() as stack:
        outputs = OutputFiles("comparison", ((options.json, _json),), stack)
        machines = options.machine or _MACHINES
        report = compared(partial(compare_linux, request, programs, machines, options.runs), ending)
        try:
            outputs.write(report)
        finally:
            print_answer(to_text(report, folding_width()))
    return ExitCode.OK if report.agrees else _DIFFERS


def _check(options: argparse.Namespace) -> None:
    """Raise `UsageError` for what has no meaning with --linux."""
    refused = {
        "--initrd": options.initrd,
        "--input": options.input,
        "--html": options.html,
        "--host other than kvm": options.host not in {None, (PyvmmHost.KVM,)},
        "--accel other than kvm": options.accel not in {None, (QemuAccelerator.KVM,)},
        "--machine pc": QemuMachine.PC in (options.machine or ()),
    }
    for option, given in refused.items():
        if given:
            raise UsageError(
                f"compare Linux with {option}",
                "its folder has the initrd, and both boot it on KVM",
                "leave it out",
            )
    check_runs(options.runs, 1)


def _request(options: argparse.Namespace) -> LinuxRequest:
    from pyvmm.compare.linux.runs import LinuxRequest
    from pyvmm.machine.config import MachineConfig

    words = str(options.append)
    if "\0" in words or " -- " in f" {words} " or len(words) > _COMMAND_LINE_MAX:
        raise UsageError(
            "put words on the kernel's command line",
            'they have a zero byte or "--", behind which is the command, or are too many',
            "leave that out",
        )
    timeout = _TIMEOUT if options.timeout is None else options.timeout
    MachineConfig(b"", memory=options.memory, cpus=options.cpus, timeout=timeout)
    return LinuxRequest(Path(options.image), words, options.memory, options.cpus, timeout)


def _written(options: argparse.Namespace) -> Iterator[NamedFile]:
    yield STANDARD_OUTPUT
    yield STANDARD_ERROR
    if options.json is not None:
        yield NamedFile("the figures", options.json)


def _read(request: LinuxRequest) -> Iterator[NamedFile]:
    for name in ("vmlinuz", "initrd", "disk"):
        yield NamedFile(f"the guest's {name}", request.folder / name)


def _json(report: LinuxReport) -> str:
    import json

    from pyvmm.compare.linux.json_form import to_json

    return json.dumps(to_json(report), indent=1) + "\n"
