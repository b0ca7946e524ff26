# SPDX-License-Identifier: MIT
"""``--vsock cid=N,path=P``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from pyvmm.cli.named_values import named_values
from pyvmm.cli.sizes import parse_count
from pyvmm.devices.virtio.vsock import FIRST_CID, MOST_CID
from pyvmm.machine.hardware import Vsock

_NAMES: Final = ("cid", "path")


def parse_vsock(text: str) -> Vsock:
    """Parse a value of ``--vsock``. Raises `argparse.ArgumentTypeError`."""
    _, given = named_values(f",{text}", _NAMES)
    for name in _NAMES:
        if not given.get(name):
            raise argparse.ArgumentTypeError(
                f"{text!r} has no {name}=, as in --vsock cid=3,path=vsock.socket"
            )
    cid = parse_count(given["cid"])
    if not FIRST_CID <= cid <= MOST_CID:
        raise argparse.ArgumentTypeError(f"cid={cid} cannot be: it is {FIRST_CID} to {MOST_CID}")
    return Vsock(cid, Path(given["path"]))
