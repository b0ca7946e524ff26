# SPDX-License-Identifier: MIT
"""The ioctls that this package knows, by the kernel's names, to be issued field by field."""

from __future__ import annotations

from pyvmm.experiment.ioctls import Ioctl
from pyvmm.hosts.kvm.built_in_types import BuiltInTypes
from pyvmm.hosts.kvm.ioctls import ALL

_NO_POINTER = frozenset({"", "value"})


def built_in_ioctls() -> dict[str, Ioctl]:
    """Each is called with an object of KVM, and its argument's fields: ``KVM_GET_CLOCK(vm)``."""
    types = BuiltInTypes()
    return {
        name: Ioctl(name, spec.number, "" if spec.argument in _NO_POINTER else spec.argument, types)
        for name, spec in ALL.items()
    }
