# SPDX-License-Identifier: MIT
"""``--disk FILE[,format=raw|qcow2][,readonly=on][,serial=S][,queues=N][,on-io-error=stop]``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from pyvmm.cli.named_values import named_values, one_of, switch
from pyvmm.devices.virtio.block import ID_SIZE, MOST_QUEUES
from pyvmm.machine.hardware import Disk, DiskFormat, OnIoError

_OPTIONS: Final = ("format", "readonly", "serial", "queues", "on-io-error")


def parse_disk(text: str) -> Disk:
    """Parse a value of ``--disk``. Raises `argparse.ArgumentTypeError`."""
    path, given = named_values(text, _OPTIONS)
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    format_ = given.get("format")
    return Disk(
        Path(path),
        format=None if format_ is None else one_of(DiskFormat, "format", format_),
        read_only=switch("readonly", given.get("readonly", "off")),
        serial=_serial(given.get("serial", "")),
        queues=_queues(given.get("queues", "1")),
        on_io_error=one_of(OnIoError, "on-io-error", given.get("on-io-error", "report")),
    )


def _queues(number: str) -> int:
    if number not in map(str, range(1, MOST_QUEUES + 1)):
        raise argparse.ArgumentTypeError(f"queues={number} cannot be: it is 1 to {MOST_QUEUES}")
    return int(number)


def _serial(serial: str) -> str:
    """Take what a guest may be told: printable ASCII, and no more than there is room for."""
    if not (serial.isascii() and serial.isprintable()) or len(serial) > ID_SIZE:
        raise argparse.ArgumentTypeError(
            f"the serial number {serial!r} cannot be: it has at most {ID_SIZE} printable letters"
        )
    return serial
