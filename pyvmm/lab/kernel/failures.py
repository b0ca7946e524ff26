# SPDX-License-Identifier: MIT
"""Failures of making a kernel, beyond those in `pyvmm.errors`."""

from __future__ import annotations

from pyvmm.errors import HostLacksError, SystemCallError


class KernelBuildError(HostLacksError):
    """Kernel, compiler and configuration do not come together on this host."""


class ChangeDoesNotFitError(HostLacksError):
    """A change of ours, and the source that it is to be made to, do not go together."""


class CorruptEntryError(HostLacksError):
    """A file in the cache is not what its manifest says."""


def system_call_error(attempt: str, error: OSError, remedy: str = "") -> SystemCallError:
    """`error` in the tree."""
    return SystemCallError(attempt, error.errno or 0, error.strerror or str(error), remedy)
