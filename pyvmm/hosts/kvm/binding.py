# SPDX-License-Identifier: MIT
"""The border to the compiled extension: where untyped cffi data comes in, and every ioctl goes out.

Nothing outside of `pyvmm.hosts.kvm` imports this module.
"""

from __future__ import annotations

import errno
import os
from typing import Any, TypeAlias

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import Direction, FdKind, IoctlSpec

try:
    import pyvmm.hosts.kvm._kvm as _kvm  # noqa: PLR0402 - the other form mypy cannot skip
except ImportError as error:
    raise HostLacksError(
        "use /dev/kvm",
        f"the compiled part of pyvmm cannot be loaded ({error})",
        "install pyvmm where a C compiler is present, or use another host",
    ) from error

CData: TypeAlias = Any
"""A cffi value: a pointer, or an owning structure made by `new`."""

ffi: Any = _kvm.ffi
lib: Any = _kvm.lib

INTERFACE = 8
"""Number of the interface that is called here: PYVMM_INTERFACE of calls.h."""


def require_interface(number: int) -> None:
    """Raise `HostLacksError` for a compiled part of other sources than these."""
    if number != INTERFACE:
        raise HostLacksError(
            "use /dev/kvm",
            "the compiled part of pyvmm was built from other sources",
            "build it again (in a checkout: make), or install pyvmm again",
        )


require_interface(getattr(lib, "PYVMM_INTERFACE", 0))


def new(declaration: str, content: dict[str, Any] | int | None = None) -> CData:
    """A zeroed C object that lives as long as the value returned.

    `content`: fields to set, or the length of an array declared without one.
    """
    return ffi.new(declaration, content)


def issue(
    spec: IoctlSpec, fd: int, argument: CData | int, described: str, kind: FdKind | None
) -> int:
    """Issue an ioctl on `fd`, and tell nobody: for `calling.call`; the kernel's answer.

    `described` renders the argument for an error (a value argument renders itself); `kind` says
    what `fd` is where the ioctl exists on more than one kind.

    A call that a signal interrupts is repeated: every ioctl that comes through here either has not
    begun then, or records its progress in the argument (KVM_PRE_FAULT_MEMORY). KVM_RUN does not
    come through here. Raises `KvmError`.
    """
    by_value = spec.direction is Direction.NONE
    function = lib.pyvmm_ioctl_value if by_value else lib.pyvmm_ioctl_pointer
    while True:
        result = int(function(fd, spec.number, argument))
        if result >= 0:
            return result
        if result != -errno.EINTR:
            text = described or (str(argument) if by_value and spec.argument else "")
            raise KvmError.of(spec.name, kind or spec.kind, fd, text, -result)


def check(result: int, attempt: str, remedy: str = "") -> int:
    """The result of one of run.c's functions that answer with a negative errno.

    Raises `SystemCallError` with `attempt` as what was tried.
    """
    if result < 0:
        raise refused(-result, attempt, remedy)
    return result


def refused(number: int, attempt: str, remedy: str = "") -> SystemCallError:
    """The error of a system call, other than an ioctl, that failed with errno `number`."""
    name = errno.errorcode.get(number, f"errno {number}")
    return SystemCallError(attempt, number, f"{name} ({os.strerror(number)})", remedy)
