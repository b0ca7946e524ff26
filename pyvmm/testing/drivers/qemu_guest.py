# SPDX-License-Identifier: MIT
"""Guest of a QEMU: all that a `QemuProcess` is told of it."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.compare.guest_files import GuestFiles
from pyvmm.compare.subjects import QemuSubject


@dataclass(frozen=True, slots=True)
class QemuGuest:
    """A guest, the QEMU that runs it, and how long it may run, in seconds.

    `paused`: it waits for `QemuProcess.resume` before its first instruction.
    """

    subject: QemuSubject
    files: GuestFiles
    timeout: float
    paused: bool
