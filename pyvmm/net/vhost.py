# SPDX-License-Identifier: MIT
"""vhost-net: a pair of virtqueues whose frames the host's kernel moves to and from a tap.

Structures and requests are those of ``<linux/vhost.h>`` and ``<linux/vhost_types.h>``; what the
kernel makes of them is in ``drivers/vhost/net.c`` and ``vhost.c``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError
from pyvmm.hosts.owner import Owner

DEVICE: Final = "/dev/vhost-net"
RECEIVE: Final = 0
"""Number of the ring that the guest receives by (VHOST_NET_VQ_RX)."""
TRANSMIT: Final = 1
"""Number of the ring that it sends by (VHOST_NET_VQ_TX)."""

STATE: Final = struct.Struct("=II")
"""``struct vhost_vring_state``: ring, number."""
FILE: Final = struct.Struct("=Ii")
"""``struct vhost_vring_file``: ring, descriptor or -1."""
ADDRESSES: Final = struct.Struct("=IIQQQQ")
"""``struct vhost_vring_addr``: ring, flags, HVAs of descriptors, used and available ring, log."""
FEATURES: Final = struct.Struct("=Q")
MEMORY: Final = struct.Struct("=II")
"""Head of ``struct vhost_memory``: number of regions, padding."""
REGION: Final = struct.Struct("=QQQQ")
"""``struct vhost_memory_region``: GPA, bytes, HVA, flags (none are defined)."""

_TYPE: Final = 0xAF
_WRITE, _READ = 1, 2
_NOBODY: Final = -1
_LAST: Final = 0xFFFF


def _request(direction: int, number: int, size: int) -> int:
    """Number of an ioctl (``<asm-generic/ioctl.h>``)."""
    return direction << 30 | size << 16 | _TYPE << 8 | number


GET_FEATURES: Final = _request(_READ, 0x00, FEATURES.size)
SET_FEATURES: Final = _request(_WRITE, 0x00, FEATURES.size)
SET_OWNER: Final = _request(0, 0x01, 0)
SET_MEM_TABLE: Final = _request(_WRITE, 0x03, MEMORY.size)
SET_VRING_NUM: Final = _request(_WRITE, 0x10, STATE.size)
SET_VRING_ADDR: Final = _request(_WRITE, 0x11, ADDRESSES.size)
SET_VRING_BASE: Final = _request(_WRITE, 0x12, STATE.size)
GET_VRING_BASE: Final = _request(_WRITE | _READ, 0x12, STATE.size)
SET_VRING_KICK: Final = _request(_WRITE, 0x20, FILE.size)
SET_VRING_CALL: Final = _request(_WRITE, 0x21, FILE.size)
SET_VRING_ERR: Final = _request(_WRITE, 0x22, FILE.size)
NET_SET_BACKEND: Final = _request(_WRITE, 0x30, FILE.size)

REQUESTS: Final = {
    GET_FEATURES: "VHOST_GET_FEATURES",
    SET_FEATURES: "VHOST_SET_FEATURES",
    SET_OWNER: "VHOST_SET_OWNER",
    SET_MEM_TABLE: "VHOST_SET_MEM_TABLE",
    SET_VRING_NUM: "VHOST_SET_VRING_NUM",
    SET_VRING_ADDR: "VHOST_SET_VRING_ADDR",
    SET_VRING_BASE: "VHOST_SET_VRING_BASE",
    GET_VRING_BASE: "VHOST_GET_VRING_BASE",
    SET_VRING_KICK: "VHOST_SET_VRING_KICK",
    SET_VRING_CALL: "VHOST_SET_VRING_CALL",
    SET_VRING_ERR: "VHOST_SET_VRING_ERR",
    NET_SET_BACKEND: "VHOST_NET_SET_BACKEND",
}
"""Names of the requests, by number."""

_NO_FRAME_HEADER: Final = 1 << 27
"""VHOST_NET_F_VIRTIO_NET_HDR: the tap has no virtio header, so the kernel makes one."""
_LOG_ALL: Final = 1 << 26
"""VHOST_F_LOG_ALL: every page that is written is logged."""
_ACCESS_PLATFORM: Final = 1 << 33
"""VIRTIO_F_ACCESS_PLATFORM: here, that the kernel asks for each address."""
_MERGED: Final = 1 << 15
"""VIRTIO_NET_F_MRG_RXBUF."""
_VERSION_1: Final = 1 << 32
NEEDED: Final = _MERGED | _VERSION_1
"""Features without which a card would be another one than without vhost-net."""
_NOT_ASKED_FOR: Final = _NO_FRAME_HEADER | _LOG_ALL | _ACCESS_PLATFORM


class HostRegion(NamedTuple):
    """Guest memory in this process: GPA, length in bytes, HVA, all page-aligned."""

    gpa: int
    size: int
    hva: int


class VhostRing(NamedTuple):
    """A split ring that is to be served.

    `descriptors`, `available` and `used` are HVAs; `position` is the next chain to take, a
    free-running number of 16 bits. The others are descriptors, of which the kernel has references
    of its own: eventfds that the guest rings, that interrupt it, that tell of a ring which cannot
    be understood; and the tap, with a header of 12 bytes before each frame.
    """

    size: int
    descriptors: int
    available: int
    used: int
    position: int
    kick: int
    call: int
    error: int
    tap: int


class Ioctl(Protocol):
    """`fcntl.ioctl` as it is used here: `argument` is read, and written where the request does."""

    def __call__(self, fd: int, request: int, argument: bytearray, /) -> int:
        """Do the request. Raises `OSError`."""
        ...


class VhostNet(Owner):
    """An open vhost-net device: two rings, `RECEIVE` and `TRANSMIT`, served one by one.

    It works on the memory of the process that has made it, until a ring is stopped or the device
    closed. Any thread; a ring is started and stopped by one at a time. Every method raises
    `SystemCallError`.
    """

    def __init__(self, fd: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        """Takes over `fd`, which is closed here where this raises."""
        self._fd = fd
        self._ioctl = ioctl
        self._memory: tuple[HostRegion, ...] = ()
        self._in_force = _NO_FRAME_HEADER  # What it never is.
        self._running: set[int] = set()
        self._lock = threading.Lock()
        try:
            self._call(SET_OWNER, bytearray())
            offered = bytearray(FEATURES.size)
            self._call(GET_FEATURES, offered)
        except BaseException:
            self.close()
            raise
        self.features: int = FEATURES.unpack(offered)[0] & ~_NOT_ASKED_FOR
        """Features of virtio's that the kernel knows; others are not its business."""

    def fileno(self) -> int:
        """Descriptor of the device; -1 once closed."""
        return self._fd

    def set_up(self, features: int, memory: Sequence[HostRegion]) -> None:
        """Note the driver's features, and where in this process guest memory is.

        What is in force already is not set again. With a ring running only the same may be set:
        the two are both rings'.
        """
        wanted = features & self.features
        regions = tuple(memory)
        with self._lock:
            if wanted != self._in_force:
                self._call(SET_FEATURES, bytearray(FEATURES.pack(wanted)))
                self._in_force = wanted
            if regions != self._memory:
                table = bytearray(MEMORY.pack(len(regions), 0))
                for gpa, size, hva in regions:
                    table += REGION.pack(gpa, size, hva, 0)
                self._call(SET_MEM_TABLE, table)
                self._memory = regions

    def start(self, number: int, ring: VhostRing) -> None:
        """Serve a ring from now on, and look at it once; where this raises it is not served."""
        try:
            self._set(SET_VRING_NUM, STATE, number, ring.size)
            self._set(SET_VRING_BASE, STATE, number, ring.position)
            places = (ring.descriptors, ring.used, ring.available)
            self._call(SET_VRING_ADDR, bytearray(ADDRESSES.pack(number, 0, *places, 0)))
            self._set(SET_VRING_KICK, FILE, number, ring.kick)
            self._set(SET_VRING_CALL, FILE, number, ring.call)
            self._set(SET_VRING_ERR, FILE, number, ring.error)
            self._set(NET_SET_BACKEND, FILE, number, ring.tap)
        except BaseException:
            self._let_go(number)
            raise
        self._running.add(number)
        # What was made available before the kernel looked has been rung for already.
        os.eventfd_write(ring.kick, 1)

    def stop(self, number: int) -> int:
        """Serve a ring no more. Return the next chain to take, as `VhostRing.position`.

        What the kernel has taken is given back when this returns, and no frame of the ring's is
        under way. Where this raises the device is closed.
        """
        try:
            self._set(NET_SET_BACKEND, FILE, number, _NOBODY)
        except BaseException:
            self.close()
            raise
        self._running.discard(number)
        state = bytearray(STATE.pack(number, 0))
        self._call(GET_VRING_BASE, state)
        self._let_go(number)
        position: int = STATE.unpack(state)[1]
        return position & _LAST

    @property
    def running(self) -> frozenset[int]:
        """Numbers of the rings that are served."""
        return frozenset(self._running)

    def close(self) -> None:
        """Stop both rings; a second call does nothing."""
        fd, self._fd = self._fd, -1
        self._running.clear()
        if fd >= 0:
            os.close(fd)

    def _let_go(self, number: int) -> None:
        """Have the kernel give up its references; of a ring that is not served any more."""
        for request in (NET_SET_BACKEND, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            self._set(request, FILE, number, _NOBODY)

    def _set(self, request: int, kind: struct.Struct, number: int, value: int) -> None:
        self._call(request, bytearray(kind.pack(number, value)))

    def _call(self, request: int, argument: bytearray) -> None:
        try:
            self._ioctl(self._fd, request, argument)
        except OSError as error:
            name = REQUESTS[request]
            number = error.errno or 0
            raise SystemCallError(
                f"have the host's kernel serve a network card ({name})",
                number,
                error.strerror or "",
                "give vhost=off",
            ) from error


def open_vhost(path: str = DEVICE) -> VhostNet:
    """Open a vhost-net device. The process is its owner from then on.

    Raises `HostLacksError` where there is none, or one without what a card needs,
    `NoPermissionError` and `SystemCallError`.
    """
    attempt = f"open {path}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        number = error.errno or 0
        cause = (error.strerror or "").lower()
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise HostLacksError(
                attempt,
                "this host's kernel has no vhost-net",
                "load it (modprobe vhost_net) or give vhost=off",
            ) from error
        if number in (errno.EACCES, errno.EPERM):
            raise NoPermissionError(
                attempt, cause, "join the group that may (on Debian kvm) or give vhost=off"
            ) from error
        raise SystemCallError(attempt, number, cause, "give vhost=off") from error
    vhost = VhostNet(fd)
    lacking = NEEDED & ~vhost.features
    if lacking:
        vhost.close()
        raise HostLacksError(
            attempt,
            f"this host's vhost-net lacks features that a card has ({lacking:#x})",
            "give vhost=off",
        )
    return vhost
