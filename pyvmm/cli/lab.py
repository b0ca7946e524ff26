# SPDX-License-Identifier: MIT
"""``pyvmm lab``: a nested machine with a complete KVM, where commands run as if they ran here."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.standard_error import say_to_user
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode, HostLacksError, UsageError
from pyvmm.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.lab.kernel import Manifest
    from pyvmm.lab.session import Ending
    from pyvmm.lab.settings import LabWishes

NOT_EXECUTABLE = 126
NOT_FOUND = 127

_RUN_EPILOG = """\
The root file system is this machine's, read-only; what is written to /tmp, /var/tmp, /run and
/dev/shm is gone with the lab. The command's exit status is this one's; a command that a signal
ended ends this process by the same signal. 127: no such command; 126: not executable. 69: this
machine, its QEMU or the kernel cannot do it; 71: the lab failed (kernel panic, QEMU ended, ...).
"""


def _size(text: str) -> int:
    from pyvmm.cli.sizes import parse_size

    return parse_size(text)


def _count(text: str) -> int:
    from pyvmm.cli.sizes import parse_count

    return parse_count(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    run = commands.add_parser(
        "run",
        help="Run a command in a lab: one that is up, or one for the command alone.",
        epilog=_RUN_EPILOG,
        usage="pyvmm lab run [--cpus N] [--memory SIZE] [--kernel NAME] [--writable DIR] "
        "[--monitor NAME] -- COMMAND...",
        allow_abbrev=False,
    )
    _add_wishes(run)
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    run.set_defaults(call=_run)
    up = commands.add_parser(
        "up", help="Start a lab that stays up and takes commands at once.", allow_abbrev=False
    )
    _add_wishes(up)
    up.set_defaults(call=_up)
    down = commands.add_parser("down", help="End the lab that is up.", allow_abbrev=False)
    down.set_defaults(call=_down)
    status = commands.add_parser(
        "status",
        help="Say whether a lab is up (0) or not (69), and list the kernels.",
        allow_abbrev=False,
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(call=_status)
    if find_spec("pyvmm.cli.lab_build") is not None:
        from pyvmm.cli import lab_build

        build = commands.add_parser("build", help="Build a lab kernel.", allow_abbrev=False)
        lab_build.add_arguments(build)
        build.set_defaults(call=lab_build.command)
    if find_spec("pyvmm.cli.lab_selftests") is not None:
        from pyvmm.cli import lab_selftests

        selftests = commands.add_parser(
            "selftests", help="Run a lab kernel's own KVM selftests.", allow_abbrev=False
        )
        lab_selftests.add_arguments(selftests)
        selftests.set_defaults(call=lab_selftests.command)


def command(options: argparse.Namespace) -> int:
    """Unreachable: each command of ``pyvmm lab`` has set its own call."""
    raise UsageError("run pyvmm lab", f"it needs a command, not {options}")


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpus", type=_count, metavar="N", help="number of CPUs (default: 2)")
    parser.add_argument("--memory", type=_size, metavar="SIZE", help="memory (default: 2G)")
    parser.add_argument(
        "--kernel", metavar="NAME", help="a kernel that pyvmm lab build made, or a file"
    )
    parser.add_argument(
        "--writable", action="append", default=[], metavar="DIR",
        help="a folder that the lab may change; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--monitor", choices=("qemu", "pyvmm"),
        help="the program that runs the lab: qemu, which emulates it (default), or pyvmm on this "
        "host's KVM, if that has nested virtualization",
    )  # fmt: skip


def _wishes(options: argparse.Namespace) -> LabWishes:
    from pyvmm.lab.settings import LabMonitor, LabWishes, writable_folders

    return LabWishes(
        options.kernel,
        options.cpus,
        options.memory,
        writable_folders(options.writable),
        None if options.monitor is None else LabMonitor(options.monitor),
    )


def _run(options: argparse.Namespace) -> int:
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise UsageError("run a command in the lab", "none is given", "name it after --")
    return run_in_lab(_wishes(options), words)


def run_in_lab(wishes: LabWishes, words: Sequence[str]) -> int:
    """Run `words` in the lab that is up, if it is as wished, or in one of its own; its status."""
    from pyvmm.lab import starting
    from pyvmm.lab.protocol import Request, StartFlag
    from pyvmm.lab.session import Session
    from pyvmm.lab.settings import working_directory
    from pyvmm.lab.terminal import OurTerminal, descriptor_flags

    directory = os.fsencode(working_directory())
    flags = descriptor_flags()
    connection = starting.connect_if_met(wishes)
    token = b""
    if connection is not None:
        token = _token(words[0])
        if token:
            flags |= StartFlag.MAY_FORK
    else:
        connection = starting.start_for_one_command(wishes.settings())
    terminal = OurTerminal(flags)
    request = Request(
        arguments=[os.fsencode(word) for word in words],
        environment=[key + b"=" + value for key, value in os.environb.items()],
        directory=directory,
        flags=flags,
        mask=_umask(),
        window=terminal.size(),
        token=token,
    )
    with connection:
        session = Session(connection, request, terminal)
        ending = session.run()
    if session.complaint is not None:
        say_to_user(f"cannot write the command's output: {session.complaint.strerror}")
    status = _status_of(ending, words[0])
    return ExitCode.SYSTEM_CALL if session.complaint is not None and not status else status


def _umask() -> int:
    """This process's file mode creation mask: read, not set and set back (proc(5))."""
    attempt = "find out the umask"
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        cause = f"/proc/self/status: {error.strerror}"
        raise HostLacksError(attempt, cause, "mount /proc") from error
    found = re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    if found is None:
        raise HostLacksError(attempt, "/proc/self/status does not tell it")
    return int(found[1], 8)


def _token(program: str) -> bytes:
    """For this environment's own pyvmm, the token of the code that it would load; else b""."""
    if os.path.basename(program) != "pyvmm":  # noqa: PTH119 - a name, not a path
        return b""
    from pyvmm.lab import loaded_code

    found = shutil.which(program)
    if found is None or os.path.realpath(found) != os.path.realpath(loaded_code.entry_point()):
        return b""
    return loaded_code.token(os.environb)


def _status_of(ending: Ending, program: str) -> int:
    from pyvmm.lab.failures import LabRefusalError
    from pyvmm.lab.protocol import Step
    from pyvmm.lab.session import die_by
    from pyvmm.lab.settings import working_directory

    if ending.signal:
        return die_by(ending.signal)
    if not ending.step:
        return ending.status
    reason = os.strerror(ending.errno)
    if ending.step == Step.EXECUTE:
        say_to_user(f"cannot run {program!r} in the lab: {reason}")
        return NOT_FOUND if ending.errno == errno.ENOENT else NOT_EXECUTABLE
    if ending.step == Step.DIRECTORY:
        reason = f"the folder {working_directory()} cannot be entered there ({reason})"
    raise LabRefusalError(f"run {program!r} in the lab", reason)


def run_same_command(arguments: Sequence[str], written: Iterable[str | Path]) -> int:
    """``pyvmm run --host lab``: the command `arguments`, with ``--host kvm``, in the lab.

    `written` are files that it writes: their folders are made writable there.
    """
    from pyvmm.lab.loaded_code import entry_point
    from pyvmm.lab.settings import LabWishes, working_directory, writable_folders

    working_directory()  # Names are relative to it.
    words = [entry_point(), *arguments]
    for place, word in enumerate(words):
        if word == "--host=lab":
            words[place] = "--host=kvm"
        elif word == "--host" and words[place + 1 : place + 2] == ["lab"]:
            words[place + 1] = "kvm"
    folders = [os.path.dirname(os.path.abspath(name)) for name in written]  # noqa: PTH100, PTH120
    return run_in_lab(LabWishes(writable=writable_folders(folders)), words)


def _up(options: argparse.Namespace) -> int:
    from pyvmm.lab import starting
    from pyvmm.lab.settings import working_directory

    working_directory()  # The lab is told where it was started.
    status, was_up = starting.up(_wishes(options))
    word = "is up already" if was_up else "is up"
    print_answer(f"the lab {word}: {_describe(status)}")
    return ExitCode.OK


def _down(_: argparse.Namespace) -> int:
    from pyvmm.lab import starting

    print_answer("the lab is down" if starting.down() else "no lab is up")
    return ExitCode.OK


def _status(options: argparse.Namespace) -> int:
    from pyvmm.lab import starting
    from pyvmm.lab.kernel.cache import Cache, default_root, is_current

    status = starting.status()
    kernels = [
        (manifest, str(folder / manifest.image), is_current(manifest))
        for folder, manifest in Cache(default_root()).entries()
    ]
    if options.json:
        listed = [
            {"path": path, "current": current, **asdict(manifest)}
            for manifest, path, current in kernels
        ]
        answer = {"up": status is not None, **(status or {}), "kernels": listed}
        print_answer(json.dumps(answer, indent=2))
    else:
        if status is None:
            print_answer("no lab is up")
        else:
            names = [manifest.name for manifest, path, _ in kernels if path == status["kernel"]]
            log = visible(str(status["log"]))
            print_answer(f"a lab is up: {_describe(status, *names)}\nits kernel's log: {log}")
        width = max((len(manifest.name) for manifest, *_ in kernels), default=0)
        lines = [_line(manifest, width, current=current) for manifest, _, current in kernels]
        print_answer("\n".join(["kernels:" if lines else "no kernel is built", *lines]))
    return ExitCode.OK if status is not None else ExitCode.HOST_LACKS


def _line(manifest: Manifest, width: int, *, current: bool) -> str:
    """A kernel in the list of those that the cache has."""
    parts = [f"Linux {manifest.version}"]
    if manifest.change:
        parts.append("with a change")
    if manifest.tree:
        parts.append(f"of {manifest.tree}")
    if not manifest.was_built_here:
        parts.append("taken over")
    if not current:
        parts.append("out of date: build it again")
    return visible(f"  {manifest.name:{width}}  {', '.join(parts)}")


def _describe(status: dict[str, object], *names: str) -> str:
    up = time.time() - float(str(status["since"]))
    called = "".join(f" ({visible(name)})" for name in names)
    return (
        f"Linux {status['release']}{called}, {status['cpus']} CPUs, "
        f"{int(str(status['memory'])) >> 20} MiB, for {up:.0f} s, "
        f"{status['commands']} commands, pyvmm preloaded: {status['preloaded']}"
    )
