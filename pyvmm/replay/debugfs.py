# SPDX-License-Identifier: MIT
"""Folders of debugfs, as descriptors.

A debugfs that is mounted nowhere is mounted for this process alone (fsopen(2), fsmount(2)): nobody
else sees it, and it goes with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from pyvmm.errors import HostLacksError

MOUNTED = "/sys/kernel/debug"

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432  # the same on every architecture
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE = 6


def open_folder(name: str) -> int:
    """A descriptor of debugfs's folder `name`, which the caller owns. Raises `HostLacksError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(f"{MOUNTED}/{name}", flags)
    except OSError as error:
        reason = f"{MOUNTED}/{name}: {error.strerror}"
    attempt = f"open debugfs's {name}"
    try:
        mount = _mount_for_us()
    except OSError as error:
        raise HostLacksError(
            attempt, f"{reason}; debugfs cannot be mounted: {error.strerror}"
        ) from error
    try:
        return os.open(name, flags, dir_fd=mount)
    except OSError as error:
        raise HostLacksError(attempt, f"debugfs has no {name}: {error.strerror}") from error
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
