# SPDX-License-Identifier: MIT
"""Failures of a lab itself, as opposed to the command in it.

A failing command ends `pyvmm lab run` with the command's own status and nothing is printed. A
failing lab prints one line and ends with 69 where this host, its QEMU or the kernel lacks
something, and with 71 where the lab stopped working: its kernel panicked, QEMU died, the channel
was lost.
"""

from __future__ import annotations

import json

from pyvmm.errors import ExitCode, HostLacksError, PyvmmError, UsageError


class LabError(PyvmmError):
    """The lab does not work any more, or never did."""

    exit_code = ExitCode.SYSTEM_CALL


class LabPanicError(LabError):
    """The lab's kernel panicked."""


class LabLostError(LabError):
    """The channel to the lab was lost: QEMU ended, or the lab's first process did."""


class LabSilentError(LabError):
    """The lab started but never got as far as taking commands."""


class LabRefusalError(LabError):
    """The lab could not start a command, for a reason that is not the command's."""


class LabBusyError(LabError):
    """Another lab is starting, or up, in the same place."""


_KINDS: dict[str, type[PyvmmError]] = {
    kind.__name__: kind
    for kind in (
        LabError,
        LabPanicError,
        LabLostError,
        LabSilentError,
        LabRefusalError,
        LabBusyError,
        HostLacksError,
        UsageError,
    )
}


def to_bytes(error: PyvmmError) -> bytes:
    """The payload of FAILED."""
    kind = type(error).__name__
    if kind not in _KINDS:
        kind = "HostLacksError" if error.exit_code is ExitCode.HOST_LACKS else "LabError"
    return json.dumps([kind, error.attempt, error.cause, error.remedy]).encode()


def from_bytes(payload: bytes) -> PyvmmError:
    """The inverse of `to_bytes`; what cannot be understood becomes a `LabError` that says so."""
    try:
        kind, attempt, cause, remedy = json.loads(payload)
        return _KINDS[kind](str(attempt), str(cause), str(remedy))
    except (ValueError, KeyError, TypeError):
        return LabError("use the lab", f"its keeper reported {payload[:200]!r}")
