# SPDX-License-Identifier: MIT
"""C types of the ioctls that are built in, for whoever issues these field by field."""

from __future__ import annotations

from pyvmm.hosts.kvm.binding import ffi
from pyvmm.hosts.kvm.declared_types import DeclaredTypes


class BuiltInTypes(DeclaredTypes):
    """Types of ``kvm_abi.h``, as the compiled part has them; none can be added."""

    def __init__(self) -> None:
        self._ffi = ffi
