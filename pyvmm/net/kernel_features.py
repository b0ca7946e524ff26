# SPDX-License-Identifier: MIT
"""Features of the kernel's networking, asked for with a message of netlink each (netlink(7)).

Without pyroute2, which takes long to import, or may not be there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from functools import partial
from typing import Final

from pyvmm.errors import PyvmmError
from pyvmm.net.namespaces import new_namespace, within

_ROUTE, _NETFILTER = 0, 12
"""NETLINK_ROUTE, NETLINK_NETFILTER."""
_HEADER: Final = struct.Struct("=IHHII")
_ERROR: Final = 2
"""NLMSG_ERROR."""
_REQUEST, _ACKNOWLEDGED, _EXCLUSIVE, _CREATE = 1, 4, 0x200, 0x400
_NFT_GET_GENERATION: Final = 10 << 8 | 16
"""NFT_MSG_GETGEN of NFNL_SUBSYS_NFTABLES."""
_NEW_QDISC: Final = 36
_TC_MESSAGE: Final = struct.Struct("=BxxxiIII")
_TC_ROOT: Final = 0xFFFF_FFFF
_TCA_KIND, _TCA_OPTIONS = 1, 2
_NETEM_OPTIONS: Final = struct.Struct("=IIIIII")
_LOOPBACK: Final = 1
_DELETE_LINK: Final = 17
_LINK_MESSAGE: Final = struct.Struct("=BxHiII")
_NO_INDEX: Final = (1 << 31) - 1
_SYS_ADMIN: Final = 21
"""Bit of a set of capabilities (capabilities(7))."""
_CAPABILITY_VERSION_3: Final = 0x2008_0522


def missing_capabilities() -> list[str]:
    """List those that making links and namespaces takes here, and the calling thread has not.

    CAP_NET_ADMIN is asked of the network namespace, which may be another user namespace's: by the
    removal of a device that cannot be, which who has it not is refused before (rtnetlink(7)).
    """
    missing = []
    nothing = _LINK_MESSAGE.pack(0, 0, _NO_INDEX, 0, 0)
    if _asked(_ROUTE, _DELETE_LINK, _REQUEST | _ACKNOWLEDGED, nothing) == errno.EPERM:
        missing.append("CAP_NET_ADMIN")
    if not _effective_capabilities() >> _SYS_ADMIN & 1:
        missing.append("CAP_SYS_ADMIN")
    return missing


def _effective_capabilities() -> int:
    """The first 32 capabilities of the calling thread that are in effect, a bit each (capget(2)).

    Not read in /proc, which need not be mounted.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capget(header, sets)  # It fails for other versions and threads only.
    return sets[0]


def why_no_nftables() -> str:
    """Say why nothing can be masqueraded in this network namespace; "" where it can be."""
    return _why(_asked(_NETFILTER, _NFT_GET_GENERATION, _REQUEST, bytes(4)))


def why_no_netem() -> str:
    """Say why links cannot lose and delay packets, in a namespace that is made for it; "" where
    they can.
    """
    kind = struct.pack("=HH8s", 12, _TCA_KIND, b"netem\0")
    options = _NETEM_OPTIONS.pack(0, 1000, 0, 0, 0, 0)
    attribute = struct.pack("=HH", 4 + len(options), _TCA_OPTIONS) + options
    message = _TC_MESSAGE.pack(0, _LOOPBACK, 0, _TC_ROOT, 0) + kind + attribute
    flags = _REQUEST | _ACKNOWLEDGED | _CREATE | _EXCLUSIVE
    try:
        namespace = new_namespace()
    except PyvmmError as error:
        return error.cause
    try:
        return _why(within(namespace, partial(_asked, _ROUTE, _NEW_QDISC, flags, message)))
    finally:
        os.close(namespace)


def _why(number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return "it needs CAP_NET_ADMIN"
    return "the kernel has none" if number else ""


def _asked(protocol: int, kind: int, flags: int, payload: bytes) -> int:
    """Ask one question; its answer's errno, 0 where it is none."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        ) as asking:
            asking.settimeout(1)
            asking.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload)
            answer = asking.recv(1 << 16)
    except OSError as error:
        return error.errno or errno.EIO
    if len(answer) < _HEADER.size + 4 or _HEADER.unpack_from(answer)[1] != _ERROR:
        return 0
    return -int(struct.unpack_from("=i", answer, _HEADER.size)[0])
