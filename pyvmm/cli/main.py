# SPDX-License-Identifier: MIT
"""The ``pyvmm`` command: picks the command, and turns every error into one line and a code."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from pyvmm.cli.ending_signals import EndingSignals
from pyvmm.cli.standard_error import say_to_user, write_to_user
from pyvmm.cli.standard_output import output_error, print_answer
from pyvmm.errors import ExitCode, PyvmmError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

Command = Callable[[argparse.Namespace], int]

_RESERVE = 4 << 20
"""Bytes that suffice to load, and to compile, the modules that tell of a limit."""


class _UsageFailure(Exception):  # noqa: N818 - not an error of the tree: argparse's own message
    """Message that argparse would print before it exits with its own code."""


class _Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that leaves printing and exit codes to `main`."""

    def error(self, message: str) -> NoReturn:
        raise _UsageFailure(f"{message}; see {self.prog} --help")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        # argparse takes the value away in ``--option=--`` and hands over an empty list.
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "'--' is no value")
        return super()._get_values(action, arg_strings)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """For ``--help``; argparse would keep it to itself when nothing can be written."""
        if file is None:
            print_answer(self.format_help().removesuffix("\n"))
        else:
            super().print_help(file)


def _build_parser(only: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; with `only`, of that command alone, which is quicker to make."""
    parser = _Parser(
        prog="pyvmm",
        description="A virtual machine monitor for understanding, prototyping and testing guest "
        "memory.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="say which version this is")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=_Parser
    )
    for name, (summary, load) in _COMMANDS.items():
        if only is not None and name != only:
            continue
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_argument(
            "--debug", action="store_true", help="show a traceback where something fails"
        )
        command.set_defaults(call=load(command))
    return parser


def _load_run(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import run

    run.add_arguments(parser)
    return run.command


def _load_guests(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import guests

    guests.add_arguments(parser)
    return guests.command


def _load_measure(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import measure

    measure.add_arguments(parser)
    return measure.command


def _load_lab(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import lab

    lab.add_arguments(parser)
    return lab.command


def _load_doctor(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import doctor

    doctor.add_arguments(parser)
    return doctor.command


def _load_lifetime(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import lifetime

    lifetime.add_arguments(parser)
    return lifetime.command


def _load_compare(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import compare

    compare.add_arguments(parser)
    return compare.command


def _load_parity(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import parity

    parity.add_arguments(parser)
    return parity.command


def _load_matrix(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import matrix

    matrix.add_arguments(parser)
    return matrix.command


def _load_linux(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import linux

    linux.add_arguments(parser)
    return linux.command


def _load_net(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import net

    net.add_arguments(parser)
    return net.command


def _load_demo(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import demo

    demo.add_arguments(parser)
    return demo.command


def _load_shell(parser: argparse.ArgumentParser) -> Command:
    from pyvmm.cli import shell

    shell.add_arguments(parser)
    return shell.command


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Command]]] = {
    "run": ("Boot a guest image; end with its exit status.", _load_run),
    "measure": ("Say which launch digest a private run of a guest comes to.", _load_measure),
    "shell": ("Try memory APIs by hand: a host, a VM and its memory at a prompt.", _load_shell),
    "guests": ("List the bundled guest images.", _load_guests),
    "doctor": ("Say what this host can do, what it lacks, and what follows.", _load_doctor),
    "lifetime": ("Explore, replay and draw who pins whom: guest_memfds and VMs.", _load_lifetime),
    "compare": ("Run a guest under pyvmm and under QEMU, and compare.", _load_compare),
    "parity": ("Ask a KVM for the cases of the kernel's own tests.", _load_parity),
    "matrix": ("Boot images by memory, CPUs and hosts, and say what became of each.", _load_matrix),
    "demo": ("Watch guest memory being set up, step by step, and try to break it.", _load_demo),
    "linux": ("Write a kernel, an initrd and a disk of Debian's to boot.", _load_linux),
    "net": ("Put up networks that guests share, look at them, take them down.", _load_net),
    "lab": ("Run commands in a nested machine that has a complete KVM.", _load_lab),
}


def _claim_standard_descriptors() -> None:
    """Put /dev/null where standard input, output or error is not open.

    Otherwise the next file opened, /dev/kvm say, would get that number and be taken for it. Opened
    for reading, so that writing fails there as it fails where nothing is open (EBADF).
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is `fd`, because all below are open.
            os.open(os.devnull, os.O_RDONLY)
            if fd == 1:
                sys.stdout = os.fdopen(1, "w", closefd=False)
            if fd == 2:
                sys.stderr = os.fdopen(2, "w", closefd=False)


def main(argv: Sequence[str] | None = None, ending: EndingSignals | None = None) -> int:
    """Run the command line `argv` (default: the process's own); the exit code.

    `ending`, where given, has been told what signals do; otherwise they are the caller's.
    """
    _claim_standard_descriptors()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    reserve = _reserve()
    try:
        return int(_dispatch(arguments, ending))
    except _UsageFailure as failure:
        say_to_user(str(failure))
        return ExitCode.USAGE
    except KeyboardInterrupt as interruption:
        if ending is not None:
            ending.ignore()
        say_to_user(str(interruption) or "interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more: also not what Python would say when it flushes at exit.
        _send_to_nobody(1)
        return ExitCode.SYSTEM_CALL
    except PyvmmError as error:
        if debug:
            _show_traceback()
        else:
            say_to_user(_with_limit(error, reserve) or str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - told in one line, or with its traceback
        if debug:
            _show_traceback()
        limit = _with_limit(error, reserve)
        if not debug:
            say_to_user(
                limit
                or f"internal error: {type(error).__name__}: {error}; this is a defect of pyvmm, "
                "run again with --debug and report what it shows"
            )
        return ExitCode.SYSTEM_CALL if limit else ExitCode.INTERNAL


def _reserve() -> list[bytearray]:
    """Address space to give up where memory runs out, for what tells of it; takes no memory."""
    try:
        return [bytearray(_RESERVE)]
    except MemoryError:
        return []


def _with_limit(error: Exception, reserve: list[bytearray]) -> str:
    """A line for an error that a limit of this process or system is behind; "" for any other."""
    reserve.clear()
    if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.EMFILE:
        # Gives up what was held where it failed: what tells of it has modules to read.
        error.__traceback__ = None
    try:
        from pyvmm.cli.resource_limits import limit_behind

        limit = limit_behind(error)
    except MemoryError:
        return "cannot go on: out of memory; raise the limits of it (ulimit -v, ulimit -d)"
    if limit is None:
        return ""
    if isinstance(error, PyvmmError):
        said = f"cannot {error.attempt}: {error.cause}"
    else:
        said = f"cannot go on: {str(error) or 'out of memory'}"
    return f"{said}: {limit.text}; {limit.remedy}"


def _show_traceback() -> None:
    from traceback import format_exc

    write_to_user(format_exc())


def _dispatch(arguments: list[str], ending: EndingSignals | None) -> int:
    first = arguments[0] if arguments else None
    parser = _build_parser(first if first in _COMMANDS else None)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else ExitCode.USAGE
    if options.version:
        from importlib.metadata import version

        print_answer(f"pyvmm {version('pyvmm')}")
        return ExitCode.OK
    if options.command is None:
        raise _UsageFailure("no command given; see pyvmm --help")
    options.arguments = arguments
    options.ending_signals = ending or EndingSignals()
    if options.command == "lab":
        options.ending_signals.release()
    call: Command = options.call
    if ending is not None:  # `process` stopped the collector; what is there now stays to the end.
        gc.freeze()
        gc.enable()
    return call(options)


def process() -> int:
    """The command as a process of its own: `main`, without collecting garbage where there is none.

    Imports make tens of thousands of objects and hardly any garbage; looking through them again and
    again, and once more at the end, would take a fifth of the CPU time of a short run.
    """
    # Who is started with this one ignored could not wait for its children.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ending = EndingSignals()
    ending.exit_at_once()
    gc.disable()
    code = _flushed(main(ending=ending))
    gc.freeze()
    ending.ignore()
    return code


def _flushed(code: int) -> int:
    """`code`, once nothing is left that Python would flush at exit: a failure then ends with 120.

    What cannot be written to standard output was asked for, so that is an error of its own;
    standard error that nobody reads is not.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream.closed:  # By a script of the shell's, which has flushed it so.
            continue
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            _send_to_nobody(stream.fileno())
            if stream is sys.stdout and code == ExitCode.OK:
                code = ExitCode.SYSTEM_CALL
                if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                    say_to_user(str(output_error(error)))
    return code


def _send_to_nobody(fd: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
