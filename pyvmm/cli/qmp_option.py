# SPDX-License-Identifier: MIT
"""``--qmp unix:PATH[,wait=on]``: where the QMP server of a run listens."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

_COMMA = re.compile(r"(?<!,),(?!,)")
_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True, slots=True)
class QmpOption:
    """A socket's path; with `wait` the guest waits for the first client."""

    path: Path
    wait: bool = False


def parse_qmp(text: str) -> QmpOption:
    """Read the option, in QEMU's spelling (a comma in the path is doubled).

    Raises `argparse.ArgumentTypeError`.
    """
    kind, _, rest = text.partition(":")
    path, *others = _COMMA.split(rest)
    if kind != "unix" or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not unix:PATH or unix:PATH,wait=on")
    wait = False
    for other in others:
        name, _, value = other.partition("=")
        if name not in ("wait", "server") or value not in _SWITCH or other == "server=off":
            raise argparse.ArgumentTypeError(f"{other!r} is none of wait=on, wait=off, server=on")
        if name == "wait":
            wait = _SWITCH[value]
    return QmpOption(Path(path.replace(",,", ",")), wait)


def add_qmp_argument(parser: argparse.ArgumentParser) -> None:
    """--qmp."""
    parser.add_argument(
        "--qmp", type=parse_qmp, metavar="unix:PATH[,wait=on]",
        help="serve QMP there; with wait=on the guest waits for the first client",
    )  # fmt: skip
