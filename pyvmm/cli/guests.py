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
    """Print a line for each guest: its name, its path, and what cannot be given to it here."""
    guests = [
        (guest.name, visible(str(guest.path)), guest.needs) for guest in bundled_guests.all_guests()
    ]
    if options.json:
        told = [{"name": name, "path": path, "needs": needs} for name, path, needs in guests]
        print_answer(json.dumps(told))
        return ExitCode.OK
    width = max(len(name) for name, _, _ in guests)
    lines = (
        f"{name:<{width}}  {path}{f'  (needs {needs})' if needs else ''}"
        for name, path, needs in guests
    )
    print_answer("\n".join(lines))
    return ExitCode.OK
