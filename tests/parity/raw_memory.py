# SPDX-License-Identifier: MIT
"""System calls on a guest_memfd's fd that pyvmm has no use for, and accesses that must fail."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import select
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.syscall.restype = ctypes.c_long
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_SYS_MBIND = 237
_SYS_GET_MEMPOLICY = 239
_MPOL_F_ADDR = 2
_SYS_USERFAULTFD = 323
_UFFD_API = 0xAA
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_ZEROPAGE = 0xC018_AA3F, 0xC020_AA00, 0xC020_AA04
_UFFDIO_REGISTER_MODE_MISSING = 1
_UFFD_MESSAGE_SIZE = 32
_NODES = 64
"""Bits in our node masks."""

MADV_COLLAPSE = 25
MPOL_DEFAULT, MPOL_BIND, MPOL_INTERLEAVE = 0, 2, 3


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _map(at: int, size: int, flags: int, fd: int) -> int:
    protection = _READ_WRITE if fd >= 0 else 0
    address = _libc.mmap(at or None, size, protection, flags, fd, 0)
    return _checked(-1 if address == _MAP_FAILED else int(address))


class Window:
    """Mapped memory: `size` bytes at `address`."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.view = memoryview((ctypes.c_char * size).from_address(address)).cast("B")

    def advise(self, advice: int) -> None:
        """madvise over all of it. Raises `OSError`."""
        _checked(_libc.madvise(self.address, len(self.view), advice))

    def set_policy(self, offset: int, size: int, mode: int, nodes: int) -> None:
        """mbind: NUMA `mode` with the mask `nodes` (0: none). Raises `OSError`."""
        mask = ctypes.byref(ctypes.c_ulong(nodes)) if nodes else None
        bits = _NODES if nodes else 0
        numbers = [ctypes.c_long(number) for number in (self.address + offset, size, mode)]
        rest = [ctypes.c_long(bits), ctypes.c_long(0)]
        _checked(_libc.syscall(ctypes.c_long(_SYS_MBIND), *numbers, mask, *rest))

    def policy(self, offset: int) -> tuple[int, int]:
        """The mode, and the mask of nodes, that hold at an offset. Raises `OSError`."""
        mode, nodes = ctypes.c_int(), ctypes.c_ulong()
        rest = [ctypes.c_long(n) for n in (_NODES + 1, self.address + offset, _MPOL_F_ADDR)]
        call = ctypes.c_long(_SYS_GET_MEMPOLICY)
        _checked(_libc.syscall(call, ctypes.byref(mode), ctypes.byref(nodes), *rest))
        return mode.value, nodes.value


@contextlib.contextmanager
def window(fd: int, size: int, flags: int = mmap.MAP_SHARED, align: int = 0) -> Iterator[Window]:
    """`size` bytes of a file from offset 0, also beyond its end. Raises `OSError`.

    `align`: the address is a multiple of it.
    """
    if not align:
        address = _map(0, size, flags, fd)
        reserved, room = address, size
    else:
        room = size + align
        reserved = _map(0, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        address = _map(-(-reserved // align) * align, size, flags | _MAP_FIXED, fd)
    try:
        yield Window(address, size)
    finally:
        _checked(_libc.munmap(reserved, room))


class Held:
    """Memory that nobody has touched: whoever does, the kernel included, waits in that."""

    def __init__(self, fd: int, address: int, size: int) -> None:
        self._fd = fd
        self._range = address, size

    def wait_for(self, toucher: Future[None]) -> None:
        """Return once somebody is waiting; fails where `toucher`, who should be, ends instead."""
        while not select.select([self._fd], [], [], 0.1)[0]:
            if toucher.done():
                toucher.result()
                raise AssertionError("the held memory has not been touched")
        os.read(self._fd, _UFFD_MESSAGE_SIZE)

    def let_go(self) -> None:
        """It is there from now on, all zeroes. Raises `OSError`."""
        self.ioctl(_UFFDIO_ZEROPAGE, *self._range, 0, 0)

    def ioctl(self, number: int, *words: int) -> None:
        """One of userfaultfd's, which all take 64-bit words. Raises `OSError`."""
        _checked(_libc.ioctl(self._fd, number, (ctypes.c_uint64 * len(words))(*words)))


def _userfaultfd() -> int:
    return _checked(_libc.syscall(ctypes.c_long(_SYS_USERFAULTFD), ctypes.c_long(os.O_CLOEXEC)))


def why_not_held() -> str | None:
    """Why `held` cannot be here: a kernel without userfaultfd, or that this user may not."""
    try:
        os.close(_userfaultfd())
    except OSError as error:
        return f"userfaultfd: {error.strerror} (vm.unprivileged_userfaultfd)"
    return None


@contextlib.contextmanager
def held(address: int, size: int) -> Iterator[Held]:
    """Have what touches [address, address + size), mapped memory, wait until it is let go.

    By userfaultfd; at the end it is let go. Raises `OSError`.
    """
    fd = _userfaultfd()
    try:
        held = Held(fd, address, size)
        held.ioctl(_UFFDIO_API, _UFFD_API, 0, 0)
        held.ioctl(_UFFDIO_REGISTER, address, size, _UFFDIO_REGISTER_MODE_MISSING, 0)
        yield held
    finally:
        os.close(fd)


def forked(access: Callable[[], object]) -> int:
    """A child process that does `access` and ends with status 0: its number, to be waited for.

    What the child writes into shared memory stays.
    """
    with warnings.catch_warnings():
        # The child touches memory and nothing else, least of all a lock of some other thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        faulthandler.disable()
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        try:
            access()
        finally:
            os._exit(0)
    return child


def signal_that_ended(child: int) -> int:
    """Wait for a child: the signal that ended it, 0 for none."""
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def signal_of(access: Callable[[], object]) -> int:
    """The signal that ends a child process which does `access`; 0 where it goes well."""
    return signal_that_ended(forked(access))
