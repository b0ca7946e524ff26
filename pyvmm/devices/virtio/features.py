# SPDX-License-Identifier: MIT
"""Feature bits and status bits that every kind of virtio device has (virtio 1.2, 2.1 and 6)."""

from __future__ import annotations

import enum


class Feature(enum.IntFlag):
    """Features of queues and transports; the bits of a kind of device are plain numbers."""

    INDIRECT = 1 << 28
    """A descriptor may point to a table of descriptors."""
    EVENT_INDEX = 1 << 29
    """Notifications are asked for by position, not by a flag."""
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    """The driver makes what the device is to reach reachable: with private memory, shared."""
    PACKED = 1 << 34
    NOTIFICATION_DATA = 1 << 38
    """A notification says how far the driver is."""


NO_FEATURES = Feature(0)


class DeviceStatus(enum.IntFlag):
    """Bits of the status register (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 0x40
    FAILED = 0x80
