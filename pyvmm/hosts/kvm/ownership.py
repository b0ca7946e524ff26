# SPDX-License-Identifier: MIT
"""Owner of a file descriptor: a context manager whose fd is -1 once it is closed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm.hosts.owner import Owner

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder


class FdOwner(Owner):
    """The one owner of `fd`, which is close-on-exec; -1 after `close`."""

    WHAT = "file"
    """The kind of file, for those who watch."""

    def __init__(self, fd: int, recorder: Recorder | None = None) -> None:
        """`recorder` is told of the calls on it."""
        self.fd = fd
        self.recorder = recorder
        try:
            # KVM opens most of its fds with O_CLOEXEC, but not those of guest_memfd; and a leaked
            # one in a child process would keep the VM alive.
            os.set_inheritable(fd, False)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The fd, for `select` and its like."""
        return self.fd

    def duplicate(self) -> FdOwner:
        """One more descriptor of the same, with an owner of its own. Raises `SystemCallError`."""
        what = f"{self.WHAT} fd {self.fd}"
        try:
            copy = FdOwner(os.dup(self.fd), self.recorder)
        except OSError as error:
            from pyvmm.hosts.kvm.binding import refused

            raise refused(error.errno or 0, f"duplicate {what}") from error
        copy.WHAT = self.WHAT
        if self.recorder is not None:
            from pyvmm.hosts.call_fields import LEAST
            from pyvmm.hosts.kvm.recording import tell

            # As os.dup has it, so that the new one is close-on-exec from the beginning.
            tell(self.recorder, "fcntl", what, copy.fd, LEAST, request="F_DUPFD_CLOEXEC")
        return copy

    def close(self) -> None:
        """Close the fd; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            if self.recorder is not None:
                from pyvmm.hosts.kvm.recording import tell

                tell(self.recorder, "close", f"{self.WHAT} fd {fd}", 0)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} fd {self.fd}>"
            if self.fd >= 0
            else (f"<{type(self).__name__} closed>")
        )
