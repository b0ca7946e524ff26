# SPDX-License-Identifier: MIT
"""The options that say which hardware a machine has beside that of every machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.machine.hardware import Disk, Hardware, Transport

DESTINATION = "hardware_"
"""Beginning of the destination of each option here; behind it is the name of `Hardware`'s field."""


def add_hardware_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for devices beside those that every machine has."""
    parser.add_argument(
        "--disk", type=_disk, action="append", dest=f"{DESTINATION}disks", metavar="FILE[,...]",
        help="a virtio disk with a file's contents: format=raw, readonly=on, serial=S",
    )  # fmt: skip
    parser.add_argument(
        "--rng", action="store_true", default=None, dest=f"{DESTINATION}rng",
        help="a virtio entropy device: random bytes of this machine's",
    )  # fmt: skip
    parser.add_argument(
        "--transport", type=_transport, dest=f"{DESTINATION}transport", metavar="pci|mmio",
        help="how the guest reaches virtio devices (default: pci)",
    )  # fmt: skip
    parser.add_argument(
        "--acpi", type=_switch, dest=f"{DESTINATION}acpi", metavar="on|off",
        help="ACPI tables, whatever the image says (default: unless it is made for pyvmm)",
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


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be: it is on or off")
    return text == "on"


def _transport(text: str) -> Transport:
    from pyvmm.machine.hardware import Transport

    try:
        return Transport(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be: it is pci or mmio") from None


def _disk(text: str) -> Disk:
    from pyvmm.cli.disk_option import parse_disk  # Most machines have none.

    return parse_disk(text)
