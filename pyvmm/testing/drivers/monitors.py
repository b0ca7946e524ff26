# SPDX-License-Identifier: MIT
"""Monitors and hosts that a boot test can run its guest under: a closed set."""

from __future__ import annotations

import enum


class HostName(enum.Enum):
    """Place where a guest runs; the values are what marks and options say."""

    AUTO = "auto"
    """pyvmm on /dev/kvm where it works and has what is needed, on the model otherwise."""
    MODEL = "model"
    """pyvmm on the model."""
    KVM = "kvm"
    """pyvmm on this machine's /dev/kvm."""
    LAB = "lab"
    """pyvmm on the lab's nested KVM: the test itself runs in the lab."""
    QEMU_TCG = "qemu-tcg"
    QEMU_KVM = "qemu-kvm"
