# SPDX-License-Identifier: MIT
"""``pyvmm guests``: the bundled guest images."""

from __future__ import annotations

import argparse
import json

from pyvmm import bundled_guests
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def command(options: argparse.Namespace) -> int:
    """Print a line for each guest: its name and its path."""
    guests = bundled_guests.all_guests()
    if options.json:
        print_answer(
            json.dumps([{"name": guest.name, "path": str(guest.path)} for guest in guests])
        )
        return ExitCode.OK
    width = max(len(guest.name) for guest in guests)
    print_answer("\n".join(f"{guest.name:<{width}}  {guest.path}" for guest in guests))
    return ExitCode.OK
