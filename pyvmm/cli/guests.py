# SPDX-License-Identifier: MIT
"""``pyvmm guests``: the bundled guest images."""

from __future__ import annotations

import argparse
import json

from pyvmm import bundled_guests
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode
from pyvmm.visible import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def command(options: argparse.Namespace) -> int:
    """Print a line for each guest: its name and its path."""
    guests = [(guest.name, visible(str(guest.path))) for guest in bundled_guests.all_guests()]
    if options.json:
        print_answer(json.dumps([{"name": name, "path": path} for name, path in guests]))
        return ExitCode.OK
    width = max(len(name) for name, _ in guests)
    print_answer("\n".join(f"{name:<{width}}  {path}" for name, path in guests))
    return ExitCode.OK
