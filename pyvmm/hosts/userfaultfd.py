# SPDX-License-Identifier: MIT
"""Userfaultfd (userfaultfd(2), ioctl_userfaultfd(2)): faults on host memory answered by a program.

KVM reaches a guest's memory by the host's mapping of it, so a guest's first touch of a registered
page is a fault of this process, too: the vCPU waits in KVM_RUN until somebody gives the page its
contents. Released kernels take mappings of an anonymous memfd, and refuse those of a guest_memfd.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
import struct
import threading
from typing import NamedTuple

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.owner import Owner

_SYSCALL = 323
"""__NR_userfaultfd on x86-64."""
_API = 0xAA
_UFFDIO_API = 0xC018_AA3F
_REGISTER = 0xC020_AA00
_UNREGISTER = 0x8010_AA01
_WAKE = 0x8010_AA02
_COPY = 0xC028_AA03
_ZEROPAGE = 0xC020_AA04
_WRITEPROTECT = 0xC018_AA06
_CONTINUE = 0xC020_AA07
_MESSAGE = struct.Struct("<B7xQQ8x")
"""``struct uffd_msg`` of a fault: event, flags, address."""
_PAGEFAULT = 0x12
_MESSAGES_AT_ONCE = 64


class FaultMode(enum.IntFlag):
    """``UFFDIO_REGISTER_MODE_*``: accesses that are reported."""

    MISSING = 1 << 0
    """To a page that the file has not got."""
    WRITE_PROTECT = 1 << 1
    """Writes to a page that is protected (`Userfaultfd.write_protect`)."""
    MINOR = 1 << 2
    """To a page that the file has, and this mapping does not show yet."""


class Fault(NamedTuple):
    """An access that waits: to `address`, an HVA; it `is_write`, or what made it a fault."""

    address: int
    is_write: bool
    is_write_protected: bool
    is_minor: bool


class Userfaultfd(Owner):
    """A userfaultfd of this process, close-on-exec; reads never wait. Closing it wakes all waiters.

    Ranges are HVAs and bytes, page-aligned. Methods raise `SystemCallError`. Any thread: `close`
    waits for the calls that are under way, and later ones are EBADF, so that no other file which
    the process opens meanwhile is touched.
    """

    def __init__(self) -> None:
        """Raises `HostLacksError` where there is none, or none for this user."""
        attempt = "open a userfaultfd"
        # Faults in the kernel count, too: it is KVM that touches guest memory.
        fd = ctypes.CDLL(None, use_errno=True).syscall(_SYSCALL, os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            number = ctypes.get_errno()
            if number == errno.ENOSYS:
                raise HostLacksError(attempt, "the kernel has none", "set CONFIG_USERFAULTFD")
            if number == errno.EPERM:
                raise HostLacksError(
                    attempt,
                    "this user may not",
                    "be root, or set sysctl vm.unprivileged_userfaultfd=1",
                )
            raise SystemCallError(attempt, number, os.strerror(number))
        self._fd: int = fd
        self._lock = threading.Lock()
        try:
            api = self._issue(_UFFDIO_API, "<3Q", _API, 0, 0)
        except BaseException:
            self.close()
            raise
        self.features = api[1]
        """``UFFD_FEATURE_*`` that this kernel has, as a mask."""

    def fileno(self) -> int:
        """The fd, readable while there are faults; -1 once closed."""
        return self._fd

    def register(self, hva: int, size: int, modes: FaultMode) -> None:
        """Report the accesses of `modes` to [hva, hva + size). EINVAL: not for such memory."""
        self._issue(_REGISTER, "<4Q", hva, size, int(modes), 0)

    def unregister(self, hva: int, size: int) -> None:
        """Report none any more, and wake who waits."""
        self._issue(_UNREGISTER, "<2Q", hva, size)

    def faults(self) -> tuple[Fault, ...]:
        """Take the faults that wait for an answer and have not been taken yet; never waits."""
        with self._lock:
            try:
                data = os.read(self._fd, _MESSAGES_AT_ONCE * _MESSAGE.size)
            except BlockingIOError:
                return ()
            except OSError as error:
                raise _failed("read faults", error) from error
        return tuple(
            Fault(address, bool(flags & 1), bool(flags & 2), bool(flags & 4))
            for event, flags, address in _MESSAGE.iter_unpack(data)
            if event == _PAGEFAULT
        )

    def copy(self, hva: int, data: bytes) -> None:
        """Give missing pages from `hva` on their contents, whole pages, and wake who waits.

        EEXIST: the page is there already.
        """
        room = ctypes.create_string_buffer(data, len(data))
        self._issue(_COPY, "<4Qq", hva, ctypes.addressof(room), len(data), 0, 0)

    def zero(self, hva: int, size: int) -> None:
        """Make missing pages zero, and wake who waits."""
        self._issue(_ZEROPAGE, "<3Qq", hva, size, 0, 0)

    def show(self, hva: int, size: int) -> None:
        """Show pages that the file has (UFFDIO_CONTINUE), and wake who waits for them."""
        self._issue(_CONTINUE, "<3Qq", hva, size, 0, 0)

    def write_protect(self, hva: int, size: int, *, on: bool) -> None:
        """Protect pages from writes, or let them be written and wake who waits."""
        self._issue(_WRITEPROTECT, "<3Q", hva, size, int(on))

    def wake(self, hva: int, size: int) -> None:
        """Wake who waits: they touch the page again."""
        self._issue(_WAKE, "<2Q", hva, size)

    def _issue(self, request: int, layout: str, *fields: int) -> tuple[int, ...]:
        argument = bytearray(struct.pack(layout, *fields))
        try:
            # None of these waits for a fault, so that nobody who has this lock does.
            with self._lock:
                fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            raise _failed(f"issue {_NAMES[request]}({_spelled(fields)})", error) from error
        except ValueError as error:  # A descriptor of -1.
            raise SystemCallError(
                f"issue {_NAMES[request]}", errno.EBADF, "EBADF (it has been closed)"
            ) from error
        return struct.unpack(layout, argument)

    def close(self) -> None:
        """Close it: all ranges are unregistered. A second call does nothing."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_NAMES = {
    _UFFDIO_API: "UFFDIO_API",
    _REGISTER: "UFFDIO_REGISTER",
    _UNREGISTER: "UFFDIO_UNREGISTER",
    _WAKE: "UFFDIO_WAKE",
    _COPY: "UFFDIO_COPY",
    _ZEROPAGE: "UFFDIO_ZEROPAGE",
    _WRITEPROTECT: "UFFDIO_WRITEPROTECT",
    _CONTINUE: "UFFDIO_CONTINUE",
}


def _spelled(fields: tuple[int, ...]) -> str:
    return ", ".join(f"{field:#x}" for field in fields)


def _failed(attempt: str, error: OSError) -> SystemCallError:
    number = error.errno or 0
    name = errno.errorcode.get(number, f"errno {number}")
    return SystemCallError(attempt, number, f"{name} ({os.strerror(number)})")
