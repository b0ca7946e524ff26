# SPDX-License-Identifier: MIT
"""Control messages of a console's driver, eight bytes each."""

from __future__ import annotations

import struct

from pyvmm.devices.virtio.console import (
    MOST_WAITING,
    ConsoleFeature,
    ConsoleModel,
    PortDescription,
)

from .target import Target


def one(data: bytes) -> None:
    """Messages for the driver are about ports that there are, and not without end."""
    model = ConsoleModel((None, PortDescription("one"), PortDescription("two")))
    model.accept(ConsoleFeature.MULTIPORT)
    model.set_host_open(1, is_open=True)
    for at in range(0, len(data), 8):
        if model.waits_for_driver:
            break
        model.take_control(data[at : at + 8])
    model.restore(model.save())
    count = 0
    while message := model.next_control():
        count += 1
        assert struct.unpack_from("<I", message)[0] in (1, 2)
    assert count <= MOST_WAITING + 4


TARGET = Target(
    one,
    [
        struct.pack("<IHHIHHIHH", 0, 0, 1, 1, 3, 1, 1, 6, 1),
        struct.pack("<IHHIHH", 0, 0, 1, 7, 6, 1),
    ],
    most=1 << 12,
)
