# SPDX-License-Identifier: MIT
"""Issuing an ioctl on an object that has an fd, and telling who watches."""

from __future__ import annotations

from pyvmm.hosts.kvm.binding import CData, issue
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.ioctls import FdKind, IoctlSpec


def call(
    spec: IoctlSpec,
    on: Descriptor,
    argument: CData | int = 0,
    described: str = "",
    *,
    kind: FdKind | None = None,
) -> int:
    """Issue `spec` on an open object; the kernel's non-negative answer.

    `described` renders the argument for an error (a value argument renders itself); `kind` says
    what the fd is where the ioctl exists on more than one kind. Raises `KvmError`.
    """
    if on.recorder is None:
        return issue(spec, on.fd, argument, described, kind)
    from pyvmm.hosts.kvm.recording import record_call  # Few are watched.

    return record_call(spec, on, argument, described, kind)
