# SPDX-License-Identifier: MIT
"""``pyvmm compare IMAGE``: the same guest under pyvmm and QEMU, side by side."""

from __future__ import annotations

import argparse
import enum
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pyvmm import bundled_guests
from pyvmm.cli.comparing import check_runs, compared, qemu_programs
from pyvmm.cli.ending_signals import EndingSignals
from pyvmm.cli.guest_options import add_guest_arguments, guest_inputs, read_guest
from pyvmm.cli.output_paths import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    NamedFile,
    refuse_to_overwrite,
)
from pyvmm.cli.sizes import parse_count, parse_seconds
from pyvmm.compare.subjects import PyvmmHost, QemuAccelerator, QemuMachine
from pyvmm.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pyvmm.cli.output_files import OutputFiles
    from pyvmm.compare.choosing import Wanted
    from pyvmm.compare.guest_files import GuestRequest
    from pyvmm.compare.report import Report

DIFFERS = 1
_RUNS = 5
_TIMEOUT = 60.0
_TYPED_MAX = 1 << 20
_EPILOG = """\
Ends with 0 where the behaviour agrees (the console's text, how the guest ends, from run to run,
too; differences with a known reason, which docs/compare.md lists, do not count), with 1 where it
does not. Memory map and CPUID are shown and do not count; RAM does for bundled guests only.
With --linux both boot it on KVM, and what it finds of its machine is compared.
Otherwise as pyvmm run: 64 usage; 65 bad image; 66 no such input; 69 no QEMU, or something asked for
does not work on this host; 71 a monitor failed; 130 interrupted.
"""

Choice = TypeVar("Choice", bound=enum.Enum)


def _list_of(kind: type[Choice]) -> Callable[[str], tuple[Choice, ...]]:
    """A parser of ``a,b``: members of `kind` by value, none twice."""

    def parse(text: str) -> tuple[Choice, ...]:
        try:
            return tuple(dict.fromkeys(kind(word) for word in text.split(",")))
        except ValueError:
            values = ", ".join(str(one.value) for one in kind)
            raise argparse.ArgumentTypeError(f"{text!r} is no list of these: {values}") from None

    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _EPILOG
    add_guest_arguments(parser)
    parser.add_argument(
        "--linux", action="store_true",
        help="IMAGE is a folder that pyvmm linux wrote: compare the machines that Linux finds",
    )  # fmt: skip
    parser.add_argument("--cpus", type=parse_count, default=1, metavar="N", help="number of vCPUs")
    parser.add_argument(
        "--runs", type=parse_count, default=_RUNS, metavar="N",
        help=f"timed runs of each, beside the one that is looked at (default: {_RUNS}; 0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--qemu", action="append", metavar="PATH", help="a QEMU; more than once for several"
    )
    parser.add_argument(
        "--accel", type=_list_of(QemuAccelerator), metavar="LIST",
        help="QEMU's accelerators: kvm,tcg (default: those that work here)",
    )  # fmt: skip
    parser.add_argument(
        "--machine", type=_list_of(QemuMachine), metavar="LIST",
        help="QEMU's machines: microvm,pc (default: microvm); with --linux microvm,q35 (both)",
    )  # fmt: skip
    parser.add_argument(
        "--host", type=_list_of(PyvmmHost), metavar="LIST",
        help="pyvmm's hosts: kvm,model (default: those that work here)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=parse_seconds, metavar="SECONDS",
        help=f"end each run after this long (default: {_TIMEOUT:g}; with --linux 300)",
    )  # fmt: skip
    parser.add_argument(
        "--input", type=Path, metavar="FILE",
        help="what comes in on the guest's console (default: nothing, which ends at once)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with pictures there"
    )


def command(options: argparse.Namespace) -> int:
    """Compare, report; 0 where the behaviour agrees."""
    from pyvmm.cli.standard_output import columns, print_answer, unpadded

    if options.linux:
        from pyvmm.cli.compare_linux import command as of_linux

        return of_linux(options)
    ending: EndingSignals = options.ending_signals
    wanted = _wanted(options)
    refuse_to_overwrite(_written(options), _read(options, wanted))
    request = _request(options)
    ending.hold()
    with ExitStack() as stack:
        outputs = _outputs(options, stack)
        report = compared(partial(_work, request, wanted, options.runs), ending)
        from pyvmm.compare.terminal import to_text

        is_terminal = sys.stdout.isatty()
        text = to_text(report, is_terminal=is_terminal, width=columns())
        try:
            outputs.write(report)
        finally:
            # What took so long to find out is not lost with a file.
            print_answer(text if is_terminal else unpadded(text))
    return ExitCode.OK if report.agrees else DIFFERS


async def _work(
    request: GuestRequest, wanted: Wanted, runs: int, tell: Callable[[str, int, int], None]
) -> Report:
    from pyvmm.compare.choosing import choose
    from pyvmm.compare.conduct import compare

    tell("looking what works here", 0, 0)
    subjects, absent = await choose(wanted)
    return await compare(request, subjects, absent, runs, tell)


def _wanted(options: argparse.Namespace) -> Wanted:
    from pyvmm.compare.choosing import DEFAULT_QEMU, Wanted

    check_runs(options.runs, 0)
    programs = qemu_programs(options.qemu, DEFAULT_QEMU)
    machines: tuple[QemuMachine, ...] = options.machine or (QemuMachine.MICROVM,)
    if QemuMachine.Q35 in machines:
        raise UsageError(
            "compare with QEMU's q35", "that is for Linux", "give --linux, or take --machine pc"
        )
    return Wanted(options.host, programs, options.accel, machines)


def _written(options: argparse.Namespace) -> Iterator[NamedFile]:
    yield STANDARD_OUTPUT
    yield STANDARD_ERROR
    for path, role in ((options.json, "the figures"), (options.html, "the page")):
        if path is not None:
            yield NamedFile(role, path)


def _read(options: argparse.Namespace, wanted: Wanted) -> Iterator[NamedFile]:
    import shutil

    yield from guest_inputs(options)
    if options.input is not None:
        yield NamedFile("the guest's input", options.input)
    for program in wanted.programs:
        found = shutil.which(program)
        if found is not None:
            yield NamedFile("the program that is started as QEMU", Path(found))


def _request(options: argparse.Namespace) -> GuestRequest:
    from pyvmm.compare.conduct import check
    from pyvmm.compare.guest_files import GuestRequest
    from pyvmm.machine.config import MachineConfig
    from pyvmm.machine.image_file import read_input

    timeout = _TIMEOUT if options.timeout is None else options.timeout
    # Checked before any file is read.
    MachineConfig(b"", memory=options.memory, cpus=options.cpus, timeout=timeout)
    guest = read_guest(options)
    typed = b"" if options.input is None else read_input(options.input, _TYPED_MAX)
    request = GuestRequest(
        name=guest.name,
        bundled=_bundled(options.image, guest.image),
        image=guest.image,
        command_line=guest.command_line,
        initrd=guest.initrd,
        typed=typed,
        memory=options.memory,
        cpus=options.cpus,
        timeout=timeout,
    )
    check(request)
    return request


def _bundled(name: str, image: bytes) -> str | None:
    """The bundled guest that this is, by its content: a path to one is one, too."""
    found = bundled_guests.find(Path(name).name)
    if found is None or found.path.read_bytes() != image:
        return None
    return found.name


# -- the files --


def _outputs(options: argparse.Namespace, stack: ExitStack) -> OutputFiles[Report]:
    from pyvmm.cli.output_files import OutputFiles

    return OutputFiles("comparison", ((options.json, _json), (options.html, _html)), stack)


def _json(report: Report) -> str:
    import json

    from pyvmm.compare.json_report import to_json

    return json.dumps(to_json(report), indent=1) + "\n"


def _html(report: Report) -> str:
    from pyvmm.compare.html_report import to_html

    return to_html(report)
