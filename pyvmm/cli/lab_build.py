# SPDX-License-Identifier: MIT
"""``pyvmm lab build``: a kernel for the lab, into the cache."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.ending_signals import interrupting_signals
from pyvmm.cli.sizes import parse_count
from pyvmm.cli.standard_error import user_stream
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode, UsageError
from pyvmm.visible import visible

if TYPE_CHECKING:
    from pyvmm.lab.kernel.building import Prove
    from pyvmm.lab.kernel.manifest import Kernel
    from pyvmm.lab.kernel.own_tree import OwnTree
    from pyvmm.lab.kernel.progress import Progress

_JOBS_MAX = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Build a kernel for the lab, once: it is kept in the cache and found again by its name."
    )
    parser.epilog = "An interrupted build goes on with the next call."
    parser.add_argument(
        "--kernel",
        metavar="NAME|FILE",
        help="a series that Debian has the source of (7.3, 6.12; default: 7.3), or the file of a "
        "kernel to use as it is",
    )
    parser.add_argument(
        "--with", dest="change", metavar="CHANGE",
        help="make this change to the source, and call the kernel so (docs/lab.md)",
    )  # fmt: skip
    parser.add_argument(
        "--source", type=Path, metavar="DIR|TARBALL",
        help="a kernel's source, instead of Debian's: of a folder, which is only read, what has "
        "changed since last time is compiled",
    )  # fmt: skip
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="the kernel's name, with --source DIR (default: the folder's)",
    )
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="FILE",
        help="options on top of the lab's own (a fragment of a .config), with --source DIR; may be "
        "repeated",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=parse_jobs, metavar="N", help="compilers at a time (default: number of CPUs)"
    )
    parser.add_argument(
        "--again", action="store_true", help="look for a newer source though a kernel is there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")


def command(options: argparse.Namespace) -> int:
    """Build, or find that it is built, and say where the kernel is."""
    from pyvmm.lab.kernel import progress
    from pyvmm.lab.settings import working_directory

    working_directory()  # It is where compilers are started.
    with interrupting_signals(), progress.to_stream(user_stream()) as reporting:
        kernel = _kernel(options, reporting)
    path = visible(str(kernel.path))
    if options.json:
        print_answer(json.dumps({"path": path, **asdict(kernel.manifest)}, indent=2))
    else:
        print_answer(visible(f"{kernel.name}  Linux {kernel.manifest.version}  ") + path)
    return ExitCode.OK


def _kernel(options: argparse.Namespace, progress: Progress) -> Kernel:
    from pyvmm.lab.kernel import building, known_changes
    from pyvmm.lab.kernel.cache import Cache, default_root

    change = None if options.change is None else known_changes.named(options.change)
    cache = Cache(default_root())
    named = options.kernel
    if named in known_changes.names():
        raise UsageError(
            "build a lab kernel", f"{named} is a kernel with a change", f"build it --with {named}"
        )
    if named is not None and ("/" in named or os.path.lexists(named)):
        for option, value in (("--source", options.source), ("--with", change)):
            if value is not None:
                raise UsageError(
                    "build a lab kernel", "--kernel names a file, so there is nothing to compile",
                    f"leave out {option}",
                )  # fmt: skip
        return building.take_over(Path(named), cache, progress, _proof())
    request = building.BuildRequest(
        jobs=options.jobs or building.default_jobs(),
        name=named,
        source=options.source,
        again=options.again,
        change=change,
    )
    if options.source is not None and options.source.is_dir():
        request = replace(request, source=None, own=_own_tree(options))
    elif options.name is not None or options.config:
        raise UsageError(
            "build a lab kernel", "--name and --config are for the source in a folder",
            "name one with --source",
        )  # fmt: skip
    return building.build(request, cache, progress)


def _own_tree(options: argparse.Namespace) -> OwnTree:
    from pyvmm.lab.kernel.configuration import read_fragment
    from pyvmm.lab.kernel.own_tree import own_tree

    for option, value, remedy in (
        ("--with", options.change, "name a tarball, or leave it out"),
        ("--kernel", options.kernel, "call its kernel by --name"),
    ):
        if value is not None:
            raise UsageError(
                "build a lab kernel", f"{option} does not go with the source in a folder", remedy
            )
    return own_tree(options.source, options.name, tuple(map(read_fragment, options.config)))


def _proof() -> Prove | None:
    if find_spec("pyvmm.lab.prove") is None:
        return None
    from importlib import import_module

    prove: Prove = import_module("pyvmm.lab.prove").prove
    return prove


def parse_jobs(text: str) -> int:
    """Read a number of compilers at a time."""
    if not 1 <= parse_count(text) <= _JOBS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_JOBS_MAX}")
    return parse_count(text)
