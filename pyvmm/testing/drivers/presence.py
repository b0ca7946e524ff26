# SPDX-License-Identifier: MIT
"""Presence of hosts: which of `HostName` are on this machine, and why the others are not."""

from __future__ import annotations

import os

from pyvmm.testing.drivers.monitors import HostName

IN_LAB = "PYVMM_TESTS_IN_LAB"
"""Environment of the process that runs the lab's tests, in the lab (`session.lab_worker`)."""


def is_in_lab() -> bool:
    """Tell whether this process runs the lab's tests, in the lab."""
    return os.environ.get(IN_LAB, "") != ""


def absence(host: HostName) -> str | None:
    """Reason why `host` is not here; None where it seems to be.

    That is quick: which accelerators work with a QEMU, and whether a lab's kernel is a good one, is
    found out by the first boot.
    """
    from pyvmm.errors import PyvmmError

    try:
        match host:
            case HostName.MODEL:
                from pyvmm.hosts.model import unicorn_library

                return None if unicorn_library.is_installed() else "Unicorn is not installed"
            case HostName.KVM:
                _open_kvm()
            case HostName.LAB:
                return None if is_in_lab() else _missing_qemu() or _missing_kernel()
            case HostName.QEMU_TCG | HostName.QEMU_KVM:
                return _missing_qemu()
    except PyvmmError as error:
        return str(error)
    return None


def _open_kvm() -> None:
    from pyvmm.machine.config import HostChoice
    from pyvmm.machine.hosts import open_host

    open_host(HostChoice.KVM).system.close()


def _missing_qemu() -> str | None:
    import shutil

    from pyvmm.compare.choosing import DEFAULT_QEMU

    if shutil.which(DEFAULT_QEMU) is None:
        return f"{DEFAULT_QEMU} is not installed (Debian: apt install qemu-system-x86)"
    return None


def _missing_kernel() -> str | None:
    from pyvmm.lab.settings import find_kernel

    find_kernel(None)
    return None
