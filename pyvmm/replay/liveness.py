# SPDX-License-Identifier: MIT
"""Liveness of a VM in the kernel: its folder in debugfs is there exactly as long as it lives.

``kvm_create_vm_debugfs`` makes ``kvm/<pid>-<fd>``, ``kvm_destroy_vm_debugfs`` removes it.
"""

from __future__ import annotations

import os
import time

from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.replay.debugfs import open_folder

PATIENCE = 10.0
"""Seconds to wait for a folder to go before it counts as being there: on a busy machine, and in one
that is emulated, the grace periods of a VM's end take a while."""


class Liveness(FdOwner):
    """debugfs's folder of VMs."""

    def has(self, name: str) -> bool:
        """Tell whether the kernel has the VM now."""
        try:
            os.stat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def agrees(self, name: str, alive: bool) -> bool:
        """Tell whether the VM lives as expected; for one that has to go, there is a little time."""
        if self.has(name) is alive:
            return True
        if alive:
            return False
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.001)
            if not self.has(name):
                return True
        return False


def observe() -> tuple[Liveness | None, str]:
    """The VMs of this machine's debugfs; or None, and why they cannot be seen."""
    try:
        return Liveness(open_folder("kvm")), ""
    except HostLacksError as error:
        return None, error.cause
