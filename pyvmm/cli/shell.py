# SPDX-License-Identifier: MIT
"""``pyvmm shell [SCRIPT]``: a host, a VM, its memory and a vCPU at hand."""

from __future__ import annotations

import argparse
import sys

from pyvmm.cli.sizes import parse_size
from pyvmm.errors import ExitCode, UsageError
from pyvmm.machine.config import HostChoice
from pyvmm.memory.backing import PrivateBacking
from pyvmm.shell.bench import DEFAULT_SIZE, Bench, open_bench
from pyvmm.shell.desk import Desk, ShowMap
from pyvmm.shell.script import STDIN, exit_code, read_script, run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = (
        "At hand are system, vm, memory and vcpu, and the kernel's names of flags and capabilities "
        "(docs/shell.md). Without SCRIPT and a terminal, standard input is the script."
    )
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="run this file of commands")
    parser.add_argument(
        "script_arguments", nargs=argparse.REMAINDER, metavar="...", help="its own, in sys.argv"
    )
    parser.add_argument(
        "--host", choices=[*(one.value for one in HostChoice), "lab"],
        default=HostChoice.AUTO.value,
        help="KVM, or the model, which needs none (default: KVM where it works); lab: in there",
    )  # fmt: skip
    parser.add_argument(
        "-m", "--memory", type=parse_size, default=DEFAULT_SIZE, metavar="SIZE",
        help="RAM of the VM (default: 2M)",
    )  # fmt: skip
    parser.add_argument(
        "--plain", action="store_true", help="Python's own prompt, also where IPython is installed"
    )
    parser.add_argument("--private", action="store_true", help="a VM whose pages can be private")
    parser.add_argument(
        "--private-backing", choices=[one.value for one in PrivateBacking], default="auto",
        help="with --private: attributes of the VM, or in place (default: what the host has)",
    )  # fmt: skip
    parser.add_argument(
        "--map", choices=[one.value for one in ShowMap], default=ShowMap.CHANGED.value,
        help="after which commands the page map is shown (default: changed)",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Open the bench, and run the script or read commands."""
    if options.host == "lab":
        from pyvmm.cli.lab import run_same_command

        return run_same_command(options.arguments, ())
    is_script = options.script is not None or sys.stdin is None or not sys.stdin.isatty()
    source = read_script(options.script) if is_script else None
    path = options.script or STDIN
    options.ending_signals.release()
    backing = options.private_backing if options.private else None
    if not options.private and options.private_backing != PrivateBacking.AUTO.value:
        raise UsageError(
            f"back private memory {options.private_backing}", "there is none", "give --private, too"
        )
    with open_bench(options.host, size=options.memory, private=backing, watched=True) as bench:
        desk = Desk(bench)
        if source is not None:
            return run_script(desk, source, path, options.script_arguments)
        from pyvmm.shell import console, ipython

        prompt = ipython.prompt if not options.plain and ipython.has_ipython() else console.prompt
        try:
            prompt(desk, ShowMap(options.map), _banner(bench))
        except SystemExit as stop:
            return exit_code(stop)
    return ExitCode.OK


def _banner(bench: Bench) -> str:
    host = {HostChoice.KVM: "KVM", HostChoice.MODEL: "the model"}[bench.host]
    why = f" ({bench.why})" if bench.why else ""
    return (
        f"pyvmm on {host}{why}. At hand: system, vm, memory, vcpu; page_map(), calls(). "
        "Tab completes."
    )
