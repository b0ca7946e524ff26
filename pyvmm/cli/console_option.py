# SPDX-License-Identifier: MIT
"""``--console WHERE``: where the guest's console goes."""

from __future__ import annotations

import argparse
import enum
from pathlib import Path
from typing import NamedTuple

from pyvmm.cli.place_options import Switches, parse_place

_KINDS: dict[str, Switches] = {
    "file": {"append": (True, False)},
    "unix": {"server": (True,), "wait": (False,)},
}


class ConsoleKind(enum.Enum):
    """Kind of endpoint that a console is attached to."""

    STDIO = "stdio"
    NONE = "none"
    FILE = "file"
    UNIX = "unix"


class ConsoleOption(NamedTuple):
    """A kind, with a file's or a socket's path; `append` keeps what a file has."""

    kind: ConsoleKind
    path: Path | None = None
    append: bool = False


def parse_console(text: str) -> ConsoleOption:
    """Read the option. Raises `argparse.ArgumentTypeError`."""
    if text in ("stdio", "none"):
        return ConsoleOption(ConsoleKind(text))
    usage = "stdio, none, file:PATH[,append=on], unix:PATH"
    kind, path, switches = parse_place(text, _KINDS, usage)
    return ConsoleOption(ConsoleKind(kind), path, switches.get("append", False))


def add_console_argument(parser: argparse.ArgumentParser) -> None:
    """--console."""
    parser.add_argument(
        "--console", type=parse_console, default="stdio", metavar="WHERE",
        help="stdio, none, file:PATH[,append=on] or unix:PATH, which waits for a client",
    )  # fmt: skip
