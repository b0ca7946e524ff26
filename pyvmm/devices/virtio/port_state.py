# SPDX-License-Identifier: MIT
"""State of a port of the virtio console."""

from __future__ import annotations

from typing import NamedTuple


class PortState(NamedTuple):
    """State of a port: `host_open` and `guest_open`: somebody there, or a program in it, has it.

    `is_ready`: the driver knows of it.
    """

    host_open: bool = False
    guest_open: bool = False
    is_ready: bool = False
