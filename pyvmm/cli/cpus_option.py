# SPDX-License-Identifier: MIT
"""Topology in ``--cpus N[,sockets=S][,cores=C][,threads=T]``."""

from __future__ import annotations

from typing import Final

from pyvmm.cli.named_values import named_values
from pyvmm.cli.sizes import parse_count

_LEVELS: Final = ("sockets", "cores", "threads")


def parse_levels(text: str) -> dict[str, int]:
    """Parse the levels of a topology, by name. Raises `argparse.ArgumentTypeError`."""
    _, levels = named_values(f",{text}", _LEVELS)
    return {name: parse_count(value) for name, value in levels.items()}
