# SPDX-License-Identifier: MIT
"""Taps: network devices of this machine whose frames a process reads and writes.

By TUNSETIFF and its kin (Linux' Documentation/networking/tuntap.rst, linux/if_tun.h). A tap that is
not persistent goes with its last descriptor, however its owner ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from pyvmm.errors import (
    HostLacksError,
    NoPermissionError,
    PyvmmError,
    SystemCallError,
    UsageError,
)
from pyvmm.net.device_names import LONGEST_NAME, is_device_name
from pyvmm.net.frames import HEADER_SIZE, NO_OFFLOADS, Offload, WireEndedError

DEVICE: Final = "/dev/net/tun"
MOST_QUEUES: Final = 256
"""Queues of a tap (MAX_TAP_QUEUES of drivers/net/tun.c)."""

_TUNSETIFF: Final = 0x4004_54CA
_TUNSETPERSIST: Final = 0x4004_54CB
_TUNSETOWNER: Final = 0x4004_54CC
_TUNSETOFFLOAD: Final = 0x4004_54D0
_TUNGETIFF: Final = 0x8004_54D2
_TUNSETVNETHDRSZ: Final = 0x4004_54D8
_TUNSETQUEUE: Final = 0x4004_54D9
_IFREQ: Final = struct.Struct("16sH22x")

_TAP: Final = 0x0002
_MULTI_QUEUE: Final = 0x0100
_ATTACH: Final = 0x0200
_DETACH: Final = 0x0400
_PERSIST: Final = 0x0800
_NO_PACKET_INFORMATION: Final = 0x1000
_HEADER: Final = 0x4000
"""IFF_VNET_HDR."""
_FLAGS: Final = _TAP | _NO_PACKET_INFORMATION | _HEADER
_NEW: Final = 0x8000
"""IFF_TUN_EXCL: a device that is there already is refused with EBUSY."""

_OLD_OFFLOADS: Final = Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN
_USO: Final = Offload.USO4 | Offload.USO6
WITHOUT_A_TAP: Final = "--net user needs none"


class TapQueue:
    """A queue of a tap: a descriptor, which is this object's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Descriptor of the queue, -1 after `close`."""
        return self._fd

    def close(self) -> None:
        """Close it, once. A tap made for a run goes with the last one."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def receive(self, views: Sequence[memoryview]) -> int:
        """Read a frame, as `WireQueue` has it."""
        try:
            count = os.readv(self._fd, views)
        except OSError as error:
            _tell_end(error)
            raise
        _say_one_buffer(views)
        return count

    def send(self, views: Sequence[memoryview]) -> None:
        """Write a frame, as `WireQueue` has it. Raises `OSError` (EIO) while the tap is down."""
        try:
            os.writev(self._fd, views)
        except OSError as error:
            _tell_end(error)
            raise


def _tell_end(error: OSError) -> None:
    """Raise `WireEndedError` for EBADFD, which a queue gives whose tap has been removed."""
    if error.errno == errno.EBADFD:
        raise WireEndedError("the tap has been removed") from error


def _say_one_buffer(views: Sequence[memoryview]) -> None:
    """Set `num_buffers`, which a tap leaves as it was, to 1."""
    at = HEADER_SIZE - 2
    value = b"\x01\x00"
    for view in views:
        if not value:
            return
        part = view[at : at + len(value)]
        part[:] = value[: len(part)]
        value = value[len(part) :]
        at = max(at - len(view), 0)


class TapWire:
    """A wire that is a tap. A context manager, which owns the descriptors of its queues."""

    def __init__(
        self, name: str, fds: Iterable[int], mtu: int | None = None, hold: int | None = None
    ) -> None:
        """Take over `fds`, with which frames have a header; `mtu` is the tap's, in bytes. `hold` is
        another descriptor that is closed with them.

        Raises `OSError`; the descriptors are still the caller's then.
        """
        held = list(fds)
        for fd in held:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
        self.name = name
        self.offloads = _offloads(held[0])
        self.mtu = mtu
        self._hold = hold
        self.queues: tuple[TapQueue, ...] = tuple(map(TapQueue, held))
        self._used = len(held)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors of its queues."""
        return tuple(queue.fileno() for queue in self.queues)

    def receive_with(self, wanted: Offload) -> None:
        """Have frames that come need no more than these offloads; those without what they build on
        count as not wanted (a segment needs a checksum, and USO is for both IPs or none)."""
        _set_offloads(self.queues[0].fileno(), wanted & self.offloads)

    def use_queues(self, count: int) -> None:
        """Have the kernel choose among the first `count` queues; the others are as of no tap."""
        used, self._used = self._used, count
        for queue in self.queues[min(used, count) : max(used, count)]:
            _use_queue(queue.fileno(), used=count > used)

    def close(self) -> None:
        """Close all queues, once. Somebody else who has them may use them all."""
        with suppress(OSError):  # The tap has been removed.
            self.use_queues(len(self.queues))
        hold, self._hold = self._hold, None
        for queue in self.queues:
            queue.close()
        if hold is not None:
            os.close(hold)

    def __enter__(self) -> TapWire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _use_queue(fd: int, *, used: bool) -> None:
    """Attach a queue to its tap, or detach it. Raises `OSError`, but not where it is so."""
    try:
        fcntl.ioctl(fd, _TUNSETQUEUE, _IFREQ.pack(b"", _ATTACH if used else _DETACH))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _offloads(fd: int) -> Offload:
    """Find what a tap can do, by having it do it; it does none of it afterwards."""
    found = NO_OFFLOADS
    for more in (_OLD_OFFLOADS, _USO):
        try:
            _set_offloads(fd, found | more)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            found |= more
    _set_offloads(fd, NO_OFFLOADS)
    return found


def _set_offloads(fd: int, wanted: Offload) -> None:
    if Offload.CHECKSUM not in wanted:
        wanted = NO_OFFLOADS
    if wanted & _USO != _USO:
        wanted &= ~_USO
    fcntl.ioctl(fd, _TUNSETOFFLOAD, int(wanted))


class AskedTap(NamedTuple):
    """A tap's name and its `IFF_` flags, as TUNGETIFF answers."""

    name: str
    flags: int

    @property
    def is_persistent(self) -> bool:
        """True for one that is there without a descriptor, too."""
        return bool(self.flags & _PERSIST)


def ask_tap(fd: int) -> AskedTap:
    """Ask a descriptor which tap it is of. Raises `OSError`: ENOTTY or EBADFD where of none."""
    answer = fcntl.ioctl(fd, _TUNGETIFF, _IFREQ.pack(b"", 0))
    name, flags = _IFREQ.unpack(answer)
    return AskedTap(os.fsdecode(name.rstrip(b"\0")), flags)


class OpenedTap(NamedTuple):
    """A tap's name, its queues' descriptors, which are the caller's, and whether it is new.

    `hold` is a descriptor, the caller's too, that keeps other runs away from one that is not.
    """

    name: str
    fds: tuple[int, ...]
    is_new: bool
    hold: int | None = None


def open_tap(name: str | None, queues: int = 1) -> OpenedTap:
    """Open a tap of the calling thread's network namespace, or make one that goes with its queues.

    `name` of None has the kernel choose one. Raises as `make_tap` and `attach_tap`.
    """
    made = make_tap(name, queues)
    return attach_tap(name or "", queues) if made is None else made


def make_tap(name: str | None, queues: int = 1) -> OpenedTap | None:
    """Make a tap in the calling thread's network namespace; None where the name is taken.

    It is down, and goes with its queues. Raises `UsageError` for what is no name,
    `HostLacksError`, `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"make the tap {name}" if name else "make a tap"
    _require_name(name, attempt)
    flags = _FLAGS | (_MULTI_QUEUE if queues > 1 else 0)
    with ExitStack() as unwanted:
        fds: list[int] = []
        for _ in range(queues):
            fds.append(_open_device(attempt, unwanted))
            try:
                name = _attach(fds[-1], name or "", flags if fds[1:] else flags | _NEW)
            except OSError as error:
                if error.errno == errno.EBUSY and name and not fds[1:]:
                    return None
                raise _refused(attempt, error, _NOT_MADE) from error
        unwanted.pop_all()
        return OpenedTap(name or "", tuple(fds), is_new=True)


def attach_tap(name: str, queues: int = 1) -> OpenedTap:
    """Attach queues to a persistent tap of the calling thread's network namespace, as it is.

    Raises `UsageError` for one that is somebody else's at the moment, is down, or has another kind
    of queues; `HostLacksError`, `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"use the tap {name}"
    with ExitStack() as unwanted:
        hold = _hold(name, attempt)
        unwanted.callback(os.close, hold)
        fds = [_open_device(attempt, unwanted)]
        flags = _FLAGS | _MULTI_QUEUE
        try:
            try:
                _attach(fds[0], name, flags)
            except OSError as error:
                if error.errno != errno.EINVAL or queues > 1:
                    raise
                flags = _FLAGS
                _attach(fds[0], name, flags)
            _require_usable(ask_tap(fds[0]), attempt)
            for _ in range(queues - 1):
                fds.append(_open_device(attempt, unwanted))
                _attach(fds[-1], name, flags)
        except OSError as error:
            raise _refused(attempt, error, _NOT_ATTACHED, queues) from error
        unwanted.pop_all()
        return OpenedTap(name, tuple(fds), is_new=False, hold=hold)


def _require_name(name: str | None, attempt: str) -> None:
    if name is not None and not is_device_name(name):
        cause = f"{name!r} is no name of a network device"
        raise UsageError(attempt, cause, f"give at most {LONGEST_NAME} letters and digits")


def _require_usable(tap: AskedTap, attempt: str) -> None:
    if not tap.is_persistent:
        # Another process's of several queues, or it went and this attempt has made a new one.
        raise UsageError(attempt, "it is another process's", "give another name")
    if not tap.flags & _HEADER or not tap.flags & _NO_PACKET_INFORMATION:
        raise UsageError(attempt, "another process has it, with other headers", "end that first")


def _hold(name: str, attempt: str) -> int:
    """Bind a socket's name, of which a network namespace has each once, and which goes by itself.

    The kernel itself lets any number of processes have queues of a tap that may have several.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0pyvmm/tap/{name}")
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(attempt, "another run has it", "give another name") from error
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    return held.detach()


def _attach(fd: int, name: str, flags: int) -> str:
    answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))
    return os.fsdecode(_IFREQ.unpack(answer)[0].rstrip(b"\0"))


def _open_device(attempt: str, unwanted: ExitStack) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        cause = f"there is no {DEVICE}"
        raise HostLacksError(attempt, cause, f"modprobe tun; {WITHOUT_A_TAP}") from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            cause = f"{DEVICE} has no driver"
            raise HostLacksError(attempt, cause, f"modprobe tun; {WITHOUT_A_TAP}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            cause = f"{DEVICE} may not be opened"
            raise NoPermissionError(attempt, cause, WITHOUT_A_TAP) from error
        raise SystemCallError(attempt, error.errno or 0, f"{DEVICE}: {error.strerror}") from error
    unwanted.callback(os.close, fd)
    return fd


_NOT_MADE: Final = {errno.EINVAL: ("the kernel takes no such name", "give another name")}
_NOT_ATTACHED: Final = {
    errno.EBUSY: ("another process has it", "give another name"),
    errno.EINVAL: ("there is a network device of that name that is no tap", "give another name"),
}


def _refused(
    attempt: str, error: OSError, reasons: dict[int, tuple[str, str]], queues: int = 1
) -> PyvmmError:
    number = error.errno or 0
    if number == errno.EPERM:
        if reasons is _NOT_ATTACHED:
            cause, remedy = "it is another user's", "have it made for you"
        else:
            cause, remedy = "it needs CAP_NET_ADMIN in its network namespace", "have one made"
        made = f"ip tuntap add NAME mode tap user {os.getuid()} vnet_hdr"
        return NoPermissionError(attempt, cause, f"{remedy} ({made}); {WITHOUT_A_TAP}")
    if number == errno.E2BIG:
        return UsageError(attempt, f"a tap has at most {MOST_QUEUES} queues", "give fewer")
    if number == errno.EINVAL and queues > 1:
        cause = "it is no tap of several queues"
        return UsageError(attempt, cause, "give queues=1, or make one with multi_queue")
    if number in reasons:
        return UsageError(attempt, *reasons[number])
    return SystemCallError(attempt, number, error.strerror or "")


def keep_tap(fd: int, *, user: int | None = None) -> None:
    """Have a tap outlive its descriptors (`user` is who may open it without CAP_NET_ADMIN).

    Raises `OSError`.
    """
    if user is not None:
        fcntl.ioctl(fd, _TUNSETOWNER, user)
    fcntl.ioctl(fd, _TUNSETPERSIST, 1)


def adopt_taps(fds: Sequence[int], attempt: str) -> tuple[int, ...]:
    """Copy descriptors of a tap's queues that somebody else has opened; copies are the caller's.

    They share their giver's file: it does not block from now on. Raises `UsageError` for what is no
    tap with a header, and for queues of different taps; `SystemCallError`. That frames begin with
    packet information cannot be seen: TUNGETIFF has IFF_NOFILTER in the place of IFF_NO_PI.
    """
    with ExitStack() as unwanted:
        copies: list[int] = []
        of = ""
        for fd in fds:
            try:
                copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                unwanted.callback(os.close, copy)
                asked = ask_tap(copy)
            except OSError as error:
                cause = f"descriptor {fd} is no tap's: {error.strerror}"
                raise UsageError(attempt, cause, "give what TUNSETIFF was asked on") from error
            if not asked.flags & _TAP or not asked.flags & _HEADER:
                cause = f"descriptor {fd} is of {asked.name}, whose frames have no header"
                remedy = "give TUNSETIFF IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
                raise UsageError(attempt, cause, remedy)
            of = of or asked.name
            if asked.name != of:
                raise UsageError(attempt, f"they are of {of} and {asked.name}", "give one tap's")
            os.set_blocking(copy, False)
            copies.append(copy)
        unwanted.pop_all()
        return tuple(copies)
