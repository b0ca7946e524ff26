# SPDX-License-Identifier: MIT
"""``pyvmm run IMAGE``: boot an image, show its console, end with its status."""

from __future__ import annotations

import argparse
import signal
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from pyvmm import bundled_guests
from pyvmm.boot.plan import EntryWish
from pyvmm.cli.console_option import ConsoleKind, ConsoleOption, add_console_argument
from pyvmm.cli.core_option import add_core_argument, let_guest_memory_into_cores
from pyvmm.cli.device_option import add_device_argument, device_choice
from pyvmm.cli.disk_failures import failures_told
from pyvmm.cli.ending_signals import EndingSignals, ending_signals
from pyvmm.cli.flags_option import add_flags_arguments, raw_flags
from pyvmm.cli.gdb_option import GdbOption, add_gdb_argument, gdb_listener
from pyvmm.cli.guest_options import add_guest_arguments, read_guest
from pyvmm.cli.hardware_options import add_cpus_argument, add_hardware_arguments, hardware_of
from pyvmm.cli.memory_report_option import (
    MemoryReportFile,
    add_memory_report_argument,
    open_memory_report,
)
from pyvmm.cli.output_paths import refuse_to_overwrite, write_output
from pyvmm.cli.qmp_option import QmpOption, add_qmp_argument
from pyvmm.cli.run_files import run_inputs, run_outputs
from pyvmm.cli.run_terminal import RunTerminal
from pyvmm.cli.sizes import parse_seconds
from pyvmm.cli.standard_error import write_to_user
from pyvmm.cli.taken_signals import taken_signals
from pyvmm.errors import GUEST_STATUS_MAX, UsageError
from pyvmm.machine.config import (
    HostChoice,
    ImplicitPolicy,
    IrqchipPolicy,
    MachineConfig,
    PrivateConfig,
    RebootPolicy,
)
from pyvmm.machine.ending import Requester
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import Attachment, open_machine
from pyvmm.memory.backing import PrivateBacking

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from pyvmm.machine.ending import RunResult
    from pyvmm.machine.unix_listener import UnixListener

_EPILOG = f"""\
exit codes: 0..{GUEST_STATUS_MAX} the guest's own status; 64 usage; 65 bad image; 66 no such input;
69 the host lacks something; 70 internal error; 71 a system call failed; 77 no permission;
80 the guest crashed; 81 it panicked; 82 an access to memory that is refused; 83 an exit that pyvmm
cannot answer, or a status of the guest above {GUEST_STATUS_MAX}; 84 the guest reset its machine;
124 time limit; 130 interrupted (quit over QMP: 0).
The firmware of a private run ends it with 60 where the launch digest is not the expected one, with
61 or 62 where it cannot start the guest.
On a terminal: Ctrl-A x ends the run, Ctrl-A c opens the monitor, Ctrl-A h helps.
"""


def _digest(text: str) -> bytes:
    from pyvmm.boot.launch_format import DIGEST_BYTES

    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-384 digest of 96 hex digits")
    return digest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _EPILOG
    add_guest_arguments(parser)
    parser.add_argument(
        "--entry", choices=[wish.value for wish in EntryWish], default=EntryWish.AUTO.value,
        help="how an image with several entries is entered",
    )  # fmt: skip
    add_cpus_argument(parser)
    parser.add_argument(
        "--host",
        choices=[*(choice.value for choice in HostChoice), "lab"],
        default="auto",
        help="who runs it; lab: this same command, run in there",
    )
    parser.add_argument(
        "--timeout", type=parse_seconds, metavar="SECONDS",
        help="end the run after this long, with 124",
    )  # fmt: skip
    add_console_argument(parser)
    parser.add_argument(
        "--irqchip", choices=[policy.value for policy in IrqchipPolicy], default="auto",
        help="interrupt controllers and timer; auto: when the image needs them",
    )  # fmt: skip
    parser.add_argument(
        "--private", action="store_true",
        help="what the guest does not share is private",
    )  # fmt: skip
    parser.add_argument(
        "--private-backing", choices=[backing.value for backing in PrivateBacking], default="auto",
        help="with --private: converted pages are others (two-sided), or the same; auto: "
        "what the host has",
    )  # fmt: skip
    parser.add_argument(
        "--expect-digest", type=_digest, metavar="HEX",
        help="with --private: start no image whose launch digest is another (see pyvmm measure)",
    )  # fmt: skip
    parser.add_argument(
        "--implicit", choices=("honour", "refuse"), default="honour",
        help="with --private: what happens to conversions that the guest did not announce",
    )  # fmt: skip
    parser.add_argument(
        "--reboot", choices=[policy.value for policy in RebootPolicy], default="end",
        help="a reset by the guest: ends the run, with 84; or the guest boots again",
    )  # fmt: skip
    add_device_argument(parser)
    add_hardware_arguments(parser)
    add_qmp_argument(parser)
    add_gdb_argument(parser)
    add_core_argument(parser)
    add_flags_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run's result there")
    add_memory_report_argument(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on standard error what is used, and why"
    )


def command(options: argparse.Namespace) -> int:
    """Boot, wait, report; the exit code."""
    ending: EndingSignals = options.ending_signals
    refuse_to_overwrite(run_outputs(options), run_inputs(options))
    if options.host == "lab":
        from pyvmm.cli.run_in_lab import run_in_lab

        ending.release()
        return run_in_lab(options)
    config = _config(options)
    if config.dump_guest_core:
        let_guest_memory_into_cores()
    # From here on there are files to remove.
    ending.hold()
    with ExitStack() as stack:
        file = None
        if options.json is not None:
            from pyvmm.machine.console.output_file import OutputFile

            file = stack.enter_context(OutputFile(options.json, _attempt_to_tell(options.json)))
        report = open_memory_report(options.memory_report, config.name, stack)
        result = trio.run(_run, config, options, ending, report)
        if options.verbose:
            _say_what_was_measured(result)
        _tell(result)
        if file is not None:
            import json

            text = json.dumps(result.to_json(), indent=2) + "\n"
            write_output(file, text, _attempt_to_tell(options.json))
        if report is not None:
            report.write()
    return result.ending.exit_code


def _config(options: argparse.Namespace) -> MachineConfig:
    # Checked before any file is read, so that a bad number is not hidden behind a long read.
    bare = MachineConfig(b"", memory=options.memory, cpus=options.cpus, timeout=options.timeout)
    guest = read_guest(options)
    return MachineConfig(
        image=guest.image,
        name=guest.name,
        memory=bare.memory,
        cpus=bare.cpus,
        command_line=guest.command_line,
        initrd=guest.initrd,
        initrd_name=guest.initrd_name,
        wish=EntryWish(options.entry),
        timeout=bare.timeout,
        irqchip=IrqchipPolicy(options.irqchip),
        host=HostChoice(options.host),
        private=_private(options),
        dump_guest_core=options.dump_guest_core == "on",
        reboot=RebootPolicy(options.reboot),
        devices=device_choice(options.device),
        hardware=hardware_of(options),
        raw_flags=raw_flags(options),
    )


def _private(options: argparse.Namespace) -> PrivateConfig | None:
    if not options.private:
        if options.expect_digest is not None:
            raise UsageError(
                "expect a launch digest", "nothing is measured", "give --private as well"
            )
        if options.private_backing != PrivateBacking.AUTO.value:
            raise UsageError(
                f"back private memory {options.private_backing}",
                "the machine has none",
                "give --private as well",
            )
        return None
    return PrivateConfig(
        firmware=bundled_guests.firmware(),
        expected_digest=options.expect_digest,
        implicit=ImplicitPolicy(options.implicit),
        backing=PrivateBacking(options.private_backing),
    )


async def _run(
    config: MachineConfig,
    options: argparse.Namespace,
    ending: EndingSignals,
    report: MemoryReportFile | None,
) -> RunResult:
    console: ConsoleOption = options.console
    qmp: QmpOption | None = options.qmp
    gdb: GdbOption | None = options.gdb
    failure: Exception | None = None
    result: RunResult | None = None
    with ExitStack() as outer:
        terminal = RunTerminal() if console.kind is ConsoleKind.STDIO else None
        attach = _attachment(console, outer, terminal)
        listener = _qmp_listener(qmp, outer)
        stub = _gdb_listener(gdb, outer)
        caught = (*ending_signals(), *(terminal.job_signals if terminal else ()))
        # Signals are caught before the terminal goes raw and until it is restored, so that none
        # can leave it so; and they are taken to the end: the second one is no different.
        with taken_signals(*caught) as signals, ExitStack() as inner:
            ending.raise_held()
            async with trio.open_nursery() as nursery:
                try:
                    debugged = gdb is not None and gdb.wait
                    held = not debugged and qmp is not None and qmp.wait
                    async with open_machine(config, attach, paused=held or debugged) as machine:
                        if terminal is not None:
                            terminal.enter(machine, inner)
                        _say_what_is_used(machine, verbose=options.verbose)
                        nursery.start_soon(_watch_signals, signals, machine, terminal)
                        async with (
                            _qmp_server(machine, listener, held=held),
                            _gdb_server(machine, stub),
                            nullcontext() if report is None else report.recorded(machine),
                        ):
                            inner.enter_context(failures_told(machine))
                            if machine.network.cards:
                                from pyvmm.cli.network_failures import network_failures_told

                                inner.enter_context(network_failures_told(machine))
                            result = await machine.control.wait()
                except Exception as error:  # noqa: BLE001 - raised below, without a group
                    failure = error
                inner.close()
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert result is not None
    return result


def _attachment(
    console: ConsoleOption, stack: ExitStack, terminal: RunTerminal | None
) -> Attachment:
    from pyvmm.machine.console import attach

    if terminal is not None:
        if not terminal.is_ours:
            return attach.Stdio()
        return attach.Stdio(keys=terminal.keys, may_read=terminal.wait_for_foreground)
    if console.path is None:
        return attach.discard
    if console.kind is ConsoleKind.UNIX:
        listening = attach.ToUnixSocket(console.path)
        stack.callback(listening.close)
        return listening
    target = attach.ToFile(console.path, append=console.append)
    stack.callback(target.close)
    return target


def _qmp_listener(qmp: QmpOption | None, stack: ExitStack) -> UnixListener | None:
    if qmp is None:
        return None
    from pyvmm.qmp.server import open_listener

    return stack.enter_context(open_listener(qmp.path))


def _qmp_server(
    machine: Machine, listener: UnixListener | None, *, held: bool
) -> AbstractAsyncContextManager[None]:
    if listener is None:
        return nullcontext()
    from pyvmm.qmp.server import serving

    return serving(machine, listener, holds_guest=held)


def _gdb_listener(gdb: GdbOption | None, stack: ExitStack) -> socket.socket | None:
    return None if gdb is None else stack.enter_context(gdb_listener(gdb))


def _gdb_server(
    machine: Machine, listener: socket.socket | None
) -> AbstractAsyncContextManager[None]:
    if listener is None:
        return nullcontext()
    from pyvmm.gdb.server import serving

    return serving(machine, listener)


async def _watch_signals(
    signals: AsyncIterator[int], machine: Machine, terminal: RunTerminal | None
) -> None:
    async for number in signals:
        if terminal is not None and number == signal.SIGTSTP:
            terminal.suspend()
        elif terminal is not None and number == signal.SIGCONT:
            terminal.go_on()
        else:
            name = signal.Signals(number).name
            machine.control.interrupt(f"interrupted by {name}", Requester.SIGNAL)


def _say_what_is_used(machine: Machine, *, verbose: bool) -> None:
    without_kvm = machine.host.without_kvm
    if without_kvm is not None:
        write_to_user(f"pyvmm: the guest runs on the model ({without_kvm.cause})\n")
    if verbose:
        host = machine.host
        write_to_user(
            f"pyvmm: memory: {host.address_map.memory >> 10} KiB, {host.backing.reason}\n"
        )
        for card in machine.network.cards:
            write_to_user(f"pyvmm: {card.name}: {card.wire}\n")
        for remark in host.remarks:
            write_to_user(f"pyvmm: {remark}\n")


def _say_what_was_measured(result: RunResult) -> None:
    if result.memory is not None and result.memory.launch is not None:
        write_to_user(f"pyvmm: launch digest: {result.memory.launch.digest.hex()}\n")


def _tell(result: RunResult) -> None:
    """The ending on standard error, unless the guest ended by itself with a status."""
    lines = []
    if result.ending.status is None:
        lines.append(f"pyvmm: {result.ending.detail}")
    if result.console_bytes_unread:
        lines.append(
            f"pyvmm: {result.console_bytes_unread} bytes of the guest's console were not read"
        )
    if result.memory is not None:
        lines.extend(f"pyvmm: {line}" for line in result.memory.lines())
    for report in result.reports:
        lines.extend(report.lines())
    if lines:
        write_to_user("\n".join(lines) + "\n")


def _attempt_to_tell(path: Path) -> str:
    return f"write the run's result to {path}"
