# SPDX-License-Identifier: MIT
"""The host bridge: function 0 of slot 0, by which a guest knows that there is PCI. Pure.

It has the numbers of QEMU's generic host bridge (``docs/specs/pci-ids``), for which no driver has
anything to be set up: the bridges of Intel's chipsets have registers that firmware and drivers of
theirs write.
"""

from __future__ import annotations

from typing import Final

from pyvmm.devices.pci.config_space import ConfigSpace, PciIdentity

IDENTITY: Final = PciIdentity(
    vendor=0x1B36,
    device=0x0008,
    class_code=0x06_00_00,
    revision=0,
    subsystem_vendor=0x1AF4,
    subsystem=0x1100,
)


def host_bridge() -> ConfigSpace:
    """Make its configuration space: an identity, and nothing else."""
    return ConfigSpace(IDENTITY)
