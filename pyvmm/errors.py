# SPDX-License-Identifier: MIT
"""The one tree of exceptions, and the exit code that each of them ends a command with.

Every error says what was attempted, on what, why it failed and what to do about it. The text fits
one line, because the command line prints it as one line (`pyvmm.cli`).

Exit codes follow ``sysexits.h`` where it has a fitting one; `ExitCode` lists all of them.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of the ``pyvmm`` command. 0..63 are the guest's own (`GUEST_STATUS_MAX`)."""

    OK = 0
    USAGE = 64
    """The command line, or a configuration, asks for something that cannot be."""
    BAD_IMAGE = 65
    """The guest image is no image we can boot, or contradicts itself."""
    NO_INPUT = 66
    """An input file is missing or cannot be read."""
    HOST_LACKS = 69
    """This host does not offer what the command needs."""
    INTERNAL = 70
    """A defect of pyvmm itself."""
    SYSTEM_CALL = 71
    """The kernel refused a system call that should have worked."""
    NO_PERMISSION = 77
    """The user may not open something that exists."""
    GUEST_CRASHED = 80
    """Triple fault, KVM internal error, failed entry, or halted with nothing left to wake it."""
    GUEST_PANICKED = 81
    """The guest reported a panic by itself (pvpanic)."""
    MEMORY_REFUSED = 82
    """A guest access that the memory policy refuses."""
    UNHANDLED_EXIT = 83
    """KVM handed over an exit that we have no answer to, or the guest a status above 63."""
    GUEST_RESET = 84
    """The guest reset its machine, and nobody asked for it to boot anew (``--reboot again``)."""
    TIME_LIMIT = 124
    """``--timeout`` passed."""
    INTERRUPTED = 130
    """Ctrl-C, SIGTERM, SIGHUP, or the terminal's own way out (Ctrl-A x)."""


GUEST_STATUS_MAX = 63
"""The largest status that a guest can end with through its exit port (inclusive)."""


class PyvmmError(Exception):
    """The root of the tree.

    `attempt` is what was tried, as an infinitive phrase with its object ("open /dev/kvm");
    `cause` why it failed; `remedy` what the reader can do, "" where nothing is known.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, attempt: str, cause: str, remedy: str = "") -> None:
        super().__init__(attempt, cause, remedy)
        self.attempt = attempt
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"cannot {self.attempt}: {self.cause}"
        return f"{text}; {self.remedy}" if self.remedy else text


class UsageError(PyvmmError):
    """A request that cannot be met as it stands: a bad option, a bad configuration value."""

    exit_code = ExitCode.USAGE


class ConversionRefusedError(PyvmmError):
    """The host's own request to convert guest memory cannot be met; nothing has changed."""

    exit_code = ExitCode.USAGE


class ImageError(PyvmmError):
    """The guest image is broken, hostile, or of a kind that cannot be booted."""

    exit_code = ExitCode.BAD_IMAGE


class NoInputError(PyvmmError):
    """An input file does not exist or is not readable as a file."""

    exit_code = ExitCode.NO_INPUT


class HostLacksError(PyvmmError):
    """The host does not have a feature, or not enough of a resource."""

    exit_code = ExitCode.HOST_LACKS


class NoPermissionError(PyvmmError):
    """Something exists but this user may not use it."""

    exit_code = ExitCode.NO_PERMISSION


class InternalError(PyvmmError):
    """A state that pyvmm's own code should have made impossible."""

    exit_code = ExitCode.INTERNAL


class SystemCallError(PyvmmError):
    """A system call failed; `errno` is the kernel's number (0 where it gave none)."""

    exit_code = ExitCode.SYSTEM_CALL

    def __init__(self, attempt: str, errno: int, cause: str, remedy: str = "") -> None:
        super().__init__(attempt, cause, remedy)
        self.errno = errno


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Find the one exception in `group`, however deep; `group` where there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def told_error(error: BaseException) -> BaseException:
    """Find the exception to tell of for tasks that have failed: the first, where all of them told
    what has failed; else the group, or what is alone in it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    if error.split(PyvmmError)[1] is not None:
        return sole_error(error)
    first: BaseException = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
