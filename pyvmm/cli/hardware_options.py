# SPDX-License-Identifier: MIT
"""The options that say which hardware: ``NAME[,OPTION=VALUE...]``, as QEMU writes such options.

A comma that belongs to a value is doubled (QEMU's ``util/qemu-option.c``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.machine.hardware import Disk, Hardware

DESTINATION = "hardware_"
"""Beginning of the destination of each option here; behind it is the name of `Hardware`'s field."""
SWITCH = {"on": True, "off": False}
"""Words of a value that is yes or no."""


def add_hardware_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for devices beside those that every machine has."""
    parser.add_argument(
        "--disk", type=_disk, action="append", dest=f"{DESTINATION}disks", metavar="FILE[,...]",
        help="a virtio disk with a file's contents: format=raw, readonly=on, serial=S",
    )  # fmt: skip


def hardware_of(options: argparse.Namespace) -> Hardware | None:
    """Collect what the options ask for; None where they ask for nothing. Raises `UsageError`."""
    given: dict[str, Any] = {
        name.removeprefix(DESTINATION): tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name.startswith(DESTINATION) and value not in (None, [])
    }
    if not given:
        return None
    from pyvmm.machine.hardware import Hardware  # Most machines have none of it.

    return Hardware(**given)


def named_values(text: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split ``VALUE,NAME=VALUE...`` into the first value and the others by their names.

    Raises `argparse.ArgumentTypeError` for a name that is not among `known` or comes twice.
    """
    # No argument has a zero byte, so that it can stand for a comma of a value meanwhile.
    first, *rest = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    values: dict[str, str] = {}
    names = tuple(known)
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in names or not equals or name in values:
            why = "comes twice" if name in values else f"it may be {'=, '.join(names)}="
            raise argparse.ArgumentTypeError(f"{part!r} cannot be: {why}")
        values[name] = value
    return first, values


def _disk(text: str) -> Disk:
    from pyvmm.cli.disk_option import parse_disk  # Most machines have none.

    return parse_disk(text)
