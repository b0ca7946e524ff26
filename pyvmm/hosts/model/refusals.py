# SPDX-License-Identifier: MIT
"""Errors of the model: what a rule refuses, as the system call error that KVM would give."""

from __future__ import annotations

import errno
import os

from pyvmm.errors import SystemCallError
from pyvmm.rules.rule import Refusal


class RefusedByRuleError(SystemCallError):
    """A request that a rule refuses; it names the rule's reason."""

    def __init__(self, attempt: str, refusal: Refusal) -> None:
        cause = f"{refusal.errno_name} ({refusal.cause}; {refusal.rule})"
        super().__init__(attempt, refusal.errno, cause)
        self.refusal = refusal


def refused(attempt: str, refusal: Refusal) -> RefusedByRuleError:
    """The error for a request that a rule refuses."""
    return RefusedByRuleError(attempt, refusal)


def failed(attempt: str, error: OSError) -> SystemCallError:
    """The error for a system call that the model itself needed, and that failed."""
    number = error.errno or 0
    name = errno.errorcode.get(number, f"errno {number}")
    return SystemCallError(attempt, number, f"{name} ({os.strerror(number)})")


def closed(attempt: str) -> SystemCallError:
    """The error for a descriptor that has been closed."""
    return SystemCallError(attempt, errno.EBADF, "EBADF (it has been closed)")
