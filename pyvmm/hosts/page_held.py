# SPDX-License-Identifier: MIT
"""Error of a conversion in place that somebody's reference on a page keeps from being made."""

from __future__ import annotations

import errno

from pyvmm.errors import SystemCallError


class PageHeldError(SystemCallError):
    """EAGAIN of KVM_SET_MEMORY_ATTRIBUTES2; `error_offset` is the page's file offset, in bytes."""

    def __init__(self, attempt: str, error_offset: int) -> None:
        super().__init__(
            attempt,
            errno.EAGAIN,
            f"EAGAIN (somebody holds the page at file offset {error_offset:#x})",
            "end what holds it (direct I/O, a device's mapping), and try again",
        )
        self.error_offset = error_offset
