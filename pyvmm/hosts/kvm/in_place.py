# SPDX-License-Identifier: MIT
"""Conversion in place on KVM: an ioctl of a guest_memfd that is posted, and in no release yet.

KVM_SET_MEMORY_ATTRIBUTES2 is ``_IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)`` with 128 bytes
in all postings ("guest_memfd: In-place conversion", linux-kvm, 2026); its capability's number is
not the same in all of them, so that the ioctl itself is asked. It is issued from here, not by the
compiled part, whose headers are those of released kernels.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading

from pyvmm.errors import HostLacksError
from pyvmm.hosts.call_fields import file_attributes_fields
from pyvmm.hosts.call_record import Made, SystemCall, number_field
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.kvm.binding import refused
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.kvm.recording import tell
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.page_held import PageHeldError
from pyvmm.rules.abi import PAGE_SIZE

REQUEST = 0xC080_AED2
"""_IOWR(0xAE, 0xd2, 128 bytes)."""
_FORMAT = "<5Q88x"


def set_attributes(file: FdOwner, offset: int, size: int, attributes: MemoryAttribute) -> None:
    """Convert [offset, offset + size), bytes; see `interface.GuestMemfd.set_attributes`."""
    attempt = f"convert {size} bytes at offset {offset:#x} of guest_memfd {file.fd} in place"
    number, error_offset = issue(file, offset, size, int(attributes))
    if number == errno.ENOTTY:
        raise HostLacksError(
            attempt,
            "this KVM's guest_memfds keep no attributes (KVM_SET_MEMORY_ATTRIBUTES2)",
            "no released kernel has it: the model does",
        )
    if number == errno.EAGAIN:
        raise PageHeldError(attempt, error_offset)
    if number:
        raise refused(number, attempt)


def issue(file: FdOwner, offset: int, size: int, attributes: int) -> tuple[int, int]:
    """Issue the ioctl, and tell of it: (errno or 0, error_offset)."""
    argument = bytearray(struct.pack(_FORMAT, offset, size, attributes, 0, 0))
    number = 0
    try:
        fcntl.ioctl(file.fd, REQUEST, argument)
    except OSError as error:
        number = error.errno or errno.EIO
    error_offset: int = struct.unpack(_FORMAT, argument)[4]
    if file.recorder is not None:
        structure, given = file_attributes_fields(offset, size, attributes)
        returned = (number_field("error_offset", error_offset, offset=32),)
        file.recorder.call(
            SystemCall(
                made=Made.KERNEL,
                name="ioctl",
                request="KVM_SET_MEMORY_ATTRIBUTES2",
                target=f"guest_memfd fd {file.fd}",
                structure=structure,
                given=given,
                returned=returned if number == errno.EAGAIN else (),
                result=-1 if number else 0,
                errno=number,
                section="api.rst 4.145, as posted",
                thread=threading.current_thread().name,
            )
        )
    return number, error_offset


class _Part(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class HeldPage(Owner):
    """A reference on a page of a guest_memfd: it is in a pipe, by vmsplice(2), until `close`."""

    def __init__(self, file: FdOwner, mapping: Mapping, offset: int) -> None:
        """`mapping` is one of `file`'s, which is not needed any more afterwards.

        Raises `SystemCallError`: with EFAULT where the host cannot touch the page.
        """
        attempt = f"hold the page at offset {offset:#x} of guest_memfd {file.fd}"
        self.offset = offset // PAGE_SIZE * PAGE_SIZE
        part = _Part(mapping.hva + offset // PAGE_SIZE * PAGE_SIZE, PAGE_SIZE)
        library = ctypes.CDLL(None, use_errno=True)
        library.vmsplice.restype = ctypes.c_ssize_t
        try:
            self._ends: tuple[int, ...] = os.pipe()
        except OSError as error:
            raise refused(error.errno or 0, attempt) from error
        try:
            one, none = ctypes.c_size_t(1), ctypes.c_uint(0)
            moved = library.vmsplice(self._ends[1], ctypes.byref(part), one, none)
            number = ctypes.get_errno() if moved < 0 else 0
            tell(file.recorder, "vmsplice", f"pipe fd {self._ends[1]}", -number or moved)
            if number:
                raise refused(number, attempt)
        except BaseException:
            self.close()
            raise

    @property
    def ends(self) -> tuple[int, ...]:
        """The pipe's descriptors; none once it is closed."""
        return self._ends

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)
