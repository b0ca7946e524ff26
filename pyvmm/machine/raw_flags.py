# SPDX-License-Identifier: MIT
"""Flags of RAM's guest_memfd and memslots that pyvmm has no name for."""

from __future__ import annotations

from typing import NamedTuple

from pyvmm.errors import UsageError


class RawFlags(NamedTuple):
    """Flags that the kernel gets beside those that pyvmm needs, whatever they mean.

    `guest_memfd`: of KVM_CREATE_GUEST_MEMFD (64 bits, api.rst 4.142); `memslot`: of
    KVM_SET_USER_MEMORY_REGION2 (32 bits, api.rst 4.140), for each memslot of RAM.
    """

    guest_memfd: int = 0
    memslot: int = 0

    def check(self) -> None:
        """Raise `UsageError` where they do not fit."""
        for what, flags, bits in (("guest_memfd", self[0], 64), ("memslots", self[1], 32)):
            if not 0 <= flags < 1 << bits:
                raise UsageError(
                    f"give RAM's {what} the flags {flags:#x}", f"there are {bits} bits"
                )


NO_RAW_FLAGS = RawFlags()
