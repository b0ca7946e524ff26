# SPDX-License-Identifier: MIT
"""The files that ``pyvmm run`` reads and writes, for `pyvmm.cli.output_paths`."""

from __future__ import annotations

import argparse

from pyvmm import bundled_guests
from pyvmm.cli.console_option import ConsoleKind, ConsoleOption
from pyvmm.cli.guest_options import guest_inputs
from pyvmm.cli.output_paths import STANDARD_ERROR, STANDARD_INPUT, STANDARD_OUTPUT, NamedFile


def run_inputs(options: argparse.Namespace) -> list[NamedFile]:
    """List the files that the run reads."""
    inputs = guest_inputs(options)
    if options.private:
        inputs.append(NamedFile("the firmware", bundled_guests.firmware_path()))
    inputs.extend(NamedFile("a disk", disk.path) for disk in options.hardware_disks or ())
    if options.console.kind is ConsoleKind.STDIO:
        inputs.append(STANDARD_INPUT)
    return inputs


def run_outputs(options: argparse.Namespace) -> list[NamedFile]:
    """List the files that the run writes, including the sockets that it makes."""
    outputs = [STANDARD_ERROR]
    console: ConsoleOption = options.console
    if console.kind is ConsoleKind.STDIO:
        outputs.append(STANDARD_OUTPUT)
    elif console.path is not None:
        outputs.append(NamedFile("the guest's console", console.path))
    if options.qmp is not None:
        outputs.append(NamedFile("the socket for QMP clients", options.qmp.path, is_socket=True))
    if options.json is not None:
        outputs.append(NamedFile("the run's result", options.json))
    if options.memory_report is not None:
        outputs.append(NamedFile("the report of memory", options.memory_report))
    outputs.extend(
        NamedFile("a capture", card.capture)
        for card in options.hardware_cards or ()
        if card.capture is not None
    )
    return outputs
