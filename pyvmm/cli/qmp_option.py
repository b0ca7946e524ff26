# SPDX-License-Identifier: MIT
"""``--qmp unix:PATH[,wait=on]``: where the QMP server of a run listens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from pyvmm.cli.place_options import Switches, parse_place

_KINDS: dict[str, Switches] = {"unix": {"server": (True,), "wait": (True, False)}}


class QmpOption(NamedTuple):
    """A socket's path; with `wait` the guest waits for the first client."""

    path: Path
    wait: bool = False


def parse_qmp(text: str) -> QmpOption:
    """Read the option. Raises `argparse.ArgumentTypeError`."""
    _, path, switches = parse_place(text, _KINDS, "unix:PATH, unix:PATH,wait=on")
    return QmpOption(path, switches.get("wait", False))


def add_qmp_argument(parser: argparse.ArgumentParser) -> None:
    """--qmp."""
    parser.add_argument(
        "--qmp", type=parse_qmp, metavar="unix:PATH[,wait=on]",
        help="serve QMP there; with wait=on the guest waits for the first client",
    )  # fmt: skip
