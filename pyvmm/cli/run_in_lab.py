# SPDX-License-Identifier: MIT
"""``pyvmm run --host lab``: this same command, run in the lab."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pyvmm.cli.console_option import ConsoleKind, ConsoleOption
from pyvmm.cli.guest_options import guest_inputs
from pyvmm.cli.lab import run_same_command
from pyvmm.errors import UsageError
from pyvmm.machine.hardware import NetCard, UserNet


def run_in_lab(options: argparse.Namespace) -> int:
    """Run the same command in the lab; its exit code.

    Raises `UsageError` for what only somebody in there could use.
    """
    console: ConsoleOption = options.console
    if options.qmp is not None:
        raise _unreachable(f"listen for QMP clients on {options.qmp.path}", "--qmp")
    if options.gdb is not None:
        raise _unreachable(f"listen for GDB at {options.gdb}", "--gdb")
    for port in options.hardware_ports or ():
        raise _unreachable(f"listen for programs on {port.path}", "--port")
    if options.hardware_vsock is not None:
        raise _unreachable(f"listen for programs on {options.hardware_vsock.path}", "--vsock")
    cards: Sequence[NetCard] = options.hardware_cards or ()
    for card in cards:
        if isinstance(card.wire, UserNet) and card.wire.forwards:
            port = card.wire.forwards[0].host_port
            raise _unreachable(f"forward port {port}", "--net user,hostfwd=...")
    if console.kind is ConsoleKind.UNIX:
        raise _unreachable(f"listen for the guest's console on {console.path}", "--console unix:")
    for file in guest_inputs(options):
        if isinstance(file.place, Path) and file.place.is_fifo() and not file.place.is_symlink():
            raise UsageError(
                f"read {file} in the lab",
                "nobody can write to a FIFO in there from out here",
                "copy it to a file",
            )
    disks = (disk.path for disk in options.hardware_disks or () if not disk.read_only)
    # Of a file its folder is made writable, so of a folder what is in it is named.
    shares = (share.path / "any" for share in options.hardware_shares or () if not share.read_only)
    captures = (card.capture for card in cards)
    written = filter(
        None, (console.path, options.json, options.memory_report, *disks, *shares, *captures)
    )
    return run_same_command(options.arguments, written)


def _unreachable(attempt: str, option: str) -> UsageError:
    return UsageError(
        f"{attempt} in the lab",
        "a socket in there cannot be reached from out here",
        f"run the client in there as well, beside pyvmm run {option}",
    )
