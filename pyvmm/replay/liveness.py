# SPDX-License-Identifier: MIT
"""Liveness of a VM in the kernel: its folder in debugfs is there exactly as long as it lives.

``kvm_create_vm_debugfs`` makes ``kvm/<pid>-<fd>``, ``kvm_destroy_vm_debugfs`` removes it. A debugfs
that is mounted nowhere is mounted for this process alone (fsopen(2), fsmount(2)): nobody else sees
it, and it goes with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress

from pyvmm.hosts.kvm.ownership import FdOwner

MOUNTED = "/sys/kernel/debug/kvm"
PATIENCE = 10.0
"""Seconds to wait for a folder to go before it counts as being there: on a busy machine, and in one
that is emulated, the grace periods of a VM's end take a while."""

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432  # the same on every architecture
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE = 6


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
        return Liveness(os.open(MOUNTED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)), ""
    except OSError as error:
        reason = f"{MOUNTED}: {error.strerror}"
    try:
        mount = _mount_for_us()
    except OSError as error:
        return None, f"{reason}; debugfs cannot be mounted: {error.strerror}"
    try:
        return Liveness(
            os.open("kvm", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
        ), ""
    except OSError as error:
        return None, f"{reason}; debugfs has no folder of VMs: {error.strerror}"
    finally:
        os.close(mount)


def _mount_for_us() -> int:
    context = _system_call(_SYS_FSOPEN, b"debugfs", _CLOEXEC)
    try:
        _system_call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _system_call(_SYS_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        with suppress(OSError):
            os.close(context)


def _system_call(number: int, *arguments: bytes | int | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result = int(library.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
