# SPDX-License-Identifier: MIT
"""Owner of an eventfd (eventfd(2)): a counter in the kernel that can be waited for."""

from __future__ import annotations

import errno
import os
import select
import threading

from pyvmm.errors import SystemCallError
from pyvmm.hosts.owner import Owner


class Eventfd(Owner):
    """A counter from 0, close-on-exec; reads and writes never wait. Any thread.

    Once closed it is not readable, and a signal is lost: no other file that the process opens
    meanwhile is touched.
    """

    def __init__(self) -> None:
        """Raises `SystemCallError`."""
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            number = error.errno or 0
            remedy = "raise the limit of open files (ulimit -n)" if number == errno.EMFILE else ""
            raise SystemCallError("make an eventfd", number, os.strerror(number), remedy) from error
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """The fd; -1 once closed."""
        return self._fd

    def signal(self) -> None:
        """Add 1."""
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def drain(self) -> int:
        """Set it to 0, and return what it was."""
        with self._lock:
            try:
                return os.eventfd_read(self._fd) if self._fd >= 0 else 0
            except BlockingIOError:
                return 0

    def is_readable(self) -> bool:
        """Tell whether it is above 0."""
        with self._lock:
            if self._fd < 0:
                return False
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(0))

    def close(self) -> None:
        """Close it; a second call does nothing."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
