# SPDX-License-Identifier: MIT
"""Accesses that a device lets a fast path outside Python do by itself.

Most of a console's port accesses change nothing that the guest could see: a byte for the
transmitter, a look at a status that has been the same for a while. A host can take those without
leaving for Python (`pyvmm.hosts.posted_ring.PostedRing.post_port`), if the device says which.

The contract between a `pyvmm.devices.protocols.PostingDevice` and whoever runs the machine:

- A device's ``posting`` may change with every access that goes through its ``read`` or ``write``,
  and with every call of its other methods. It is the same object while nothing changed.
- Posted writes are handed to the device's ``posted_write`` in order, and before any other access to
  that device: otherwise what was written first could come out second.
"""

from __future__ import annotations

from typing import NamedTuple


class PortPosting(NamedTuple):
    """Single-byte accesses at `offset` (bytes from the device's start) that need no Python now.

    `write`: bytes written may be collected and handed over later through ``posted_write``.
    `read_value`: what a read gives, with no effect on the device; None: reads must go through.
    Whatever no posting of the device mentions must go through.
    """

    offset: int
    write: bool
    read_value: int | None
